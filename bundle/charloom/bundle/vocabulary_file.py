"""`vocabulary.json`, and which vocabulary a text needs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from charloom.bundle.errors import BundleError
from charloom.bundle.json_file import read_json, write_whole
from charloom.bundle.vocabulary import (
    MOST_SYMBOLS,
    ByteVocabulary,
    CharacterVocabulary,
    Normalisation,
    Unit,
    Vocabulary,
)
from charloom.bundle.words import WordRule, WordVocabulary, split_words

LARGEST_VOCABULARY = 2**25
"""Bytes of the file."""
DEFAULT_WORDS = 10_000
"""Symbols of a word vocabulary where nothing else is asked for, the unknown one included."""


def vocabulary_of(text: str, unit: Unit) -> Vocabulary:
    """The vocabulary that a model of `text` needs."""
    if unit is Unit.WORD:
        return WordVocabulary.of_counts(Counter(split_words(text)), DEFAULT_WORDS)
    return ByteVocabulary() if unit is Unit.BYTE else CharacterVocabulary.of_text(text)


def too_large(vocabulary: Vocabulary) -> str | None:
    """Why no model can have this vocabulary; None where one can."""
    if vocabulary.size > MOST_SYMBOLS:
        return f"it has {vocabulary.size:,} symbols, more than {MOST_SYMBOLS:,}"
    size = len(_content(vocabulary).encode())
    return None if size <= LARGEST_VOCABULARY else f"its file has {size:,} bytes, more than {LARGEST_VOCABULARY:,}"


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a `vocabulary.json`.

    Raises:
        BundleError: the file is missing or does not describe a vocabulary.
    """
    try:
        content = read_json(path, LARGEST_VOCABULARY)
        unit, normalisation = Unit(content["unit"]), Normalisation(content.get("normalisation", "none"))
        if unit is Unit.BYTE:
            return ByteVocabulary(normalisation)
        if unit is Unit.WORD:
            rule = WordRule(content.get("words", WordRule.LETTERS))
            return WordVocabulary(content["symbols"], normalisation, rule)
        return CharacterVocabulary(content["symbols"], normalisation)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise BundleError(path.parent, f"{path.name} is not a vocabulary: {problem}") from problem


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Write a `vocabulary.json`, in one step."""
    write_whole(path, _content(vocabulary))


def _content(vocabulary: Vocabulary) -> str:
    return json.dumps(vocabulary.to_json(), ensure_ascii=False) + "\n"
