from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charloom.engine.uniforms import philox, uniforms

# From the known-answer file of Random123, the authors' own implementation (philox4x32, 10 rounds).
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> tuple[np.ndarray, ...]:
    return tuple(np.array([int(word, 16)], np.uint64) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_known_answers(counter: str, key: str, expected: str) -> None:
    found = philox(words(counter), words(key))  # type: ignore[arg-type]
    assert [f"{int(word[0]):08x}" for word in found] == expected.split()


def at(seed: int, position: int, count: int = 1) -> np.ndarray:
    return uniforms(np.array([seed], np.uint64), np.array([position], np.uint64), count)[:, 0]


@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**40), count=st.integers(1, 40))
def test_a_number_depends_on_seed_and_position_alone(seed: int, position: int, count: int) -> None:
    together = at(seed, position, count)
    apart = [at(seed, position + step)[0] for step in range(count)]
    assert together.tolist() == apart


def test_rows_do_not_influence_each_other() -> None:
    seeds, positions = np.array([5, 6, 5], np.uint64), np.array([0, 7, 1_000_003], np.uint64)
    whole = uniforms(seeds, positions, 9)
    for row in range(3):
        assert whole[:, row].tolist() == at(int(seeds[row]), int(positions[row]), 9).tolist()


def test_numbers_lie_in_the_half_open_interval_and_are_uniform() -> None:
    numbers = at(42, 0, 100_000)
    assert numbers.dtype == np.float32
    assert numbers.min() >= 0
    assert numbers.max() <= 1 - 2**-23
    counts, _ = np.histogram(numbers, bins=100, range=(0, 1))
    chi_square = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi_square < 149  # 99.9 % quantile for 99 degrees of freedom: 148.2


def test_different_seeds_give_unrelated_numbers() -> None:
    correlation = np.corrcoef(at(1, 0, 10_000), at(2, 0, 10_000))[0, 1]
    assert abs(correlation) < 0.04


def test_the_high_half_of_the_seed_counts() -> None:
    assert at(1, 0, 8).tolist() != at(1 + 2**32, 0, 8).tolist()
