"""Tokens on disk: written in one pass, then mapped into memory, so that a corpus may be larger than that.

Knows: two files of integers, and a small one that says what they are. Does not know: how text becomes tokens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from charloom.training.data.stream import Ints, Stream

TOKENS_FILE, STARTS_FILE, FACTS_FILE = "tokens.bin", "documents.bin", "tokens.json"
SCHEMA = "charloom.tokens/1"


def smallest_type(vocabulary_size: int) -> np.dtype[Any]:
    """The smallest unsigned type that holds the tokens of a vocabulary."""
    return np.min_scalar_type(vocabulary_size - 1).newbyteorder("<")


def write_tokens(
    directory: Path, parts: Iterable[tuple[Ints, Ints]], kind: np.dtype[Any], facts: dict[str, Any], *, documents: bool
) -> Stream:
    """Write tokens as they come; a kill leaves no set of files that `read_tokens` would take.

    Args:
        directory: where to
        parts: tokens [N], and the places among them where documents start
        kind: the type to write them in
        facts: JSON: what they are made from, for `read_tokens`
        documents: whether there are documents
    """
    count, begun, kept = 0, 0, {name: directory / f".{name}.partial" for name in (TOKENS_FILE, STARTS_FILE)}
    with kept[TOKENS_FILE].open("wb") as tokens, kept[STARTS_FILE].open("wb") as starts:
        for part, places in parts:
            part.astype(kind).tofile(tokens)
            (places + count).astype("<i8").tofile(starts)
            count, begun = count + len(part), begun + len(places)
        for written in (tokens, starts):
            written.flush()
            os.fsync(written.fileno())
    (directory / FACTS_FILE).unlink(missing_ok=True)
    for name, file in kept.items():  # a run that has them mapped keeps the former ones
        os.replace(file, directory / name)
    if not documents:
        (directory / STARTS_FILE).unlink()
    temporary = directory / f".{FACTS_FILE}.partial"
    made = {"schema": SCHEMA, "type": kind.str, "tokens": count, "starts": begun if documents else None}
    temporary.write_text(json.dumps(made | facts), "utf-8")
    os.replace(temporary, directory / FACTS_FILE)
    found = read_tokens(directory, facts)
    assert found is not None
    return found[0]


def read_tokens(directory: Path, facts: dict[str, Any]) -> tuple[Stream, dict[str, Any]] | None:
    """The tokens that were made from the same, if they are there and whole; and all that is known of them."""
    try:
        said = json.loads((directory / FACTS_FILE).read_text("utf-8"))
        if {"schema": SCHEMA} | facts != {name: said[name] for name in ("schema", *facts)}:
            return None
        tokens = np.memmap(directory / TOKENS_FILE, said["type"], "r")
        starts = None if said["starts"] is None else np.memmap(directory / STARTS_FILE, "<i8", "r")
        whole = len(tokens) == said["tokens"] and (starts is None or len(starts) == said["starts"])
        return (Stream(tokens, starts), said) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
