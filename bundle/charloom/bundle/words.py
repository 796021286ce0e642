"""Text as words.

A word is a run of letters, digits and underscores, with apostrophes inside; every other character is a token by itself,
spaces and newlines too. So a text is exactly its tokens, one after the other. How combining marks are treated is a rule
that belongs to the vocabulary (`WordRule`).
"""

from __future__ import annotations

import enum
import functools
import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from charloom.bundle.errors import SHOWN_UNKNOWNS, UnknownSymbol, UnknownSymbolsError
from charloom.bundle.vocabulary import (
    MarkedText,
    Normalisation,
    SymbolVocabulary,
    Tokens,
    Unit,
)

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""What stands for a word without a symbol; a text that has this character has an unknown word there."""


class WordRule(str, enum.Enum):
    """Where a word ends."""

    LETTERS = "letters"
    """Before everything that is no letter, digit or underscore: combining marks are tokens by themselves. The rule of
    vocabularies that name none."""
    MARKS = "marks"
    """Combining marks and joiners behind a letter belong to its word, as Hindi, Tamil, Thai and decomposed accents
    need it. The rule of new vocabularies."""


def split_words(text: str, rule: WordRule = WordRule.MARKS) -> list[str]:
    """The tokens of a text; joined, they are the text."""
    return _pattern(rule).findall(text)


@functools.cache
def _pattern(rule: WordRule) -> re.Pattern[str]:
    """One token. Which characters are letters and marks is as in the Unicode version of this Python."""
    run = r"\w+" if rule is WordRule.LETTERS else rf"\w+(?:[{_marks()}\u200c\u200d]+\w*)*"
    return re.compile(rf"{run}(?:['’]{run})*|\W")


def _marks() -> str:
    """All combining marks, as ranges of a character class."""
    planes = itertools.chain(range(0x20000), range(0xE0000, 0xE1000))  # in between are ideographs and nothing
    points = [point for point in planes if unicodedata.category(chr(point)).startswith("M")]
    ranges: list[list[int]] = []
    for point in points:
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


class WordVocabulary(SymbolVocabulary):
    """The unknown symbol, then words.

    Encoding never fails: a word without a symbol becomes the unknown symbol, as in training. A model never writes it.

    Args:
        symbols: `UNKNOWN` first, then distinct tokens of `split_words`
        normalisation: the form of all text
        rule: where a word ends
    """

    unit = Unit.WORD
    unknown = 0

    def __init__(
        self,
        symbols: Sequence[str],
        normalisation: Normalisation = Normalisation.NONE,
        rule: WordRule = WordRule.MARKS,
    ) -> None:
        super().__init__(normalisation)
        self.rule = rule
        if len(symbols) < 2 or symbols[0] != UNKNOWN:
            raise ValueError("a word vocabulary has the unknown symbol (U+FFFD) first, and at least one word")
        self.symbols = tuple(symbols)
        self._tokens = {symbol: token for token, symbol in enumerate(self.symbols)}
        if len(self._tokens) < len(self.symbols):
            raise ValueError("the symbols of a word vocabulary are distinct")
        if any(not isinstance(symbol, str) or split_words(symbol, rule) != [symbol] for symbol in self.symbols):
            raise ValueError("each symbol of a word vocabulary is one word, or one character that is in none")

    @classmethod
    def of_counts(
        cls,
        counts: Mapping[str, int],
        size: int,
        normalisation: Normalisation = Normalisation.NONE,
        always: Sequence[str] = (),
    ) -> WordVocabulary:
        """The `size` - 1 most frequent of these words, after those of `always`; equally frequent ones by name."""
        ranked = sorted(counts.keys() - {UNKNOWN, *always}, key=lambda word: (-counts[word], word))
        return cls([UNKNOWN, *always, *ranked][:size], normalisation)

    def encode(self, text: str, *, skip_unknown: bool = False) -> Tokens:
        words = split_words(self.normalisation.apply(text), self.rule)
        tokens: Tokens = np.fromiter((self._tokens.get(word, 0) for word in words), np.int64, len(words))
        return tokens[tokens != self.unknown] if skip_unknown else tokens

    def encode_marked(self, text: str, unknown: int) -> MarkedText:
        tokens = self.encode(text)
        lacking = tokens == self.unknown
        if not lacking.any():
            return MarkedText(tokens)
        found = _pattern(self.rule).finditer(self.normalisation.apply(text))
        places = [match for match in found if not self._tokens.get(match[0])]
        shown = [UnknownSymbol(match[0], match.start()) for match in places[:SHOWN_UNKNOWNS]]
        return MarkedText(np.where(lacking, unknown, tokens), shown, len(places))

    def spell(self, text: str, *, skip_unknown: bool = False) -> Tokens:
        found = self.encode_marked(text, self.unknown)
        if skip_unknown:
            kept: Tokens = found.tokens[found.tokens != self.unknown]
            return kept
        if found.unknown_count:
            raise UnknownSymbolsError(found.unknown, found.unknown_count, "word")
        return found.tokens

    def tokens_of(self, characters: str, *, skip_unknown: bool = False) -> Tokens:
        characters = self.normalisation.apply(characters)
        wanted = {ord(character) for character in characters}
        letters, tokens = self._letters
        unknown = wanted - self._known
        if unknown and not skip_unknown:
            places = [
                UnknownSymbol(character, at) for at, character in enumerate(characters) if ord(character) in unknown
            ]
            raise UnknownSymbolsError(places[:SHOWN_UNKNOWNS], len(places))
        allowed = np.ones(self.size, bool)
        allowed[self.unknown] = False
        allowed[tokens[np.isin(letters, list(wanted), invert=True)]] = False
        return np.flatnonzero(allowed)

    def to_json(self) -> dict[str, object]:
        content = super().to_json()
        return content if self.rule is WordRule.LETTERS else content | {"words": self.rule.value}

    def tokens_with(self, characters: str) -> Tokens:
        letters, tokens = self._letters
        wanted = [ord(character) for character in self.normalisation.apply(characters)]
        found = np.zeros(self.size, bool)
        found[tokens[np.isin(letters, wanted)]] = True
        return np.flatnonzero(found)

    @functools.cached_property
    def _known(self) -> frozenset[int]:
        """The code points that occur in symbols."""
        return frozenset(np.unique(self._letters[0]).tolist())

    @functools.cached_property
    def _letters(self) -> tuple[Tokens, Tokens]:
        """The code points of all symbols but the unknown one, and the token that each is from."""
        words = self.symbols[1:]
        letters = np.frombuffer("".join(words).encode("utf-32-le"), "<u4").astype(np.int64)
        return letters, np.repeat(np.arange(1, self.size), [len(word) for word in words])
