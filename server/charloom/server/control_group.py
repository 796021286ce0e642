"""What the control groups of this process say, of Linux's version 1 and version 2.

A process is in one group of each hierarchy, and what a group allows, the groups inside it share: the limit of any group
from the process's own up to the root counts. Where a container has its own view of them, its group is the root.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def found(controller: str, file: str) -> Iterator[tuple[Path, str]]:
    """The groups of this process that have a file, from its own to the root, each with what the file says.

    Args:
        controller: "cpu" or "memory"
        file: of any version; their names differ
    """
    for top, group in _groups(controller):
        own = top / group
        for folder in (own, *own.parents):
            if folder != top and top not in folder.parents:
                break
            try:
                yield folder, (folder / file).read_text().strip()
            except OSError:
                continue  # it is outside what a container sees, or its version has another file


def _groups(controller: str) -> Iterator[tuple[Path, str]]:
    """Where the hierarchies that may have a controller are mounted, and the group of this process there."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        number, names, path = line.split(":", 2)
        group = path.lstrip("/")
        if ".." in Path(group).parts:  # its group is outside what it sees
            group = ""
        if number == "0":
            yield ROOT, group
        elif controller in names.split(","):
            yield ROOT / controller, group
