"""The console of commands that compute for long, and go on when nobody reads what they print any more."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from rich.console import Console

UNREAD = "the output cannot be written any more; the command goes on without it"


class LastingConsole(Console):
    """Falls silent when its output fails, at a pager that was quit, a closed terminal or a full disk.

    Args:
        quiet: print nothing from the start
    """

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(highlight=False, markup=False, soft_wrap=True, quiet=quiet)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as every console does, unless that fails."""
        try:
            super().print(*objects, **options)
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Print nothing from now on, and connect standard output to /dev/null."""
        with contextlib.suppress(SystemExit):  # rich ends the program, and says nothing
            super().on_broken_pipe()
        with contextlib.suppress(OSError):
            print(f"charloom: {UNREAD}", file=sys.stderr, flush=True)
