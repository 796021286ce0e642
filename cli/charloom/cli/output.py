"""What commands print: JSON for programs; tables, and long lines, for a terminal."""

from __future__ import annotations

import dataclasses
import enum
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from datetime import datetime
from typing import TextIO


def print_json(value: object, file: TextIO | None = None, *, flush: bool = False) -> None:
    """Print a value, which may be or hold what the SDK returns, as JSON in one line.

    Args:
        value: what `json.dumps` takes, or `plain` makes it take
        file: where to; None: standard output
        flush: whether to flush, so that a reader gets the line at once
    """
    print(json.dumps(value, ensure_ascii=False, default=plain), file=file, flush=flush)


def plain(value: object) -> object:
    r"""Convert values that `json.dumps` does not know: dataclasses to their fields, times to ISO 8601, bytes to text.

    Bytes that are not UTF-8 are written like `\xc3`.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    raise TypeError(f"no JSON for {type(value).__name__}")


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
