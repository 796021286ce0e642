"""`charloom watch FILE|- [--follow]`."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from charloom.cli import CommandError
from charloom.cli.connection import add_connection_arguments, connected
from charloom.cli.sessions.lasting_watch import POLL, LastingWatch, Stopped
from charloom.cli.sessions.tail import Lines, Position, Tail, TailedLine, require_place
from charloom.cli.sessions.webhook import Webhook, address
from charloom.client import Client, Verdict

FOUND_ALERTS = 3
"""Exit status where there were alerts, or silent sources."""
BATCH = 256
"""Lines that are judged at a time, at most."""
MOST_SILENT = 30 * 86_400
"""Seconds without a line that a server can be asked to tell, at most."""
KEPT = 86_400
"""Seconds for which a source is kept without a line: so a log that rests at night is still known in the morning."""
MARKED = 4.6
"""Nats from which on a character is marked: the model gave it one in a hundred."""
_STOPPING = (signal.SIGINT, signal.SIGTERM)


class Taken(NamedTuple):
    """A line with what is told of it."""

    source: str
    content: bytes
    cut: bool
    id: str
    """Its file and place: the same when it is told again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("file", metavar="FILE", help="the file; - reads stdin")
    parser.add_argument("--follow", action="store_true", help="wait for more lines, also when the file is replaced")
    parser.add_argument(
        "--position", type=Path, metavar="FILE", help="remember how far the file was read, and go on there next time"
    )
    parser.add_argument("--name", help="of the watch, under which the server knows its sources (default: of the file)")
    parser.add_argument("--source", metavar="NAME", help="who writes the lines (default: the name of the file)")
    parser.add_argument(
        "--source-field", type=int, metavar="N", help="take the source from field N of each line, counted from 1"
    )
    parser.add_argument(
        "--skip-fields", type=int, default=0, metavar="N", help="leave out the first N fields of each line, as times"
    )
    parser.add_argument("--model", metavar="NAME", help="name of the model (default: the server's first one)")
    parser.add_argument(
        "--mask",
        choices=("none", "digits", "numbers"),
        help="which numbers are made alike (default: as the model was trained)",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=0.001,
        help="share of lines that may be alerts while nothing unusual happens (default: 0.001)",
    )
    parser.add_argument(
        "--warm-up",
        type=int,
        default=100,
        metavar="N",
        help="lines of a source before its own threshold; default: 100",
    )
    parser.add_argument(
        "--time-to-live",
        type=int,
        default=KEPT,
        metavar="SECONDS",
        help="how long the server keeps what it knows of a source after its last line (default: a day)",
    )
    parser.add_argument(
        "--silent-after",
        type=float,
        metavar="SECONDS",
        help="also tell, as alerts, sources that spoke and then said nothing for so long (with --follow or -)",
    )
    parser.add_argument(
        "--adaptive", action="store_true", help="let sources that are new learn from their lines; default: they do not"
    )
    parser.add_argument("--all", action="store_true", help="print every line, not alerts alone")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each line")
    parser.add_argument("--webhook", type=address, metavar="URL", help="post alerts there, as JSON")
    add_connection_arguments(parser, serverless=True, but="; a watch has no limit")


def run(arguments: argparse.Namespace) -> int:
    """Print the lines that are unlike those before; 3 where there were any, or sources fell silent."""
    if arguments.file == "-" and (arguments.position is not None or arguments.follow):
        raise CommandError("stdin has no position and is read to its end; leave out --position and --follow")
    if arguments.skip_fields < 0 or (arguments.source_field is not None and arguments.source_field < 1):
        raise CommandError("--source-field counts from 1, and --skip-fields from 0")
    if "" in (arguments.name, arguments.source):
        raise CommandError("--name and --source are not empty; give a name, or leave the flag out")
    if arguments.silent_after is not None and not 1 <= arguments.silent_after <= MOST_SILENT:
        raise CommandError(f"--silent-after is from 1 to {MOST_SILENT} seconds")
    if arguments.silent_after is not None and not (arguments.follow or arguments.file == "-"):
        raise CommandError("a file that is not followed has no silence; add --follow, or leave out --silent-after")
    watcher = Watcher(arguments)
    if arguments.position is not None:
        require_place(arguments.position)
    with _stopped_gently(watcher), connected(arguments) as client:
        watcher.watch(client)
    print(watcher.summary, file=sys.stderr)
    return FOUND_ALERTS if watcher.alerts or watcher.silences else 0


