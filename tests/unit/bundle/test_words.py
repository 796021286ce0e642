from __future__ import annotations

import json
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charloom.bundle import (
    BundleError,
    ByteVocabulary,
    CharacterVocabulary,
    Normalisation,
    Unit,
    UnknownSymbolsError,
    Vocabulary,
    WordVocabulary,
    read_vocabulary,
    split_words,
    vocabulary_of,
    write_vocabulary,
)

TEXT = "the cat's hat, the cat and the dog.\nDon't!"


def words(*symbols: str) -> WordVocabulary:
    return WordVocabulary(["�", *symbols])


@given(text=st.text() | st.text("ab_1 '’.\n"))
def test_a_text_is_its_tokens_one_after_the_other(text: str) -> None:
    tokens = split_words(text)
    assert "".join(tokens) == text
    for token in tokens:
        assert split_words(token) == [token]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't stop", ["Don't", " ", "stop"]),
        ("rock 'n' roll", ["rock", " ", "'", "n", "'", " ", "roll"]),
        ("l’été: 3.14", ["l’été", ":", " ", "3", ".", "14"]),
        ("a  b\n\n", ["a", " ", " ", "b", "\n", "\n"]),
        ("夜は短し。", ["夜は短し", "。"]),
    ],
)
def test_a_word_has_apostrophes_inside_and_all_else_stands_by_itself(text: str, tokens: list[str]) -> None:
    assert split_words(text) == tokens


def test_the_most_frequent_words_have_symbols_and_equal_ones_are_taken_by_name() -> None:
    counts = Counter(split_words(TEXT))
    assert WordVocabulary.of_counts(counts, 4).symbols == ("�", " ", "the", "\n")
    assert WordVocabulary.of_counts(counts, 6).symbols == ("�", " ", "the", "\n", "!", ",")
    assert WordVocabulary.of_counts(counts, 4, always=["\n"]).symbols == ("�", "\n", " ", "the")
    assert WordVocabulary.of_counts(counts, 1000).size == len(counts) + 1
    assert WordVocabulary.of_counts({"a": 1, "�": 9}, 10).symbols == ("�", "a")


@given(text=st.text() | st.text("abc '’"))
def test_reading_never_fails_and_what_has_no_symbol_is_the_unknown_one(text: str) -> None:
    vocabulary = words("\n", " ", "a", "ab", "b")
    tokens = vocabulary.encode(text)
    expected = [vocabulary.symbols.index(word) if word in vocabulary.symbols else 0 for word in split_words(text)]
    assert tokens.tolist() == expected
    assert tokens.dtype == np.int64
    assert vocabulary.encode(text, skip_unknown=True).tolist() == [token for token in expected if token]
    assert vocabulary.decode(tokens.tolist()).replace("�", "") == vocabulary.decode([t for t in expected if t])


def test_what_cannot_be_written_is_named_with_its_place() -> None:
    vocabulary = words(" ", "the", "cat")
    assert vocabulary.spell("the cat").tolist() == [2, 1, 3]
    with pytest.raises(UnknownSymbolsError, match=r"2 word\(s\) are not .*: 'dog' at 4, '�' \(U\+FFFD\) at 8$"):
        vocabulary.spell("the dog �")
    assert vocabulary.spell("the dog �", skip_unknown=True).tolist() == [2, 1, 1]


@given(characters=st.text("abc xé.", max_size=5))
def test_tokens_are_found_by_their_characters(characters: str) -> None:
    vocabulary = words("\n", " ", "a", "ab", "abba", "b", "cab", ".")
    of = [t for t, word in enumerate(vocabulary.symbols) if t and set(word) <= set(characters)]
    having = [t for t, word in enumerate(vocabulary.symbols) if t and set(word) & set(characters)]
    assert vocabulary.tokens_of(characters, skip_unknown=True).tolist() == of
    assert vocabulary.tokens_with(characters).tolist() == having
    strange = [c for c in characters if c in "xé"]
    if strange:
        with pytest.raises(UnknownSymbolsError, match=rf"^{len(strange)} character\(s\).*'{strange[0]}'"):
            vocabulary.tokens_of(characters)


def test_not_all_symbols_are_looked_at_one_by_one_for_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unlisted(np.ndarray):  # type: ignore[type-arg]
        def tolist(self) -> None:
            raise AssertionError

    vocabulary = words("a", "ab", "b")
    assert vocabulary.tokens_of("b").tolist() == [3]
    letters, tokens = vocabulary._letters
    vars(vocabulary)["_letters"] = letters.view(Unlisted), tokens
    assert vocabulary.tokens_of("a").tolist() == [1]
    monkeypatch.setattr(WordVocabulary, "symbol", None)
    assert vocabulary.symbols_digest != words("aa", "b", "b1").symbols_digest
    assert words("a", "b_c").symbols_digest != words("a_b", "c").symbols_digest


