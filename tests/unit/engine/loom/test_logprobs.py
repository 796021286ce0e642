"""Log-probabilities that are kept as arrays read like a list of tokens."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest

from charloom.engine.decoding.decoder import Outputs
from charloom.engine.loom.logprobs import NONE_TOLD, Logprobs, logprobs_of

STEPS, ROWS, TOP = 4, 3, 2


def outputs() -> Outputs:
    numbers = np.arange(STEPS * ROWS * TOP).reshape(STEPS, ROWS, TOP)
    tokens = np.arange(STEPS * ROWS).reshape(STEPS, ROWS)
    state = np.zeros((2, 1, ROWS, 4), np.float32)
    logprob = -tokens.astype(np.float32)
    top_logprob, taken = -numbers.astype(np.float32), np.full(tokens.shape[1], len(tokens))
    free = np.zeros_like(taken), np.zeros_like(logprob), np.zeros((ROWS, 0), np.float32)
    return Outputs(tokens, logprob, state, numbers, top_logprob, taken, *free)


def of_ticks(*steps: int) -> Logprobs:
    return Logprobs.joined(logprobs_of(outputs(), 1, count, TOP) for count in steps)


def test_a_row_is_told_of_its_own_steps() -> None:
    told = logprobs_of(outputs(), 1, 3, TOP)
    assert [(one.token, one.logprob) for one in told] == [(1, -1.0), (4, -4.0), (7, -7.0)]
    assert [one.top for one in told] == [
        [(2, -2.0), (3, -3.0)],
        [(8, -8.0), (9, -9.0)],
        [(14, -14.0), (15, -15.0)],
    ]
    assert (told.tokens, told.values) == ([1, 4, 7], [-1.0, -4.0, -7.0])
    assert [one.top for one in logprobs_of(outputs(), 1, 2, 1)] == [[(2, -2.0)], [(8, -8.0)]]
    assert not any(one.top for one in logprobs_of(outputs(), 1, 3, 0))
    assert len(logprobs_of(outputs(), 1, 0, TOP)) == 0
    assert [type(part) for part in (*told[0][:2], *told[0].top[0])] == [int, float, int, float]


@pytest.mark.parametrize("steps", [(), (4,), (1, 2), (4, 1, 3, 2)])
def test_tokens_of_several_ticks_are_one_sequence(steps: tuple[int, ...]) -> None:
    made = of_ticks(*steps)
    expected = [one for count in steps for one in logprobs_of(outputs(), 1, count, TOP)]
    assert (len(made), list(made), list(made.packed())) == (len(expected), expected, expected)
    assert [made[place] for place in range(-len(made), len(made))] == 2 * expected
    for start, stop in itertools.product(range(-1, len(made) + 2), repeat=2):
        assert list(made[start:stop]) == expected[start:stop]


def test_what_is_not_there_cannot_be_taken() -> None:
    with pytest.raises(IndexError):
        NONE_TOLD[0]
    with pytest.raises(ValueError, match="follow each other"):
        of_ticks(2)[::2]


def test_a_distribution_has_a_place_for_every_symbol() -> None:
    assert of_ticks(1, 2).distribution(2, 10).tolist() == [-np.inf] * 8 + [-8.0, -9.0]


def test_nothing_of_other_rows_is_kept() -> None:
    made = outputs()
    told = logprobs_of(made, 0, 2, TOP)
    made.top_tokens[:] = 99
    made.tokens[:] = 99
    assert told[0].top == [(0, 0.0), (1, -1.0)]
    assert told.tokens == [0, 3]


def test_the_garbage_collector_has_as_much_to_look_at_whatever_the_number_of_tokens() -> None:
    few, many = (of_ticks(*[STEPS] * count).packed() for count in (1, 100))

    def looked_at(told: Logprobs) -> int:
        found, new = 0, [told]
        while new:
            found += len(new)
            new = [inner for one in new for inner in gc.get_referents(one) if gc.is_tracked(inner)]
            new = [inner for inner in new if not isinstance(inner, type)]
        return found

    assert looked_at(few) == looked_at(many)
