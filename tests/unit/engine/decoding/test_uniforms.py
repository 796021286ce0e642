from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charloom.engine.decoding.uniforms import Uniforms

MULTIPLIERS, WEYL = (0xD2E7470EE14C6C93, 0xCA5A826395121157), (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
WORD = 2**64

# From the known-answer file of Random123, the authors' own implementation (philox4x64, 10 rounds).
KNOWN = [
    (0, 0, "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
    (2**256 - 1, 2**128 - 1, "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0"),
]


def philox(counter: int, key: int) -> list[int]:
    """Philox4x64-10 in plain integers."""
    c = [counter >> 64 * n & WORD - 1 for n in range(4)]
    k = [key & WORD - 1, key >> 64]
    for _ in range(10):
        p0, p1 = MULTIPLIERS[0] * c[0], MULTIPLIERS[1] * c[2]
        c = [p1 // WORD ^ c[1] ^ k[0], p1 % WORD, p0 // WORD ^ c[3] ^ k[1], p0 % WORD]
        k = [(word + step) % WORD for word, step in zip(k, WEYL, strict=True)]
    return c


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_the_statement_of_philox_gives_the_known_answers(counter: int, key: int, expected: str) -> None:
    assert [f"{word:016x}" for word in philox(counter, key)] == expected.split()


@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**64 - 9), count=st.integers(1, 9))
def test_numbers_are_the_top_bits_of_philox_at_their_position(seed: int, position: int, count: int) -> None:
    """NumPy counts up before it generates, so the first block is that of counter 1."""
    expected = [(philox(at // 4 + 1, seed)[at % 4] >> 41) * 2.0**-23 for at in range(position, position + count)]
    assert at(seed, position, count).tolist() == expected


def at(seed: int, position: int, count: int = 1) -> np.ndarray:
    return Uniforms().at(seed, position, count)


@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**40), count=st.integers(1, 40))
def test_a_number_depends_on_seed_and_position_alone(seed: int, position: int, count: int) -> None:
    together = at(seed, position, count)
    apart = [at(seed, position + step)[0] for step in range(count)]
    assert together.tolist() == apart


@given(st.lists(st.tuples(st.sampled_from([7, 2**64 - 7]), st.integers(0, 30), st.integers(0, 9))))
def test_what_was_asked_before_does_not_matter(asked: list[tuple[int, int, int]]) -> None:
    numbers, whole = Uniforms(), {seed: at(seed, 0, 40).tolist() for seed in (7, 2**64 - 7)}
    for seed, position, count in asked:
        assert numbers.at(seed, position, count).tolist() == whole[seed][position : position + count]


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
