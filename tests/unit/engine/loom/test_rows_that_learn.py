"""A loom whose rows learn from their text, beside rows that do not: each gets what it would get alone."""

from __future__ import annotations

import numpy as np

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.loom.jobs import FinishReason, Stops
from tests.oracles.one_text import generate_stepwise
from tests.unit.engine.looms import Harness, Slow


def fresh(decoder: Decoder, bundle: Bundle, seed: int, *, adaptive: bool = True) -> Snapshot:
    return Snapshot.fresh(decoder.shape, bundle.manifest.start_token, seed, adaptive=adaptive)


def test_each_row_gets_its_own_text_whatever_is_beside_it(decoder: Decoder, bundle: Bundle) -> None:
    harness = Harness(decoder, bundle.manifest.start_token, workers=2, max_rows=8)
    phrase = [3, 9, 4, 7, 5] * 3
    starts = [fresh(decoder, bundle, number, adaptive=number % 2 == 0) for number in range(12)]
    jobs = [
        harness.submit(start=start, prompt=phrase[: 2 * number], max_tokens=40 + 15 * number, snapshots=True)
        for number, start in enumerate(starts)
    ]
    for number, (job, start) in enumerate(zip(jobs, starts, strict=True)):
        finish = job.wait()
        expected, after = generate_stepwise(decoder, start, phrase[: 2 * number], 40 + 15 * number, Sampling())
        assert job.tokens == expected
        assert_same(finish.snapshot, after)
    assert harness.loom.drain(1)


def assert_same(found: Snapshot, expected: Snapshot) -> None:
    assert (found.pending, found.position) == (expected.pending, expected.position)
    assert np.array_equal(found.state, expected.state)
    assert (found.learnt is None) is (expected.learnt is None)
    if found.learnt is not None and expected.learnt is not None:
        assert np.array_equal(found.learnt, expected.learnt)


def test_where_a_text_stops_in_the_past_what_came_after_is_not_learnt(decoder: Decoder, bundle: Bundle) -> None:
    start = fresh(decoder, bundle, 5)
    whole, _ = generate_stepwise(decoder, start, [3, 4], 200, Sampling())
    stop = whole[90:93]
    at = next(place for place in range(200) if whole[place : place + 3] == stop)
    harness = Harness(decoder, bundle.manifest.start_token)
    job = harness.submit(start=start, prompt=[3, 4], max_tokens=200, stops=Stops([stop]))
    finish = job.wait()
    assert (finish.reason, job.tokens) == (FinishReason.STOP, whole[:at])
    again, expected = generate_stepwise(decoder, start, [3, 4], at + 50, Sampling())
    rest = harness.submit(start=finish.snapshot, max_tokens=50)
    assert rest.wait().reason is FinishReason.LENGTH
    assert rest.tokens == again[at:]
    assert_same(rest.wait().snapshot, expected)
    assert harness.loom.drain(1)


def test_a_job_that_is_ended_keeps_what_it_has_learnt(decoder: Decoder, bundle: Bundle) -> None:
    slow = Slow(decoder, 0.01)
    harness = Harness(slow, bundle.manifest.start_token)
    start = fresh(decoder, bundle, 2)
    job = harness.submit(start=start, max_tokens=10**6)
    assert job.began.wait(60)
    harness.loom.end_now()
    finish = job.wait()
    assert finish.reason is FinishReason.DRAINING
    expected, after = generate_stepwise(decoder, start, [], len(job.tokens), Sampling())
    assert job.tokens == expected
    assert_same(finish.snapshot, after)


def test_a_job_that_never_got_a_row_keeps_it_too(decoder: Decoder, bundle: Bundle) -> None:
    _, start = generate_stepwise(decoder, fresh(decoder, bundle, 2), [3, 4, 3, 4], 0, Sampling())
    slow = Slow(decoder, 0.05)
    harness = Harness(slow, bundle.manifest.start_token, max_rows=1)
    first = harness.submit(max_tokens=10**6)
    assert first.began.wait(60)
    waiting = harness.submit(start=start, max_tokens=10)
    harness.loom.end_now()
    assert_same(waiting.wait().snapshot, start)
    assert first.wait().reason is FinishReason.DRAINING
