"""Tokens on disk: written in one pass, then mapped into memory, so that a corpus may be larger than memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from charloom.bundle import parse_json
from charloom.training.data.stream import Ints, Stream
from charloom.training.files import replace_file, replacing

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

    Raises:
        CheckpointError: they cannot be written.
    """
    count, begun = 0, 0
    with replacing(directory / TOKENS_FILE) as tokens, replacing(directory / STARTS_FILE) as starts:
        for part, places in parts:
            tokens.write(part.astype(kind).tobytes())
            starts.write((places + count).astype("<i8").tobytes())
            count, begun = count + len(part), begun + len(places)
        (directory / FACTS_FILE).unlink(missing_ok=True)  # what it says is about to be true no more
    if not documents:
        (directory / STARTS_FILE).unlink()
    made = {"schema": SCHEMA, "type": kind.str, "tokens": count, "starts": begun if documents else None}
    replace_file(directory / FACTS_FILE, json.dumps(made | facts).encode())
    found = read_tokens(directory, facts)
    assert found is not None
    return found[0]


def read_tokens(directory: Path, facts: dict[str, Any]) -> tuple[Stream, dict[str, Any]] | None:
    """The tokens that were made from the same, if they are there and whole; and all that is known of them."""
    try:
        said = parse_json((directory / FACTS_FILE).read_bytes())
        if {"schema": SCHEMA} | facts != {name: said[name] for name in ("schema", *facts)}:
            return None
        tokens = np.memmap(directory / TOKENS_FILE, said["type"], "r")
        starts = None if said["starts"] is None else np.memmap(directory / STARTS_FILE, "<i8", "r")
        whole = len(tokens) == said["tokens"] and (starts is None or len(starts) == said["starts"])
        return (Stream(tokens, starts), said) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
