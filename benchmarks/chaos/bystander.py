"""A client that does nothing wrong: it streams one text after the other, and makes a short call now and then.

    python -m benchmarks.chaos.bystander TARGET

It goes on until its standard input ends, and then prints what it saw as one JSON object: "characters", pairs of a time
and how many came then; "calls", of each short call the time, its milliseconds, and what it failed with, if it did.
Times are seconds since the epoch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

from charloom.cli.serving.load import milliseconds
from charloom.client import CharloomError, Client

PAUSE_SECONDS, PATIENCE_SECONDS = 0.05, 10.0


class Seen(NamedTuple):
    """What a bystander saw in some seconds."""

    characters_per_s: int
    call_ms: dict[str, float] | None
    """Median and 99th percentile of the short calls."""
    failed: int
    """Short calls that failed."""


class Bystander:
    """One in a process of its own, while the context is open.

    Args:
        target: the server
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._seen: dict[str, list[Any]] = {}

    def __enter__(self) -> Bystander:
        command = [sys.executable, "-m", "benchmarks.chaos.bystander", self._target]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._seen = json.loads(self._process.communicate()[0])

    def between(self, begin: float, end: float) -> Seen:
        """What it saw between two times; known once the context is closed."""
        calls = [call for call in self._seen["calls"] if begin <= call[0] < end]
        count = sum(count for at, count in self._seen["characters"] if begin <= at < end)
        times = [call[1] / 1000 for call in calls if call[2] is None]
        return Seen(round(count / (end - begin)), milliseconds(times), len(calls) - len(times))


def stream(client: Client, over: threading.Event, found: list[Any]) -> None:
    """Long texts, one after the other."""
    while not over.is_set():
        try:
            with client.generate("The ", max_tokens=2000, timeout=PATIENCE_SECONDS) as text:
                for piece in text:
                    found.append((time.time(), len(piece)))
                    if over.is_set():
                        break
        except CharloomError:
            over.wait(PAUSE_SECONDS)


def call(client: Client, over: threading.Event, found: list[Any]) -> None:
    """Short calls."""
    while not over.wait(PAUSE_SECONDS):
        began = time.time()
        failed: str | None = None
        try:
            client.complete("KING:", max_tokens=8, timeout=PATIENCE_SECONDS)
        except CharloomError as problem:
            failed = f"{type(problem).__name__}: {problem}"
        found.append((began, 1000 * (time.time() - began), failed))


def main() -> None:
    """Use a server until told otherwise."""
    over = threading.Event()
    characters: list[Any] = []
    calls: list[Any] = []
    with Client(sys.argv[1]) as client:
        threads = [
            threading.Thread(target=stream, args=(client, over, characters)),
            threading.Thread(target=call, args=(client, over, calls)),
        ]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        over.set()
        for thread in threads:
            thread.join()
    print(json.dumps({"characters": characters, "calls": calls}))


if __name__ == "__main__":
    main()
