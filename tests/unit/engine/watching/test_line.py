from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charloom.bundle import ByteVocabulary, CharacterVocabulary, Mask, Normalisation
from charloom.engine.watching.line import ReadLine
from charloom.engine.watching.surprise import UNKNOWN_NATS

BYTES = ByteVocabulary()
LETTERS = CharacterVocabulary.of_text("abcdef 0\n")


def test_each_byte_counts_for_its_character_and_a_masked_number_for_its_first_digit() -> None:
    line = ReadLine.of("é 123 x", BYTES, Mask.NUMBERS, 100)
    assert bytes(line.tokens.tolist()) == "é 0 x\n".encode()
    scored = line.scored(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]))
    assert scored.surprisals == [3.0, 3.0, 4.0, 0.0, 0.0, 5.0, 6.0]
    assert (scored.nats, scored.tokens) == (28.0, 7)


def test_a_character_without_a_symbol_costs_what_it_costs_and_is_not_read() -> None:
    line = ReadLine.of("ab€c", LETTERS, Mask.NONE, 100)
    assert LETTERS.decode(line.tokens.tolist()) == "abc\n"
    scored = line.scored(np.array([1.0, 1.0, 1.0, 1.0]))
    assert scored.surprisals == [1.0, 1.0, UNKNOWN_NATS, 1.0]
    assert scored.surprise == pytest.approx((UNKNOWN_NATS + 3) / 4)


def test_a_line_of_unknown_characters_alone_is_not_refused() -> None:
    line = ReadLine.of("€€€€", CharacterVocabulary.of_text("ab"), Mask.NONE, 100)
    assert line.tokens.tolist() == []
    assert line.scored(np.zeros(0)).surprise == pytest.approx(UNKNOWN_NATS)


def test_of_a_long_line_the_beginning_is_read() -> None:
    line = ReadLine.of("a" * 10_000_000, LETTERS, Mask.NONE, 4096)
    assert (line.length, line.cut, len(line.tokens)) == (4096, True, 4097)
    assert not ReadLine.of("a" * 4096, LETTERS, Mask.NONE, 4096).cut


@given(
    st.text(max_size=40), st.sampled_from([BYTES, LETTERS, ByteVocabulary(Normalisation.NFKC)]), st.sampled_from(Mask)
)
def test_no_line_is_refused_and_all_that_it_costs_is_told(text: str, vocabulary: ByteVocabulary, mask: Mask) -> None:
    line = ReadLine.of(text, vocabulary, mask, 30)
    nats = np.arange(1.0, len(line.tokens) + 1)
    scored = line.scored(nats)
    assert len(scored.surprisals) == line.length
    assert scored.nats == pytest.approx(nats.sum() + UNKNOWN_NATS * (scored.tokens - len(nats)))
    assert sum(scored.surprisals) <= scored.nats + 1e-9


def test_what_is_no_unicode_is_read_as_question_marks() -> None:
    assert bytes(ReadLine.of("a\ud800b", BYTES, Mask.NONE, 100).tokens.tolist()) == b"a?b\n"
