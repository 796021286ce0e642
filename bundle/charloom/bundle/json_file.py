"""JSON that others may have written: bounded in size and depth, and of characters that UTF-8 can carry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DEEPEST = 32
"""Levels of lists and objects; files of Charloom have fewer than 8."""


def read_json(path: Path, most_bytes: int) -> Any:
    """The value in a file of at most `most_bytes`; a larger one is not read.

    Raises:
        ValueError: it is too large, or `parse_json` refuses it.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size > most_bytes:
        raise ValueError(f"it has {size} bytes, more than {most_bytes}")
    return parse_json(path.read_bytes())


def parse_json(text: str | bytes) -> Any:
    r"""The value of a JSON text, in UTF-8 where it is bytes.

    Raises:
        ValueError: it is no JSON, it is nested more than `DEEPEST` levels, or a string in it has half of a surrogate
            pair (`"\ud800"`), which no UTF-8 can carry, and so no answer of a server.
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


def _parts(value: Any) -> list[Any]:
    """What is one level deeper; the strings of this one are checked."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"no UTF-8 can carry the string {value[:20]!a}: half of a surrogate pair") from None
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, list) else []
