"""Server processes to measure, and the machine that they run on. Knows: processes. Does not know: what is measured."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def running(*command: str) -> Iterator[str]:
    """Run a Python command that prints its address as the last word of its first line; yields the address."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def serving(bundle: Path, *flags: str) -> Iterator[str]:
    """Run `charloom serve` with a bundle on a free port; yields the address."""
    with running("-m", "charloom.cli.main", "serve", str(bundle), "--port", "0", *flags) as target:
        yield target


def hardware() -> str:
    """Processor and cores of this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return f"{names[0] if names else platform.processor()}, {len(os.sched_getaffinity(0))} cores"
