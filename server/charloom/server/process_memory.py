"""How much memory this process may use, and how much it uses. Knows Linux's files; elsewhere nothing is known."""

from __future__ import annotations

from pathlib import Path

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of version 2, and of version 1, of the group that a container's processes see as the whole."""
MEMINFO, STATUS = Path("/proc/meminfo"), Path("/proc/self/status")


def memory_limit() -> int | None:
    """Bytes that the process may use: what its control group allows, or what the machine has; None if nobody says."""
    found = [limit for limit in (*map(_number, CGROUP_LIMITS), _kibibytes(MEMINFO, "MemTotal")) if limit is not None]
    return min(found, default=None)


def memory_in_use() -> int:
    """Bytes of the process that are in main memory; 0 if nobody says."""
    return _kibibytes(STATUS, "VmRSS") or 0


def _number(path: Path) -> int | None:
    """The number in a file; None if there is none, as where there is no limit (`max`)."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


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
