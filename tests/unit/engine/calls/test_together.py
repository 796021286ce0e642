"""Jobs of a call that run together: what becomes of all where one does not come to its end."""

from __future__ import annotations

import numpy as np
import pytest

from charloom.bundle import Bundle
from charloom.engine import errors
from charloom.engine.calls.together import JobsTogether
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.engine import Engine
from charloom.engine.loom.jobs import Chunk, Finish, FinishReason, Job
from tests.waiting import eventually


@pytest.mark.parametrize(
    ("reason", "problem"),
    [
        (FinishReason.DRAINING, errors.Draining),
        (FinishReason.DISPLACED, errors.Overloaded),
        (FinishReason.STALLED, errors.Overloaded),
        (FinishReason.FAILED, errors.DecoderFailure),
    ],
)
async def test_where_one_job_is_ended_none_runs_on_and_the_caller_is_told_why(
    bundle: Bundle, decoder: Decoder, reason: FinishReason, problem: type[errors.EngineError]
) -> None:
    engine = Engine([(bundle, decoder)])
    model = engine.models[0]
    starts = [model.fresh(seed) for seed in (1, 2)]
    together = JobsTogether(model, [Job(start, np.zeros(0, np.int64), 10**6, Sampling()) for start in starts])
    ended = Finish(reason, starts[0], generated=0, fed=0, queued=0.0, first_token=0.0, total=0.0)
    together._rows[0].receiver(Chunk((), 0, ended))
    with pytest.raises(problem):
        await together.ended()
    eventually(lambda: model.loom.live == model.loom.waiting == 0)
    await engine.drain(0)
