"""Log-probabilities that are kept as arrays read like pairs."""

from __future__ import annotations

import numpy as np

from charloom.engine.decoding.decoder import Outputs
from charloom.engine.loom.logprobs import Alternatives, logprobs_of

STEPS, ROWS, TOP = 4, 3, 2


def outputs() -> Outputs:
    numbers = np.arange(STEPS * ROWS * TOP).reshape(STEPS, ROWS, TOP)
    tokens = np.arange(STEPS * ROWS).reshape(STEPS, ROWS)
    state = np.zeros((2, 1, ROWS, 4), np.float32)
    logprob = -tokens.astype(np.float32)
    top_logprob, taken = -numbers.astype(np.float32), np.full(tokens.shape[1], len(tokens))
    free = np.zeros_like(taken), np.zeros_like(logprob), np.zeros((ROWS, 0), np.float32)
    return Outputs(tokens, logprob, state, numbers, top_logprob, taken, *free)


def test_alternatives_are_a_sequence_of_pairs() -> None:
    found = Alternatives(np.array([[1, 2], [3, 4]], np.int32), np.array([[-1, -2], [-3, -4]], np.float32), 1)
    assert (len(found), list(found), found[1], found[-1:]) == (2, [(3, -3.0), (4, -4.0)], (4, -4.0), [(4, -4.0)])
    assert found == [(3, -3.0), (4, -4.0)]
    assert found != [(3, -3.0)]
    assert [type(part) for part in found[0]] == [int, float]


def test_a_row_is_told_of_its_own_steps() -> None:
    told = logprobs_of(outputs(), 1, 3, TOP)
    assert [(one.token, one.logprob) for one in told] == [(1, -1.0), (4, -4.0), (7, -7.0)]
    assert [list(one.top) for one in told] == [
        [(2, -2.0), (3, -3.0)],
        [(8, -8.0), (9, -9.0)],
        [(14, -14.0), (15, -15.0)],
    ]
    assert [list(one.top) for one in logprobs_of(outputs(), 1, 2, 1)] == [[(2, -2.0)], [(8, -8.0)]]
    assert all(one.top == () for one in logprobs_of(outputs(), 1, 3, 0))


def test_nothing_of_other_rows_is_kept() -> None:
    made = outputs()
    (first, *_) = logprobs_of(made, 0, 2, TOP)
    made.top_tokens[:] = 99
    assert list(first.top) == [(0, 0.0), (1, -1.0)]
