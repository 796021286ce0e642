"""Text to tokens and back.

Knows: the symbols of a model, and how a stream of tokens becomes text without ever splitting a character.
Does not know: models, files other than `vocabulary.json`, requests.

A token is the index of one symbol. A `CharacterVocabulary` has one symbol per distinct code point of the training
text; a `ByteVocabulary` has the 256 bytes, so that it can read and write any UTF-8 text.
"""

from __future__ import annotations

import codecs
import enum
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from charloom.bundle.errors import SHOWN_UNKNOWNS, BundleError, UnknownSymbol, UnknownSymbolsError

Tokens = npt.NDArray[np.int64]
"""Token ids, shape [T]."""


class Unit(str, enum.Enum):
    """What one token stands for."""

    CHARACTER = "character"
    BYTE = "byte"


class TextDecoder(Protocol):
    """Turns tokens into text, a few at a time."""

    def feed(self, tokens: Sequence[int]) -> str:
        """The text that these tokens complete; bytes of an unfinished character are kept for the next call."""

    @property
    def tail(self) -> bytes:
        """The bytes of a character that is not complete yet; empty in a character model."""


class Vocabulary(ABC):
    """The symbols of one model, in the order of their token ids."""

    unit: Unit

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of symbols V."""

    @property
    @abstractmethod
    def start_token(self) -> int:
        """The token that stands before the first one of a text: the newline where there is one."""

    @abstractmethod
    def encode(self, text: str, *, skip_unknown: bool = False) -> Tokens:
        """The tokens of `text`, shape [T].

        Raises:
            UnknownSymbolsError: a character is not in the vocabulary and `skip_unknown` is false.
        """

    @abstractmethod
    def symbol(self, token: int) -> bytes:
        """What a token stands for: UTF-8 of its character, or its byte."""

    @abstractmethod
    def decoder(self, tail: bytes = b"") -> TextDecoder:
        """A decoder that goes on after `tail`, the unfinished bytes that an earlier decoder was left with."""

    @abstractmethod
    def to_json(self) -> dict[str, object]:
        """The content of `vocabulary.json`."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`; bytes of an unfinished last character are left out."""
        return self.decoder().feed(tokens)


class CharacterVocabulary(Vocabulary):
    """One symbol per code point, sorted.

    Args:
        symbols: the distinct characters; their order is the order of the token ids and must be ascending.
    """

    unit = Unit.CHARACTER

    def __init__(self, symbols: Sequence[str]) -> None:
        if not symbols:
            raise ValueError("a character vocabulary needs at least one symbol")
        if any(len(symbol) != 1 for symbol in symbols):
            raise ValueError("each symbol of a character vocabulary is one code point")
        code_points = np.array([ord(symbol) for symbol in symbols], dtype=np.uint32)
        if len(code_points) > 1 and not bool(np.all(code_points[1:] > code_points[:-1])):
            raise ValueError("the symbols of a character vocabulary are distinct and in ascending order")
        self.symbols = tuple(symbols)
        self._code_points = code_points

    @classmethod
    def of_text(cls, text: str) -> CharacterVocabulary:
        """The vocabulary of every character that occurs in `text`."""
        return cls(sorted(set(text)))

    @property
    def size(self) -> int:
        return len(self.symbols)

    @property
    def start_token(self) -> int:
        for symbol in ("\n", " "):
            if symbol in self.symbols:
                return self.symbols.index(symbol)
        return 0

    def encode(self, text: str, *, skip_unknown: bool = False) -> Tokens:
        wanted = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        found = np.searchsorted(self._code_points, wanted)
        tokens: Tokens = np.minimum(found, self.size - 1, dtype=np.int64)
        known = self._code_points[tokens] == wanted
        if bool(known.all()):
            return tokens
        if skip_unknown:
            kept: Tokens = tokens[known]
            return kept
        positions = np.flatnonzero(~known)
        shown = [UnknownSymbol(text[int(at)], int(at)) for at in positions[:SHOWN_UNKNOWNS]]
        raise UnknownSymbolsError(shown, len(positions))

    def symbol(self, token: int) -> bytes:
        return self.symbols[token].encode()

    def decoder(self, tail: bytes = b"") -> TextDecoder:
        return _CharacterDecoder(self.symbols)

    def to_json(self) -> dict[str, object]:
        return {"unit": self.unit.value, "symbols": list(self.symbols)}


class ByteVocabulary(Vocabulary):
    """The 256 bytes of UTF-8: reads and writes text in any language."""

    unit = Unit.BYTE

    @property
    def size(self) -> int:
        return 256

    @property
    def start_token(self) -> int:
        return ord("\n")

    def encode(self, text: str, *, skip_unknown: bool = False) -> Tokens:
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)

    def symbol(self, token: int) -> bytes:
        return bytes([token])

    def decoder(self, tail: bytes = b"") -> TextDecoder:
        return _ByteDecoder(tail)

    def to_json(self) -> dict[str, object]:
        return {"unit": self.unit.value}


class _CharacterDecoder:
    tail = b""

    def __init__(self, symbols: Sequence[str]) -> None:
        self._symbols = symbols

    def feed(self, tokens: Sequence[int]) -> str:
        return "".join([self._symbols[token] for token in tokens])


class _ByteDecoder:
    """Bytes that cannot be UTF-8 come out as U+FFFD; an unfinished character waits for its next byte."""

    def __init__(self, tail: bytes) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decoder.setstate((tail, 0))

    def feed(self, tokens: Sequence[int]) -> str:
        return self._decoder.decode(bytes(tokens))

    @property
    def tail(self) -> bytes:
        return self._decoder.getstate()[0]


def vocabulary_of(text: str, unit: Unit) -> Vocabulary:
    """The vocabulary that a model of `text` needs."""
    return ByteVocabulary() if unit is Unit.BYTE else CharacterVocabulary.of_text(text)


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a `vocabulary.json`.

    Raises:
        BundleError: the file is missing or does not describe a vocabulary.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        if Unit(content["unit"]) is Unit.BYTE:
            return ByteVocabulary()
        return CharacterVocabulary(content["symbols"])
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise BundleError(path.parent, f"{path.name} is not a vocabulary: {problem}") from problem


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Write a `vocabulary.json`."""
    path.write_text(json.dumps(vocabulary.to_json(), ensure_ascii=False) + "\n", "utf-8")
