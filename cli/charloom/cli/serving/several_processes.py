"""`charloom serve --processes N`: the parent. It imports no engine and no gRPC; its children do."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from charloom.cli import CommandError
from charloom.engine.python_process import python_running
from charloom.server.listener import PortInUse
from charloom.server.processes.child import Child, ChildFailed
from charloom.server.processes.parent import Parent
from charloom.server.settings import ServerSettings

CHILD = python_running("charloom.cli.serving.child_process")


def serve_with_children(paths: Sequence[Path], settings: ServerSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        paths: of the bundles that were given
        settings: with more than one process

    Raises:
        CommandError: it cannot start, or has not ended in order.
    """
    try:
        asyncio.run(_serve(paths, settings))
    except (PortInUse, ChildFailed) as problem:
        raise CommandError(str(problem)) from problem


async def _serve(paths: Sequence[Path], settings: ServerSettings) -> None:
    await Parent(settings, paths, CHILD).serve(_announce)


def _announce(child: Child) -> None:
    """As a server of one process does; all children say the same."""
    for line in child.told["models"]:
        print(line, file=sys.stderr)
    print(f"listening on {child.told['address']}", flush=True)
    if child.told["http_address"]:
        print(f"HTTP on {child.told['http_address']}", flush=True)
