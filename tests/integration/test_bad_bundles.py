"""`charloom serve` of bundles that somebody has tampered with: it ends at once, and says in one line why."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.unit.bundle import hostile_graphs
from tests.unit.bundle.bundle_files import change_manifest, replace_file
from tests.unit.bundle.hostile_graphs import Tamper, tamper

IMPATIENT = """
import sys
from charloom.engine.decoding import first_steps

endless, in_time = sys.argv.pop(1), first_steps.in_time

def with_less_time(bundle, file, *more):
    first_steps.SECONDS, first_steps.SECONDS_PER_STEP = (5, 0.01) if file == endless else (60, 0.1)
    return in_time(bundle, file, *more)

first_steps.in_time = with_less_time
from charloom.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
"""The command, with less time for the first steps of a file that does not come to an end."""


def manifest(change: Callable[[dict[str, Any]], object], path: Path) -> None:
    change_manifest(path, change)


def written(name: str, content: bytes, path: Path) -> None:
    if name == "manifest.json":
        (path / name).write_bytes(content)
    else:
        replace_file(path, name, content)


def graph(name: str, change: Tamper, path: Path) -> None:
    tamper(path, name, change)
    (path / hostile_graphs.SIDE_FILE).write_bytes(bytes(2**20))


def half_a_pair(path: Path) -> None:
    symbols = [*json.loads((path / "vocabulary.json").read_text("utf-8"))["symbols"][:-1], "\ud800"]
    replace_file(path, "vocabulary.json", json.dumps({"unit": "character", "symbols": symbols}).encode())


NESTED = b"[" * 100_000 + b"]" * 100_000
INT8, INSPECTOR = "decoder.int8.onnx", "inspector.onnx"
BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "nested manifest": (partial(written, "manifest.json", NESTED), "manifest.json cannot be read: it is nested"),
    "nested vocabulary": (
        partial(written, "vocabulary.json", NESTED),
        "vocabulary.json is not a vocabulary: it is nested",
    ),
    "half a pair": (half_a_pair, "vocabulary.json is not a vocabulary: no UTF-8"),
    "hidden_size": (
        partial(manifest, lambda m: m["cell"].update(hidden_size=2**31)),
        "manifest.json, field cell.hidden_size: ",
    ),
    "parameters": (
        partial(manifest, lambda m: m["cell"].update(parameters=2**70)),
        "manifest.json, field cell.parameters: ",
    ),
    "two lines": (partial(manifest, lambda m: m.update({"two\nlines": 1})), "manifest.json, field two lines: "),
    "numbers elsewhere": (
        partial(graph, INT8, hostile_graphs.numbers_elsewhere),
        f"the file {INT8} is not a decoder: it has a tensor whose numbers are in another file",
    ),
    "inspector elsewhere": (
        partial(graph, INSPECTOR, hostile_graphs.numbers_elsewhere),
        f"the file {INSPECTOR} is not an inspector: it has a tensor whose numbers are in another file",
    ),
    "terabytes": (partial(graph, INT8, hostile_graphs.terabytes_when_run), f"the file {INT8} fails in its first steps"),
    "no end": (partial(graph, INT8, hostile_graphs.without_end), f"the file {INT8} did not come to an end within 5"),
    "inspector no end": (
        partial(graph, INSPECTOR, hostile_graphs.without_end),
        f"the file {INSPECTOR} did not come to an end within 5",
    ),
}
ENDLESS = {"no end": INT8, "inspector no end": INSPECTOR}


def refusal(path: Path, endless: str) -> str:
    """What follows the bundle's path in the one line that is written."""
    command = [sys.executable, "-c", IMPATIENT, endless, "serve", str(path), "--port", "0"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done
    assert done.stdout == ""
    opening, line_break = f"charloom serve: bundle {path}: ", done.stderr[-1:]
    assert done.stderr.startswith(opening), done.stderr
    assert line_break == "\n"
    line = done.stderr[len(opening) : -1]
    assert line.isprintable()
    assert line.endswith("; export the bundle again")
    assert time.monotonic() - began < 120
    return line


@pytest.mark.parametrize("name", BAD)
def test_a_bad_bundle_ends_the_command_with_one_line(name: str, copied: Callable[[], Path]) -> None:
    spoil, problem = BAD[name]
    path = copied()
    spoil(path)
    assert refusal(path, ENDLESS.get(name, "")).startswith(problem)
