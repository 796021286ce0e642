"""Text to tokens and back.

A token is the index of one symbol. A `CharacterVocabulary` has one symbol per distinct code point of the training
text; a `ByteVocabulary` has the 256 bytes, so that it can read and write any UTF-8 text; a `WordVocabulary` (in
`words`) has the most frequent words.
"""

from __future__ import annotations

import codecs
import enum
import functools
import hashlib
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from charloom.bundle.errors import SHOWN_UNKNOWNS, UnknownSymbol, UnknownSymbolsError

Tokens = npt.NDArray[np.int64]
"""Token ids, shape [T]."""
MOST_SYMBOLS = 2**20
"""Symbols of a model."""
_NO_TOKEN = -1
"""Marks a code point without a token."""


class Unit(str, enum.Enum):
    """What one token stands for."""

    CHARACTER = "character"
    BYTE = "byte"
    WORD = "word"

    @property
    def plural(self) -> str:
        """What to call several tokens: "tokens" in a word model, since spaces and punctuation are among them."""
        return "tokens" if self is Unit.WORD else f"{self.value}s"


class Normalisation(str, enum.Enum):
    """How text is brought into one form (Unicode Standard Annex 15) before it becomes tokens."""

    NONE = "none"
    NFC = "nfc"
    NFKC = "nfkc"

    def apply(self, text: str) -> str:
        """The text in this form."""
        if self is Normalisation.NFC:
            return unicodedata.normalize("NFC", text)
        return unicodedata.normalize("NFKC", text) if self is Normalisation.NFKC else text


class MarkedText(NamedTuple):
    """A text as tokens, which may include symbols that the vocabulary lacks."""

    tokens: Tokens
    """[T]"""
    unknown: Sequence[UnknownSymbol] = ()
    """The first of what the vocabulary lacks."""
    unknown_count: int = 0
    """How many such there are in all."""


class TextDecoder(Protocol):
    """Turns tokens into text, a few at a time."""

    def feed(self, tokens: Sequence[int]) -> str:
        """The text that these tokens complete; bytes of an unfinished character are kept for the next call."""

    @property
    def tail(self) -> bytes:
        """The bytes of a character that is not complete yet; empty in a character model."""


