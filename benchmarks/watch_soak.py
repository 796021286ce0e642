"""A file that grows for minutes, watched: every line told once, whatever happens to file, command and server.

    python -m benchmarks.watch_soak [--bundle DIRECTORY] [--minutes 10] [--json]

A writer adds numbered lines, each in two halves; every few seconds it renames the file and begins a new one, or
truncates it once all of it was told: what is truncated before is lost to any reader. `charloom watch --follow
--position` reads it; it is stopped by SIGTERM and started again now and then, and so is the server, whose sessions are
in SQLite. "lost" and "twice" count lines that were told never or more than once. Needs the server and training extras.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.processes import CHARLOOM, HOST, free_ports, hardware, serving
from benchmarks.reporting import finish, new_parser, say, some_minutes
from benchmarks.watch_sources import made_bundle

ROTATES, TRUNCATES, RESTARTS, SERVER_RESTARTS = 7.0, 17.0, 23.0, 61.0
"""Seconds between two of each."""
ENDS = 60.0


class Writer(threading.Thread):
    """Writes numbered lines until it is told to stop."""

    def __init__(self, path: Path, told: Path) -> None:
        super().__init__()
        self._told = told
        self.lines = self.rotations = self.truncations = 0
        self.stop = threading.Event()
        self._path = path

    def run(self) -> None:
        rotated = truncated = time.monotonic()
        file = self._path.open("a", encoding="utf-8")
        while not self.stop.is_set():
            for part in (f"line {self.lines} was", " written\n"):
                file.write(part)
                file.flush()
                time.sleep(0.005)
            self.lines += 1
            now = time.monotonic()
            if now - rotated > ROTATES:
                rotated, self.rotations = now, self.rotations + 1
                file.close()
                self._path.rename(f"{self._path}.{self.rotations}")
                file = self._path.open("a", encoding="utf-8")
            elif now - truncated > TRUNCATES:
                while _count(self._told) < self.lines and not self.stop.is_set():
                    time.sleep(0.1)
                truncated, self.truncations = time.monotonic(), self.truncations + 1
                file.truncate(0)
        file.close()


def arguments() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="DIRECTORY",
        help="of a model of bytes or characters",
    )
    parser.add_argument(
        "--minutes",
        type=some_minutes,
        default=10.0,
        help="how long it is written (default: 10)",
    )
    return parser.parse_args()


def main() -> int:
    args = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        found = soaked(args.bundle or made_bundle(folder), folder, 60 * args.minutes)
    table = [[*found], [*found.values()]]
    finish({"hardware": hardware(), **found}, table, only_json=args.json)
    return 1 if found["lost"] or found["twice"] else 0


def soaked(bundle: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """What was written, done and told."""
    log, told = folder / "growing.log", folder / "told"
    (port,) = free_ports(1)
    server_flags = ("--port", str(port), "--store", f"sqlite:{folder / 'sessions.db'}")
    command = [sys.executable, *CHARLOOM, "watch", str(log), "--follow", "--json", "--all", "--name", "soak"]
    command += ["--target", f"{HOST}:{port}", "--position", str(folder / "position")]
    writer, end = Writer(log, told), time.monotonic() + seconds
    restarts = server_restarts = 0
    with ExitStack() as running:
        server = running.enter_context(ExitStack())
        server.enter_context(serving(bundle, *server_flags))
        writer.start()
        running.callback(writer.join)
        running.callback(writer.stop.set)
        server_began = time.monotonic()
        while time.monotonic() < end or _count(told) < writer.lines:
            if time.monotonic() > end:
                writer.stop.set()
            if time.monotonic() > end + ENDS:
                break
            with (
                told.open("a") as sink,
                subprocess.Popen(command, stdout=sink, stderr=subprocess.DEVNULL) as process,
            ):
                try:
                    time.sleep(RESTARTS if time.monotonic() < end else 10.0)
                    if time.monotonic() < end and time.monotonic() - server_began > SERVER_RESTARTS:
                        server.close()
                        server.enter_context(serving(bundle, *server_flags))
                        server_began, server_restarts = (
                            time.monotonic(),
                            server_restarts + 1,
                        )
                        time.sleep(5.0)
                finally:
                    process.send_signal(signal.SIGTERM)
                process.wait(ENDS)
            restarts += 1
            say(f"{writer.lines:,} lines, {_count(told):,} told, {restarts} stops, {server_restarts} of the server")
    said = [json.loads(text) for text in told.read_text("utf-8").splitlines()]
    times = Counter(fact["text"] for fact in said)
    lost = [number for number in range(writer.lines) if times[f"line {number} was written"] == 0]
    if lost:
        say(
            f"lost: {lost}; {[fact['id'] for fact in said if fact['text'] == f'line {lost[0] - 1} was written']} before"
        )
    return {
        "seconds": round(seconds),
        "lines": writer.lines,
        "rotations": writer.rotations,
        "truncations": writer.truncations,
        "stops": restarts,
        "server_stops": server_restarts,
        "lost": len(lost),
        "twice": sum(count > 1 for count in times.values()),
        "alerts": sum(fact["alert"] for fact in said),
    }


def _count(told: Path) -> int:
    return told.read_bytes().count(b"\n") if told.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
