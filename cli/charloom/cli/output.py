"""Text for a terminal: tables, and long lines."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    """Lines whose cells stand below one another.

    Args:
        rows: cells, as many in each row
        numbers: whether all columns but the first are of numbers, which end below one another
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if numbers and place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def wrapped(line: str, indent: int) -> str:
    """A line that is broken between words where a terminal ends, its further parts set in by some columns.

    Where the output is no terminal it stays one line, for programs that read it.
    """
    if not sys.stdout.isatty():
        return line
    return textwrap.fill(
        line,
        max(shutil.get_terminal_size().columns, 2 * indent),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