def test_the_start_token_is_the_newline_or_the_space_or_the_unknown_one() -> None:
    assert words("a", "\n").start_token == 2
    assert words("a", " ").start_token == 2
    assert words("a").start_token == 0


@pytest.mark.parametrize("symbols", [[], ["�"], ["a", "b"], ["�", "a", "a"], ["�", "two words"], ["�", ""], ["�", 7]])
def test_symbols_that_are_no_words_are_refused(symbols: list[str], tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError)):
        WordVocabulary(symbols)
    (tmp_path / "vocabulary.json").write_text(json.dumps({"unit": "word", "symbols": symbols}))
    with pytest.raises(BundleError, match="is not a vocabulary"):
        read_vocabulary(tmp_path / "vocabulary.json")


DECOMPOSED = unicodedata.normalize("NFD", "é à ﬁ")


@pytest.mark.parametrize(
    "vocabulary",
    [
        CharacterVocabulary(sorted(" éàﬁ"), Normalisation.NFC),
        ByteVocabulary(Normalisation.NFC),
        WordVocabulary(["�", " ", "é", "à", "ﬁ"], Normalisation.NFC),
    ],
    ids=lambda vocabulary: vocabulary.unit.value,
)
def test_text_is_brought_into_the_vocabulary_s_form_also_after_writing_and_reading(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    write_vocabulary(tmp_path / "vocabulary.json", vocabulary)
    for each in (vocabulary, read_vocabulary(tmp_path / "vocabulary.json")):
        assert each.normalisation is Normalisation.NFC
        assert each.decode(each.encode(DECOMPOSED).tolist()) == "é à ﬁ"
        assert each.decode(each.spell(DECOMPOSED).tolist()) == "é à ﬁ"
        assert each.tokens_of(DECOMPOSED[:2]).tolist() == each.tokens_of("é").tolist()
        assert each.tokens_with(DECOMPOSED[:2]).tolist() == each.tokens_with("é").tolist()


def test_an_unknown_character_is_placed_in_the_text_in_the_vocabulary_s_form() -> None:
    with pytest.raises(UnknownSymbolsError, match=r"'x' \(U\+0078\) at 1"):
        CharacterVocabulary(["é"], Normalisation.NFC).encode(DECOMPOSED[:2] + "x")


def test_the_compatible_form_is_another_one() -> None:
    assert Normalisation.NFKC.apply(DECOMPOSED) == "é à fi"
    assert Normalisation.NONE.apply(DECOMPOSED) == DECOMPOSED


def test_no_form_leaves_no_trace_in_the_file_and_a_strange_one_is_refused(tmp_path: Path) -> None:
    assert CharacterVocabulary(["a"]).to_json() == {"unit": "character", "symbols": ["a"]}
    (tmp_path / "vocabulary.json").write_text('{"unit": "byte", "normalisation": "nfx"}')
    with pytest.raises(BundleError, match="nfx"):
        read_vocabulary(tmp_path / "vocabulary.json")


@pytest.mark.parametrize(
    "word",
    ["दुनिया", "தமிழ்", "ภาษาไทย", "cafe\u0301", "d'e\u0301t\u00e9", "क्\u200dष", "می\u200cخواهم", "a\ufe0f"],
)
def test_marks_and_joiners_belong_to_the_word_whose_letter_they_follow(word: str) -> None:
    assert split_words(f"{word} {word}, {word}") == [word, " ", word, ",", " ", word]
    assert split_words("\u0301x") == ["\u0301", "x"]  # with no letter before it


def test_every_combining_mark_is_known() -> None:
    marks = [chr(point) for point in range(0x110000) if unicodedata.category(chr(point)).startswith("M")]
    assert len(marks) > 2000
    assert split_words("x" + "".join(marks)) == ["x" + "".join(marks)]


def test_the_rule_is_that_of_the_vocabulary_file_and_the_former_one_where_it_names_none(tmp_path: Path) -> None:
    text = "cafe\u0301 x"
    made = vocabulary_of(text, Unit.WORD)
    write_vocabulary(tmp_path / "vocabulary.json", made)
    content = json.loads((tmp_path / "vocabulary.json").read_text("utf-8"))
    assert content["words"] == "marks"
    read = read_vocabulary(tmp_path / "vocabulary.json")
    assert read.encode(text).tolist() == made.encode(text).tolist()
    assert len(read.encode(text)) == 3

    former = {"unit": "word", "symbols": ["\N{REPLACEMENT CHARACTER}", "cafe", "\u0301", " ", "x"]}
    (tmp_path / "vocabulary.json").write_text(json.dumps(former), "utf-8")
    read = read_vocabulary(tmp_path / "vocabulary.json")
    assert read.encode(text).tolist() == [1, 2, 3, 4]
    assert read.to_json() == former
    (tmp_path / "vocabulary.json").write_text(json.dumps(former | {"words": "syllables"}), "utf-8")
    with pytest.raises(BundleError, match="'syllables' is not a valid WordRule"):
        read_vocabulary(tmp_path / "vocabulary.json")
