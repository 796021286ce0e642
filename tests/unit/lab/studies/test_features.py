from __future__ import annotations

import numpy as np
import pytest

from charloom.lab.studies.features import CLASSES, FEATURES, character_class, values


def found(name: str, text: str) -> list[int]:
    (feature,) = [feature for feature in FEATURES if feature.name == name]
    return list(feature.values(text))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("position in line", "ab\nc\n\nd", [1, 2, 0, 1, 0, 0, 1]),
        ("position in word", "ab, c3 'tis don't", [1, 2, 0, 0, 1, 2, 0, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5]),
        ("inside quotes", 'a"bc"d', [0, 1, 1, 1, 0, 0]),
        ("inside quotes", "“b”c", [1, 1, 0, 0]),
        ("inside quotes", 'a"b\nc\n\nd', [0, 1, 1, 1, 1, 1, 0, 0]),
        ("indentation", "  a b\n\tc\nd ", [1, 2, 2, 2, 2, 0, 4, 4, 0, 0, 0]),
    ],
)
def test_a_feature_of_each_character(name: str, text: str, expected: list[int]) -> None:
    assert found(name, text) == expected


def test_a_feature_that_a_text_does_not_have_is_none() -> None:
    has = {feature.name: values(feature, "one two three. " * 40) is not None for feature in FEATURES}
    assert has == {"position in line": False, "position in word": True, "inside quotes": False, "indentation": False}
    has = {feature.name: values(feature, 'if x:\n    say("so")\n' * 40) is not None for feature in FEATURES}
    assert all(has.values())
    rare = "word " * 400 + '"q"'  # two characters of two thousand
    assert values(FEATURES[2], rare) is None


def test_features_look_back_only() -> None:
    text = 'A "line" of\n  some words\n\n"open and\n\tnot closed'
    for feature in FEATURES:
        whole = np.array(list(feature.values(text)))
        for length in range(1, len(text)):
            assert list(feature.values(text[:length])) == list(whole[:length])


@pytest.mark.parametrize(
    ("characters", "expected"),
    [
        ("aé中", "lower case"),
        ("ZÉ", "upper case"),
        ("7", "digit"),
        (" \t", "space"),
        ("\n", "newline"),
        (",'“—", "punctuation"),
        ("\x00\ufffd", "other"),
    ],
)
def test_each_character_has_a_class(characters: str, expected: str) -> None:
    assert expected in CLASSES
    assert {character_class(character) for character in characters} == {expected}