class Vocabulary(ABC):
    """The symbols of one model, in the order of their token ids, and the form that text is brought into first.

    Positions in errors are those in the text in that form.
    """

    unit: Unit
    unknown: int | None = None
    """The token for everything without a symbol of its own; it is read and never written. None if there is none."""

    def __init__(self, normalisation: Normalisation = Normalisation.NONE) -> None:
        self.normalisation = normalisation

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

    def encode_marked(self, text: str, unknown: int) -> MarkedText:
        """The tokens of `text`, with `unknown` for symbols that the vocabulary lacks; for models that only read."""
        return MarkedText(self.encode(text))

    def spell(self, text: str, *, skip_unknown: bool = False) -> Tokens:
        """The tokens that the model would write `text` with, shape [T]; as `encode`, but never the `unknown` token.

        Raises:
            UnknownSymbolsError: the model cannot write it and `skip_unknown` is false.
        """
        return self.encode(text, skip_unknown=skip_unknown)

    def tokens_of(self, characters: str, *, skip_unknown: bool = False) -> Tokens:
        """The tokens that consist of these characters alone; in a byte vocabulary, of the bytes of their UTF-8 form.

        Raises:
            UnknownSymbolsError: a character occurs in no symbol and `skip_unknown` is false.
        """
        return self.encode(characters, skip_unknown=skip_unknown)

    def tokens_with(self, characters: str) -> Tokens:
        """The tokens that have any of these characters; in a byte vocabulary, any of the bytes of their UTF-8 form."""
        return self.encode(characters, skip_unknown=True)

    @abstractmethod
    def symbol(self, token: int) -> bytes:
        """What a token stands for: UTF-8 of its character or word, or its byte."""

    @functools.cached_property
    def symbol_sizes(self) -> Tokens:
        """Bytes of all symbols, [V], the largest first."""
        sizes = np.fromiter(map(len, map(self.symbol, range(self.size))), np.int64, self.size)
        return np.sort(sizes)[::-1]

    @property
    @abstractmethod
    def symbols_digest(self) -> bytes:
        """Tells apart vocabularies of one unit that differ in what a token stands for."""

    @abstractmethod
    def decoder(self, tail: bytes = b"") -> TextDecoder:
        """A decoder that goes on after `tail`, the unfinished bytes that an earlier decoder was left with."""

    def to_json(self) -> dict[str, object]:
        """The content of `vocabulary.json`."""
        content: dict[str, object] = {"unit": self.unit.value}
        if self.normalisation is not Normalisation.NONE:
            content["normalisation"] = self.normalisation.value
        return content

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`; bytes of an unfinished last character are left out."""
        return self.decoder().feed(tokens)


class SymbolVocabulary(Vocabulary):
    """A symbol, whole characters, for each token."""

    symbols: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.symbols)

    @property
    def start_token(self) -> int:
        return start_token_of(self.symbols)

    def symbol(self, token: int) -> bytes:
        return self.symbols[token].encode()

    @functools.cached_property
    def symbols_digest(self) -> bytes:
        # Without a loop over the symbols: there may be very many, and calls wait for it.
        lengths = np.fromiter(map(len, self.symbols), np.int64, self.size)
        return hashlib.sha256(lengths.tobytes() + "".join(self.symbols).encode()).digest()

    def decoder(self, tail: bytes = b"") -> TextDecoder:
        return SymbolDecoder(self.symbols)

    def to_json(self) -> dict[str, object]:
        return super().to_json() | {"symbols": list(self.symbols)}


class CharacterVocabulary(SymbolVocabulary):
    """One symbol per code point, sorted.

    Args:
        symbols: the distinct characters; their order is the order of the token ids and must be ascending.
        normalisation: the form of all text
    """

    unit = Unit.CHARACTER

    def __init__(self, symbols: Sequence[str], normalisation: Normalisation = Normalisation.NONE) -> None:
        super().__init__(normalisation)
        if not symbols:
            raise ValueError("a character vocabulary needs at least one symbol")
        if any(len(symbol) != 1 for symbol in symbols):
            raise ValueError("each symbol of a character vocabulary is one code point")
        code_points = np.array([ord(symbol) for symbol in symbols], dtype=np.uint32)
        if len(code_points) > 1 and not bool(np.all(code_points[1:] > code_points[:-1])):
            raise ValueError("the symbols of a character vocabulary are distinct and in ascending order")
        self.symbols = tuple(symbols)
        # By code point; the last entry is for all that are larger than any of the symbols.
        self._token_of = np.full(int(code_points[-1]) + 2, _NO_TOKEN, np.int64)
        self._token_of[code_points] = np.arange(len(code_points))

    @classmethod
    def of_text(cls, text: str) -> CharacterVocabulary:
        """The vocabulary of every character that occurs in `text`."""
        return cls(sorted(set(text)))

    def encode(self, text: str, *, skip_unknown: bool = False) -> Tokens:
        found = self.encode_marked(text, self.size)
        if not found.unknown_count:
            return found.tokens
        if skip_unknown:
            kept: Tokens = found.tokens[found.tokens < self.size]
            return kept
        raise UnknownSymbolsError(found.unknown, found.unknown_count)

    def encode_marked(self, text: str, unknown: int) -> MarkedText:
        text = self.normalisation.apply(text)
        wanted = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        # A table lookup: for a search, NumPy would release the GIL, however short the text is.
        tokens: Tokens = self._token_of[np.minimum(wanted, len(self._token_of) - 1)]
        known = tokens != _NO_TOKEN
        if bool(known.all()):
            return MarkedText(tokens)
        tokens[~known] = unknown
        positions = np.flatnonzero(~known)
        shown = [UnknownSymbol(text[int(at)], int(at)) for at in positions[:SHOWN_UNKNOWNS]]
        return MarkedText(tokens, shown, len(positions))


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
        return np.frombuffer(self.normalisation.apply(text).encode("utf-8"), dtype=np.uint8).astype(np.int64)

    def symbol(self, token: int) -> bytes:
        return bytes([token])

    @property
    def symbols_digest(self) -> bytes:
        return b""  # all have the same

    def decoder(self, tail: bytes = b"") -> TextDecoder:
        return _ByteDecoder(tail)


def start_token_of(symbols: Sequence[str]) -> int:
    """The token that stands before the first one of a text: the newline, or else the space, or else the first one."""
    for symbol in ("\n", " "):
        if symbol in symbols:
            return symbols.index(symbol)
    return 0


class SymbolDecoder:
    """Each token is whole text by itself."""

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
