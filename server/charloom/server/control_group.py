"""Reads the limits of this process's control groups, of Linux's version 1 and version 2.

A process is in one group of each hierarchy, and nested groups share what the outer group allows: the limits of all
groups from the process's own up to the root count. In a container with a view of its own, its group is the root.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def found(controller: str, file: str) -> Iterator[tuple[Path, str]]:
    """Yield the groups of this process that have this file, from its own to the root, with the file's content.

    Args:
        controller: "cpu" or "memory"
        file: a file name of either version; the names differ between them
    """
    for top, group in _groups(controller):
        own = top / group
        for folder in (own, *own.parents):
            if folder != top and top not in folder.parents:
                break
            try:
                yield folder, (folder / file).read_text().strip()
            except OSError:
                continue  # the group is outside the container's view, or its version has another file


def _groups(controller: str) -> Iterator[tuple[Path, str]]:
    """Yield where hierarchies that may have the controller are mounted, with this process's group there."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        number, names, path = line.split(":", 2)
        group = path.lstrip("/")
        if ".." in Path(group).parts:  # the group is outside the process's view
            group = ""
        if number == "0":
            yield ROOT, group
        elif controller in names.split(","):
            yield ROOT / controller, group
