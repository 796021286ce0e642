"""How much memory this process may use, and how much it uses. Knows Linux's files; elsewhere nothing is known."""

from __future__ import annotations

import ctypes
from pathlib import Path

from charloom.server import control_group

LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")
"""Of a control group of version 2, and of version 1."""
MEMINFO, STATUS = Path("/proc/meminfo"), Path("/proc/self/status")


def memory_limit() -> int | None:
    """Bytes that the process may use: what its control groups allow, or what the machine has; None if nobody says."""
    texts = [text for file in LIMIT_FILES for _, text in control_group.found("memory", file)]
    allowed = [int(text) for text in texts if text.isdecimal()]  # "max" where there is no limit
    machine = _kibibytes(MEMINFO, "MemTotal")
    return min(allowed if machine is None else [*allowed, machine], default=None)


def memory_free() -> int | None:
    """Bytes that this machine has for whoever asks next; None if nobody says."""
    return _kibibytes(MEMINFO, "MemAvailable")


def memory_in_use() -> int:
    """Bytes of the process that are in main memory; 0 if nobody says."""
    return _kibibytes(STATUS, "VmRSS") or 0


def give_memory_back() -> None:
    """Have the allocator return what is free to the system, which takes up to a tenth of a second; glibc alone can.

    By itself it keeps free memory between pieces that are in use, in a heap for each thread. After thousands of broken
    connections that was hundreds of megabytes (`python -m benchmarks.chaos`).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _kibibytes(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return None
