"""What a row says of itself: when it is to be attended to next."""

from __future__ import annotations

import numpy as np
import pytest

from charloom.engine.decoding.decoder import Outputs, States
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.loom.jobs import Job
from charloom.engine.loom.row import Row
from charloom.engine.loom.schedule import LAST_TOKENS, PAUSES

PAUSE = 0.05
STATE = np.zeros((2, 1, 1, 4), np.float32)


def row_of(max_tokens: int) -> Row:
    job = Job(Snapshot(STATE[:, :, 0], (0,), 0, seed=1), np.zeros(0, np.int64), max_tokens, Sampling())
    return Row(job, lambda _: None, lambda: None, 10_000, np.copy, 3)


def outputs() -> Outputs:
    """Of a tick with one row and one step."""
    step, none = np.zeros((1, 1), np.int64), np.zeros((1, 1), np.float32)
    top = np.zeros((1, 1, 0), np.int64)
    return Outputs(
        step, none, STATE, top, top.astype(np.float32), step[0] + 1, step[0], none, np.zeros((1, 0), np.float32)
    )


@pytest.mark.parametrize(("left", "pauses"), [(LAST_TOKENS, 1), (LAST_TOKENS - 1, PAUSES)])
def test_a_row_that_has_told_something_is_left_alone_until_the_next_message_can_leave(left: int, pauses: int) -> None:
    row, states = row_of(left + 1), States(STATE, None)
    chunk = row.advance([1], 0, states, outputs(), 100.0, PAUSE)
    assert chunk is not None
    assert list(chunk.tokens) == [1]
    assert row.due == 100.0 + pauses * PAUSE
    row.took(1)
    assert row.advance([2], 0, states, outputs(), row.due - 0.001, PAUSE) is None
