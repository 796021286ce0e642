"""What a text contains, counted in one reading: characters, words, and whether a vocabulary covers them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from charloom.bundle import (
    DEFAULT_WORDS,
    SHOWN_UNKNOWNS,
    ByteVocabulary,
    CharacterVocabulary,
    Normalisation,
    Unit,
    Vocabulary,
    WordVocabulary,
    split_words,
    too_large,
)
from charloom.training.data.documents import Part
from charloom.training.data.texts import CorpusError

_CODE_POINTS = 0x110000


class Survey:
    """Counts of a text, in one Unicode form.

    Args:
        text: parts of the text, some at a time; cut where neither a word nor a composed character goes on
        unit: words are counted for words only
        normalisation: the form
    """

    def __init__(self, text: Iterable[list[Part]], unit: Unit, normalisation: Normalisation) -> None:
        self._counts = np.zeros(_CODE_POINTS, np.int64)
        self._words: Counter[str] = Counter()
        for some in text:
            whole = [normalisation.apply(part.text) for part in some]
            points = np.frombuffer("".join(whole).encode("utf-32-le"), "<u4")
            found = np.bincount(points)
            self._counts[: len(found)] += found
            if unit is Unit.WORD:
                for each in whole:
                    self._words.update(split_words(each))
        self._normalisation = normalisation

    @property
    def characters(self) -> int:
        """How many there are."""
        return int(self._counts.sum())

    @property
    def symbols(self) -> list[str]:
        """The distinct characters, in ascending order."""
        return [chr(point) for point in np.flatnonzero(self._counts)]

    def vocabulary(self, unit: Unit, size: int | None, *, documents: bool) -> Vocabulary:
        """The vocabulary that a model of this text needs.

        Args:
            unit: what one token is
            size: most symbols of a word vocabulary
            documents: whether it needs the newline, which stands before each of them
        """
        if unit is Unit.BYTE:
            return ByteVocabulary(self._normalisation)
        start = ["\n"] if documents else []
        if unit is Unit.CHARACTER:
            return CharacterVocabulary(sorted({*self.symbols, *start}), self._normalisation)
        return WordVocabulary.of_counts(self._words, size or DEFAULT_WORDS, self._normalisation, start)

    def check(self, vocabulary: Vocabulary, name: str, advice: str) -> None:
        """Refuse the text, which messages call `name`, if it has characters that the vocabulary lacks.

        Raises:
            CorpusError: it has some; the message ends with `advice`.
        """
        if not isinstance(vocabulary, CharacterVocabulary):
            return
        lacking = set(self.symbols).difference(vocabulary.symbols)
        if lacking:
            often = sorted(
                ((int(self._counts[ord(symbol)]), symbol) for symbol in lacking), key=lambda x: (-x[0], x[1])
            )
            shown = ", ".join(f"{s!r} (U+{ord(s):04X}) {count:,} times" for count, s in often[:SHOWN_UNKNOWNS])
            more = f", and {len(often) - SHOWN_UNKNOWNS} more" if len(often) > SHOWN_UNKNOWNS else ""
            raise CorpusError(
                f"{sum(count for count, _ in often):,} character(s) of {name} are not in the model's vocabulary: "
                f"{shown}{more}; {advice}"
            )


def require_room(vocabulary: Vocabulary, name: str, advice: str) -> None:
    """Refuse a text, which messages call `name`, whose vocabulary no model can have.

    Raises:
        CorpusError: it is such; the message ends with `advice`.
    """
    if problem := too_large(vocabulary):
        raise CorpusError(f"the vocabulary of {name} is too large: {problem}; {advice}")
