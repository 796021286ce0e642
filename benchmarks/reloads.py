"""Versions of a model are loaded one after the other under load: what fails, and how soon a first character comes.

    python -m benchmarks.reloads [--reloads 50] [--streams 8] [--bundle PATH] [--json]

A server of one version, with a folder of models, is loaded by streams that begin again when they end. A further client
asks for 20 characters, one call after the other, and takes the time until the first. It does so for a while without
any change, and then while each further version is loaded, as soon as the one before serves. The last line is one JSON
object. The command fails where a call does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import hardware, serving
from benchmarks.reporting import at_least_one, finish, new_parser, say, shown_times
from charloom.bundle import MANIFEST_FILE
from charloom.client import CharloomError, Client
from charloom.models import BUNDLED_MODEL

QUIET_SECONDS = 15.0
PROMPT = "ROMEO:\nBut soft, what light"


class Load:
    """Calls, one after the other in each of several threads, until `stop`."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.characters = 0
        self.first: list[float] = []
        """Milliseconds until the first character of a short call."""
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def repeat(self, call: Callable[[], None]) -> None:
        """Call in a thread of its own until the stop, or until a call fails."""

        def work() -> None:
            while not self._stop.is_set():
                try:
                    call()
                except CharloomError as problem:
                    self.failures.append(str(problem))
                    return

        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    def stop(self) -> None:
        """Let no call begin, and wait for those that run."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def taken(self) -> list[float]:
        """The times since they were taken last."""
        found, self.first = self.first, []
        return found


def version(bundle: Path, folder: Path, number: int) -> Path:
    """A folder with the bundle's files, and a digest of its own."""
    path = folder / "model" / f".{number}"
    shutil.copytree(bundle, path)
    fields = json.loads((path / MANIFEST_FILE).read_text("utf-8"))
    fields["training"]["version"] = number
    del fields["digest"]
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    fields["digest"] = hashlib.sha256(canonical.encode()).hexdigest()
    (path / MANIFEST_FILE).write_text(json.dumps(fields), "utf-8")
    return path


def measured(client: Client, folder: Path, bundle: Path, reloads: int, streams: int) -> dict[str, Any]:
    """Both phases."""
    load = Load()

    def stream() -> None:
        for piece in client.generate(PROMPT, max_tokens=2000):
            load.characters += len(piece)

    def short() -> None:
        began = time.perf_counter()
        pieces = client.generate(PROMPT, max_tokens=20)
        next(pieces)
        load.first.append(1000 * (time.perf_counter() - began))
        for _ in pieces:
            pass

    def phase(change: Callable[[], None]) -> dict[str, Any]:
        load.taken()
        characters, began = load.characters, time.perf_counter()
        change()
        seconds = time.perf_counter() - began
        times = load.taken()
        return {
            "seconds": round(seconds, 1),
            "characters_per_second": round((load.characters - characters) / seconds),
            "calls": len(times),
            "first_character_ms": {f"p{part}": round(float(np.percentile(times, part)), 1) for part in (50, 90, 99)},
        }

    took = []

    def reload() -> None:
        for number in range(2, reloads + 2):
            path = version(bundle, folder, number)
            began = time.perf_counter()
            client.load_model(str(path))
            took.append(time.perf_counter() - began)
            shutil.rmtree(path)

    for _ in range(streams):
        load.repeat(stream)
    load.repeat(short)
    time.sleep(3)
    try:
        quiet = phase(lambda: time.sleep(QUIET_SECONDS))
        say(f"without a change: {quiet}")
        loading = phase(reload)
    finally:
        load.stop()
    return {
        "hardware": hardware(),
        "streams": streams,
        "reloads": reloads,
        "failed_calls": len(load.failures),
        "failures": load.failures[:3],
        "seconds_per_reload": round(float(np.mean(took)), 2),
        "quiet": quiet,
        "reloading": loading,
    }


def main() -> int:
    """Measure, print."""
    parser = new_parser(__doc__)
    parser.add_argument("--reloads", type=at_least_one, default=50, help="default: 50")
    parser.add_argument("--streams", type=at_least_one, default=8, help="that go on meanwhile (default: 8)")
    parser.add_argument("--bundle", type=Path, default=BUNDLED_MODEL, help="default: the bundled model")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "models"
        first = version(arguments.bundle, folder, 1)
        flags = ("--model-folder", str(folder), "--model-grace-seconds", "0")
        with serving(first, *flags) as server, Client(server.target, timeout=None) as client:
            found = measured(client, folder, arguments.bundle, arguments.reloads, arguments.streams)
    heading = ("phase", "characters/s", "first character p50 / p99 (ms)", "calls")
    rows = [
        (
            name,
            found[name]["characters_per_second"],
            shown_times(found[name]["first_character_ms"]),
            found[name]["calls"],
        )
        for name in ("quiet", "reloading")
    ]
    finish(found, [heading, *rows], only_json=arguments.json)
    return int(bool(found["failed_calls"]))


if __name__ == "__main__":
    sys.exit(main())
