from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charloom.bundle import Mask


@pytest.mark.parametrize(
    ("mask", "masked"),
    [
        (Mask.NONE, "iar 0x0ED0 took 12.5 s, x2"),
        (Mask.DIGITS, "iar 0x0ED0 took 00.0 s, x0"),
        (Mask.NUMBERS, "iar 0 took 0.0 s, x0"),
    ],
)
def test_numbers_are_made_alike(mask: Mask, masked: str) -> None:
    assert mask.apply("iar 0x0ED0 took 12.5 s, x2") == masked


def test_digits_of_other_scripts_stay() -> None:
    assert Mask.NUMBERS.apply("٣ and 3") == "٣ and 0"


@pytest.mark.parametrize("mask", Mask)
@given(st.text(alphabet="0123x ab\n٣", max_size=30))
def test_each_character_knows_where_it_comes_from(mask: Mask, text: str) -> None:
    masked, places = mask.apply_with_places(text)
    assert masked == mask.apply(text)
    assert len(places) == len(masked)
    assert places == sorted(set(places))
    assert all(
        text[place] == one or (one == "0" and text[place].isdigit()) for one, place in zip(masked, places, strict=True)
    )


@given(st.lists(st.text(alphabet="01xf a", max_size=8), max_size=6), st.sampled_from(Mask))
def test_words_can_be_masked_one_by_one(words: list[str], mask: Mask) -> None:
    assert mask.apply("\n".join(words)) == "\n".join(map(mask.apply, words))