class Watcher:
    """Takes lines from a file to a server, and tells what it makes of them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.stopping = False
        """Whether to end after the lines that are being judged."""
        self.lines = self.alerts = self.silences = self._judged = 0
        self._arguments = arguments
        self._source = _source(arguments)
        self._name = arguments.name or re.sub(r"[^A-Za-z0-9_-]", "-", self._source)[:32]
        self._webhook = Webhook(arguments.webhook) if arguments.webhook else None
        self._drifting: set[str] = set()
        self._coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    @property
    def summary(self) -> str:
        """What was done."""
        counts = [(self.lines, "line"), (self.alerts, "alert")]
        if self._arguments.silent_after is not None:
            counts.append((self.silences, "silence"))
        done = ", ".join(f"{count:,} {what}{'s' * (count != 1)}" for count, what in counts)
        if self._judged or not self.lines:
            return done
        needed = max(self._arguments.warm_up, math.ceil(1 / self._arguments.rate))
        return f"{done}; none was judged, for a threshold takes {needed:,} lines before (--rate, --warm-up)"

    def watch(self, client: Client) -> None:
        """Until the end of the file, or until it is stopped."""
        options, patient = self._options(), self._arguments.follow
        # What had no answer when it was stopped is not told, and comes after the position that was noted last.
        with suppress(Stopped), LastingWatch(client, options, lambda: self.stopping, patient=patient) as watch:
            if self._arguments.file == "-":
                self._read_stdin(watch)
            else:
                self._read_file(watch)

    def _options(self) -> dict[str, Any]:
        arguments = self._arguments
        return {
            "name": self._name,
            "model": arguments.model,
            "mask": arguments.mask,
            "rate": arguments.rate,
            "warm_up": arguments.warm_up,
            "characters": True,
            "time_to_live": arguments.time_to_live,
            "silent_after": arguments.silent_after,
            "adaptive": arguments.adaptive,
        }

    def _read_stdin(self, watch: LastingWatch) -> None:
        if sys.stdin is None:
            raise CommandError("standard input is closed; give a file")
        lines = Lines()
        while not self.stopping:
            self._tell_silent(watch.silent())
            if not select.select([sys.stdin], [], [], POLL)[0]:
                watch.rest()
                continue
            data = os.read(sys.stdin.fileno(), 65_536)
            found = list(lines.feed(data)) if data else [last for last in (lines.last(),) if last is not None]
            taken = [self._taken(line, f"stdin:{line.end}") for line in found]
            while taken:
                taken = taken[self._judge(watch, taken) :]
            if not data:
                return

    def _read_file(self, watch: LastingWatch) -> None:
        arguments, path = self._arguments, Path(self._arguments.file)
        kept: Path | None = arguments.position
        noted = Position.read(kept) if kept else None
        with closing(Tail(path, noted)) as tail:
            if not (arguments.follow or tail.there):
                raise CommandError(f"there is no file {path}; give another, or --follow to wait for it")
            gone = False
            while not self.stopping:
                found = tail.read(to_the_end=not arguments.follow)
                inode = tail.position.inode if tail.position else 0
                taken = [self._taken(line, f"{inode}:{line.end}") for line in found]
                told = 0
                while told < len(taken):
                    told += self._judge(watch, taken[told:])
                    noted = _noted(kept, tail.after(found[told - 1]), noted)
                self._tell_silent(watch.silent())
                noted = _noted(kept, tail.position, noted)
                if not found:
                    if not arguments.follow:
                        break
                    if gone != (not tail.there):
                        gone = not gone
                        print(f"{path} {'does not exist; waiting for it' if gone else 'is there'}", file=sys.stderr)
                    watch.rest()
                    time.sleep(POLL)

    def _taken(self, line: TailedLine, id: str) -> Taken:
        arguments, content, source = self._arguments, line.content, self._source
        if arguments.source_field is not None:
            fields = content.split(None, arguments.source_field)
            if len(fields) >= arguments.source_field:
                source = fields[arguments.source_field - 1].decode("utf-8", "replace")
        if arguments.skip_fields:
            fields = content.split(None, arguments.skip_fields)
            content = fields[arguments.skip_fields] if len(fields) > arguments.skip_fields else b""
        return Taken(source, content, line.cut, id)

    def _judge(self, watch: LastingWatch, taken: Sequence[Taken]) -> int:
        """Tell what the server makes of the first lines, as many as it answers together; returns how many these are."""
        verdicts = watch.read([(line.source, line.content) for line in taken[:BATCH]])
        self._tell(list(zip(taken, verdicts, strict=False)))
        return len(verdicts)

    def _tell(self, judged: Sequence[tuple[Taken, Verdict]]) -> None:
        alerts = []
        for taken, verdict in judged:
            self.lines += 1
            self.alerts += verdict.alert
            self._judged += verdict.threshold is not None
            if verdict.drifting != (verdict.source in self._drifting):
                self._drifting ^= {verdict.source}
                if verdict.drifting:
                    print(f"{verdict.source!r} drifts: its lines are no more what they were", file=sys.stderr)
            facts = _facts(taken, verdict)
            if verdict.alert:
                alerts.append(facts)
            if verdict.alert or self._arguments.all:
                print(json.dumps(facts) if self._arguments.json else self._shown(verdict))
        sys.stdout.flush()
        self._post(alerts)

    def _tell_silent(self, sources: Sequence[str]) -> None:
        after = self._arguments.silent_after
        facts = [{"event": "silent", "source": source, "seconds": after} for source in sources]
        for fact in facts:
            told = f"! silent {printable(str(fact['source']))}: no line for {after:g} s"
            print(json.dumps(fact) if self._arguments.json else told, flush=True)
        self.silences += len(facts)
        self._post(facts)

    def _post(self, alerts: Sequence[dict[str, Any]]) -> None:
        if alerts and self._webhook is not None and (problem := self._webhook.post(alerts)):
            print(problem, file=sys.stderr)

    def _shown(self, verdict: Verdict) -> str:
        threshold = "-" if verdict.threshold is None else f"{verdict.threshold:.2f}"
        sign = "!" if verdict.alert else " "
        text = marked(verdict.text, verdict.characters, coloured=self._coloured)
        return f"{sign} {verdict.surprise:6.2f} {threshold:>6} {printable(verdict.source)}: {text}"


def _source(arguments: argparse.Namespace) -> str:
    """Who writes the lines, where these do not say so themselves."""
    source: str = arguments.source or Path(arguments.file).name
    try:
        source.encode()
    except UnicodeEncodeError:
        raise CommandError(f"the name {printable(source)} is not UTF-8; give --source NAME, which is") from None
    return source


def _noted(kept: Path | None, position: Position | None, before: Position | None) -> Position | None:
    """Have a file hold a position, where there is a file and it holds another one; returns what it holds."""
    if kept is None or position is None or position == before:
        return before
    position.write(kept)
    return position


def marked(text: str, surprisals: Sequence[float], *, coloured: bool) -> str:
    """A line with the characters that the model did not expect in reverse video, or between »«, and none that acts."""
    on, off = ("\x1b[7m", "\x1b[27m") if coloured else ("»", "«")
    shown, inside = [], False
    for place, character in enumerate(text):
        strange = place < len(surprisals) and surprisals[place] >= MARKED
        if strange != inside:
            shown.append(on if strange else off)
            inside = strange
        shown.append(printable(character))
    return "".join(shown) + (off if inside else "")


def printable(text: str) -> str:
    """Text without characters that a terminal would act on."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _facts(taken: Taken, verdict: Verdict) -> dict[str, Any]:
    return {
        "id": taken.id,
        "source": verdict.source,
        "text": verdict.text,
        "surprise": round(verdict.surprise, 4),
        "threshold": None if verdict.threshold is None else round(verdict.threshold, 4),
        "alert": verdict.alert,
        "own_threshold": verdict.own_threshold,
        "drifting": verdict.drifting,
        "cut": verdict.cut or taken.cut,
        "nats": round(verdict.nats, 4),
        "characters": [round(nats, 3) for nats in verdict.characters],
    }


@contextmanager
def _stopped_gently(watcher: Watcher) -> Iterator[None]:
    """The first signal lets the lines be told that are being judged; a second one ends the command."""

    def stop(number: int, _: object) -> None:
        if watcher.stopping:
            raise KeyboardInterrupt
        watcher.stopping = True

    with ExitStack() as former:
        for number in _STOPPING:
            former.callback(signal.signal, number, signal.signal(number, stop))
        yield
