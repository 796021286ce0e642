"""JSON files: read where others may have written them, bounded in depth and size; written as a whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DEEPEST = 32
"""Levels of lists and objects; files of Charloom have fewer than 8."""


def read_json(path: Path, most_bytes: int) -> Any:
    r"""The value in a file of at most `most_bytes`; a larger one is not read.

    Raises:
        ValueError: it is too large, `parse_json` refuses it, or a string in it has half of a surrogate pair
            (`"\ud800"`), which no UTF-8 can carry, and so no answer of a server.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size > most_bytes:
        raise ValueError(f"it has {size} bytes, more than {most_bytes}")
    content = parse_json(path.read_bytes())
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as problem:
        half = problem.object[problem.start]
        raise ValueError(f"no UTF-8 can carry the character {half!a}, half of a surrogate pair") from None
    return content


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, in UTF-8 where it is bytes.

    Raises:
        ValueError: it is no JSON, or nested more than `DEEPEST` levels.
    """
    try:
        content = json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} levels") from None
    level = [content]
    for _ in range(DEEPEST + 1):
        level = [part for value in level for part in _parts(value)]
        if not level:
            return content
    raise ValueError(f"it is nested more than {DEEPEST} levels")


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically: if that fails, the old content stays, and no part of the text is left."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_text(text, "utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _parts(value: Any) -> Iterable[Any]:
    """The elements one level deeper."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
