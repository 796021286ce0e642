from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charloom.bundle import (
    BundleError,
    ByteVocabulary,
    CharacterVocabulary,
    Unit,
    UnknownSymbol,
    UnknownSymbolsError,
    read_vocabulary,
    too_large,
    vocabulary_file,
    vocabulary_of,
    write_vocabulary,
)

CUTS = st.lists(st.integers(0, 200), max_size=12)


def pieces(tokens: list[int], cuts: Iterable[int]) -> list[list[int]]:
    """`tokens`, cut at some places."""
    places = [0, *sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]
    return [tokens[start:end] for start, end in itertools.pairwise(places)]


@given(text=st.text(min_size=1), cuts=CUTS)
def test_character_tokens_give_back_any_text_in_any_chunks(text: str, cuts: list[int]) -> None:
    vocabulary = CharacterVocabulary.of_text(text)
    tokens = vocabulary.encode(text)
    assert tokens.dtype == np.int64
    assert len(tokens) == len(text)
    assert vocabulary.decode(tokens.tolist()) == text
    decoder = vocabulary.decoder()
    assert "".join(decoder.feed(piece) for piece in pieces(tokens.tolist(), cuts)) == text
    assert decoder.tail == b""


@given(text=st.text())
def test_byte_tokens_are_the_utf8_bytes_and_give_back_any_text(text: str) -> None:
    vocabulary = ByteVocabulary()
    tokens = vocabulary.encode(text)
    assert bytes(tokens.tolist()) == text.encode()
    assert vocabulary.decode(tokens.tolist()) == text


@given(text=st.text(st.characters(min_codepoint=0x80, exclude_categories=["Cs"]), max_size=40), cuts=CUTS)
def test_byte_decoder_never_splits_a_character_and_hands_its_tail_to_a_new_decoder(text: str, cuts: list[int]) -> None:
    vocabulary = ByteVocabulary()
    seen, given_out, tail = b"", "", b""
    for piece in pieces(list(text.encode()), cuts):
        decoder = vocabulary.decoder(tail)
        given_out += decoder.feed(piece)
        tail = decoder.tail
        seen += bytes(piece)
        assert given_out == seen.decode("utf-8", "ignore")  # all complete characters at once, nothing of the next
        assert given_out.encode() + tail == seen
    assert given_out == text
    assert tail == b""


@given(raw=st.binary(max_size=60), cuts=CUTS)
def test_bytes_that_are_not_utf8_come_out_as_replacement_characters_in_any_chunks(raw: bytes, cuts: list[int]) -> None:
    decoder = ByteVocabulary().decoder()
    text = "".join(decoder.feed(piece) for piece in pieces(list(raw), cuts))
    assert text + decoder.tail.decode("utf-8", "replace") == raw.decode("utf-8", "replace")


def test_an_invalid_byte_is_one_replacement_character_between_its_neighbours() -> None:
    assert ByteVocabulary().decode([ord("a"), 0xFF, ord("b")]) == "a\ufffdb"


def test_unknown_characters_are_named_with_positions_in_characters() -> None:
    vocabulary = CharacterVocabulary.of_text("abc")
    with pytest.raises(UnknownSymbolsError) as caught:
        vocabulary.encode("a𝄞bé")
    assert caught.value.shown == (UnknownSymbol("𝄞", 1), UnknownSymbol("é", 3))
    assert caught.value.count == 2
    assert "'𝄞' (U+1D11E) at 1, 'é' (U+00E9) at 3" in str(caught.value)


def test_of_many_unknown_characters_ten_are_named_and_all_are_counted() -> None:
    with pytest.raises(UnknownSymbolsError, match=r"^25 character.*and 15 more$") as caught:
        CharacterVocabulary.of_text("ab").encode("a" + "z" * 25)
    assert [unknown.position for unknown in caught.value.shown] == list(range(1, 11))
    assert caught.value.count == 25


@given(symbols=st.text(min_size=1), text=st.text())
def test_skip_unknown_leaves_out_exactly_the_unknown_characters(symbols: str, text: str) -> None:
    vocabulary = CharacterVocabulary.of_text(symbols)
    tokens = vocabulary.encode(text, skip_unknown=True)
    assert vocabulary.decode(tokens.tolist()) == "".join(c for c in text if c in symbols)


@pytest.mark.parametrize(("text", "symbol"), [("b a\n", "\n"), ("b a", " "), ("ba", "a"), ("\t\n ", "\n")], ids=repr)
def test_start_token_is_the_newline_then_the_space_then_the_first_symbol(text: str, symbol: str) -> None:
    vocabulary = CharacterVocabulary.of_text(text)
    assert vocabulary.symbols[vocabulary.start_token] == symbol


def test_start_token_of_bytes_is_the_newline() -> None:
    assert ByteVocabulary().start_token == 10


@pytest.mark.parametrize(
    ("symbols", "problem"),
    [([], "at least one"), (["a", "bc"], "one code point"), (["b", "a"], "ascending"), (["a", "a"], "distinct")],
)
def test_a_character_vocabulary_refuses_symbols_that_are_no_sorted_set(symbols: list[str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        CharacterVocabulary(symbols)


@pytest.mark.parametrize("unit", list(Unit))
def test_a_vocabulary_is_the_same_after_writing_and_reading(unit: Unit, tmp_path: Path) -> None:
    text = 'é\n"\\ 𝄞\u2028あ\x00'
    written = vocabulary_of(text, unit)
    write_vocabulary(tmp_path / "vocabulary.json", written)
    read = read_vocabulary(tmp_path / "vocabulary.json")
    assert read.unit is unit
    assert read.size == written.size
    assert read.start_token == written.start_token
    assert read.encode(text).tolist() == written.encode(text).tolist()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        "{}",
        json.dumps({"unit": "word"}),
        json.dumps({"unit": "character"}),
        json.dumps({"unit": "character", "symbols": []}),
        json.dumps({"unit": "character", "symbols": [1, 2]}),
        json.dumps({"unit": "character", "symbols": ["b", "a"]}),
    ],
)
def test_a_file_that_describes_no_vocabulary_is_refused_by_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "vocabulary.json").write_text(content)
    with pytest.raises(BundleError, match=r"vocabulary\.json is not a vocabulary"):
        read_vocabulary(tmp_path / "vocabulary.json")


def test_what_can_be_written_but_not_read_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary, path = vocabulary_of("あい", Unit.CHARACTER), tmp_path / "vocabulary.json"
    write_vocabulary(path, vocabulary)
    size = path.stat().st_size
    monkeypatch.setattr(vocabulary_file, "LARGEST_VOCABULARY", size)
    assert too_large(vocabulary) is None
    assert read_vocabulary(path).size == 2
    monkeypatch.setattr(vocabulary_file, "LARGEST_VOCABULARY", size - 1)
    assert too_large(vocabulary) == f"its file has {size} bytes, more than {size - 1}"
    with pytest.raises(BundleError, match=f"is not a vocabulary: it has {size} bytes, more than {size - 1}"):
        read_vocabulary(path)


def test_a_missing_vocabulary_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"vocabulary\.json is not a vocabulary: .*No such file"):
        read_vocabulary(tmp_path / "vocabulary.json")
