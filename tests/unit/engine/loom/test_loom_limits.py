"""The loom when jobs are cancelled, rows run out, decoders fail, and the end comes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder, Inputs, Outputs, StatePool
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.errors import Draining, Overloaded
from charloom.engine.loom import decoder_calls, loom, schedule
from charloom.engine.loom.jobs import FinishReason, Job
from charloom.engine.loom.row import Delivery, RowState
from charloom.engine.shares import Share
from tests.oracles.one_text import generate_stepwise
from tests.unit.engine.looms import Harness, JobReader, Slow, hand_out
from tests.waiting import eventually


def test_a_cancelled_job_leaves_within_a_tick_and_keeps_what_was_delivered(decoder: Decoder, bundle: Bundle) -> None:
    slow = Slow(decoder, 0.002)
    harness = Harness(slow, bundle.manifest.start_token)
    reader = harness.submit(seed=2, max_tokens=10**6)
    other = harness.submit(seed=3, max_tokens=300)
    assert reader.began.wait(60)
    assert reader.row is not None
    reader.row.cancel()
    calls = len(slow.rows)
    finish = reader.wait()
    assert slow.rows[calls:].count(2) <= 1, "only a tick that had begun may still hold the cancelled row"
    assert finish.reason is FinishReason.CANCELLED
    assert finish.generated == len(reader.tokens)
    assert reader.tokens == generate_stepwise(decoder, harness.fresh(2), [], len(reader.tokens), Sampling())[0]
    other.wait()
    assert other.tokens == generate_stepwise(harness.decoder, harness.fresh(3), [], 300, Sampling())[0]
    harness.loom.drain(1)
    assert harness.loom.live == 0


def test_a_tick_that_was_running_when_its_job_was_cancelled_changes_nothing(decoder: Decoder, bundle: Bundle) -> None:
    slow = Slow(decoder)
    slow.gate = threading.Event()
    harness = Harness(slow, bundle.manifest.start_token)
    reader = harness.submit(seed=2, prompt=[4, 4], max_tokens=10)
    assert slow.entered.wait(60)
    assert reader.row is not None
    reader.row.cancel()
    slow.gate.set()
    finish = reader.wait()
    assert (reader.tokens, finish.generated) == ([], 0)
    harness.loom.drain(1)


def test_a_waiting_job_can_be_cancelled(decoder: Decoder, bundle: Bundle) -> None:
    slow = Slow(decoder)
    slow.gate = threading.Event()
    harness = Harness(slow, bundle.manifest.start_token, max_rows=1)
    running = harness.submit(max_tokens=20)
    assert slow.entered.wait(60)
    waiting = harness.submit(max_tokens=20)
    assert harness.loom.waiting == 1
    assert waiting.row is not None
    waiting.row.cancel()
    slow.gate.set()
    assert waiting.wait().reason is FinishReason.CANCELLED
    assert running.wait().generated == 20
    harness.loom.drain(1)


def test_a_full_queue_refuses_at_once(decoder: Decoder, bundle: Bundle) -> None:
    slow = Slow(decoder)
    slow.gate = threading.Event()
    harness = Harness(slow, bundle.manifest.start_token, max_rows=1, max_waiting=2)
    readers = [harness.submit(max_tokens=5)]
    assert slow.entered.wait(60)
    readers += [harness.submit(seed=n, max_tokens=5) for n in (1, 2)]
    with pytest.raises(Overloaded):
        harness.submit(max_tokens=5)
    slow.gate.set()
    for reader in readers:
        assert reader.wait().generated == 5
    assert max(slow.rows) == 1
    harness.loom.drain(1)


def test_jobs_share_the_rows_when_more_of_them_can_run_than_fit(decoder: Decoder, bundle: Bundle) -> None:
    slow = Slow(decoder, 0.0005)
    harness = Harness(slow, bundle.manifest.start_token, max_rows=2, unread_limit=20)
    readers = [harness.submit(seed=n, max_tokens=1500, takes=False) for n in range(4)]
    rows = [reader.row for reader in readers if reader.row is not None]
    eventually(lambda: all(row.state is RowState.PAUSED for row in rows))
    slow.gate = threading.Event()
    for reader, row in zip(readers, rows, strict=True):
        reader.takes = True
        row.took(len(reader.tokens))
    slow.gate.set()
    eventually(lambda: any(reader.ended.is_set() for reader in readers))
    assert all(len(reader.tokens) > 750 for reader in readers), "the rows were not shared fairly"
    for n, reader in enumerate(readers):
        reader.wait()
        assert reader.tokens == generate_stepwise(decoder, harness.fresh(n), [], 1500, Sampling())[0]
    assert max(slow.rows) == 2
    harness.loom.drain(1)


def test_a_failing_decoder_ends_its_jobs_and_not_the_loom(decoder: Decoder, bundle: Bundle) -> None:
    slow = Slow(decoder)
    harness = Harness(slow, bundle.manifest.start_token)
    slow.fails = True
    assert harness.submit(max_tokens=5).wait().reason is FinishReason.FAILED
    slow.fails = False
    assert harness.submit(max_tokens=5).wait().reason is FinishReason.LENGTH
    harness.loom.drain(1)


def test_a_row_that_breaks_the_decoder_does_not_take_the_others_with_it(decoder: Decoder, bundle: Bundle) -> None:
    class Allergic(Slow):
        def run(self, inputs: Inputs) -> Outputs:
            if (inputs.sampling["top_k"] == 13).any():
                raise RuntimeError("not this one")
            return super().run(inputs)

    harness = Harness(Allergic(decoder, 0.001), bundle.manifest.start_token)
    good = [harness.submit(seed=n, max_tokens=200) for n in range(3)]
    bad = harness.submit(max_tokens=200, sampling=Sampling(top_k=13))
    assert bad.wait().reason is FinishReason.FAILED
    for n, reader in enumerate(good):
        assert reader.wait().reason is FinishReason.LENGTH
        assert reader.tokens == generate_stepwise(decoder, harness.fresh(n), [], 200, Sampling())[0]
    harness.loom.drain(1)


def test_a_loom_whose_worker_breaks_fails_its_jobs_and_refuses_more(decoder: Decoder, bundle: Bundle) -> None:
    breaks = threading.Event()

    def deliver(deliveries: Sequence[Delivery]) -> None:
        if breaks.is_set():
            breaks.clear()
            raise RuntimeError("a defect on the worker's thread")
        hand_out(deliveries)

    harness = Harness(Slow(decoder, 0.002), bundle.manifest.start_token, deliver)
    reader = harness.submit(max_tokens=10**6)
    assert reader.began.wait(60)
    breaks.set()
    assert reader.wait().reason is FinishReason.FAILED
    with pytest.raises(Draining):
        harness.submit(max_tokens=1)
    harness.loom.drain(1)
    assert not harness.loom.working


class Faulty(Slow):
    """A decoder with a place for states whose methods fail where a test says so, by their names."""

    fails_at: Callable[[str], bool] = staticmethod(lambda name: False)

    def state_pool(self) -> StatePool:
        pool, decoder = super().state_pool(), self

        class Pool:
            def __getattr__(self, name: str) -> Any:
                own = getattr(pool, name)

                def call(*given: Any) -> Any:
                    if decoder.fails_at(name):
                        raise MemoryError(name)
                    return own(*given)

                return call if callable(own) else own

        return Pool()  # type: ignore[return-value]


def put_together(harness: Harness, *jobs: Job) -> list[JobReader]:
    """In one tick."""
    readers = [JobReader() for _ in jobs]
    for reader, row in zip(readers, harness.loom.submit_together(list(zip(jobs, readers, strict=True))), strict=True):
        reader.begin(row)
    return readers


def test_a_row_whose_state_cannot_be_copied_fails_alone(decoder: Decoder, bundle: Bundle) -> None:
    faulty, copies = Faulty(decoder, 0.001), itertools.count(1)
    faulty.fails_at = lambda name: name == "to_host" and next(copies) == 2
    harness = Harness(faulty, bundle.manifest.start_token)
    nothing = np.zeros(0, np.int64)
    short, bad, long = put_together(
        harness,
        Job(harness.fresh(1), nothing, 1, Sampling()),
        Job(harness.fresh(2), nothing, 50, Sampling(), snapshots=True),
        Job(harness.fresh(3), nothing, 50, Sampling()),
    )
    assert short.wait().reason is FinishReason.LENGTH
    failed = bad.wait()
    assert (failed.reason, failed.generated, bad.tokens) == (FinishReason.FAILED, 0, [])
    assert long.wait().reason is FinishReason.LENGTH
    assert long.tokens == generate_stepwise(decoder, harness.fresh(3), [], 50, Sampling())[0]
    assert harness.loom.working
    harness.loom.drain(1)
    assert harness.loom.live == harness.loom.slots == 0


def test_rows_that_had_ended_when_their_worker_broke_are_told_how(decoder: Decoder, bundle: Bundle) -> None:
    class OneAtATime(Faulty):
        def run(self, inputs: Inputs) -> Outputs:
            if len(inputs.token) > 1:
                raise RuntimeError("too many")
            return super().run(inputs)

    faulty, writes = OneAtATime(decoder), itertools.count(1)
    faulty.fails_at = lambda name: name == "scatter" and next(writes) == 2
    harness = Harness(faulty, bundle.manifest.start_token)
    nothing = np.zeros(0, np.int64)
    done, other = put_together(harness, *(Job(harness.fresh(n), nothing, 1, Sampling()) for n in (1, 2)))
    assert other.wait().reason is FinishReason.FAILED
    assert done.wait().reason is FinishReason.LENGTH
    assert len(done.tokens) == 1
    with pytest.raises(Draining):
        harness.submit(max_tokens=1)
    harness.loom.drain(1)


@pytest.mark.parametrize("ends", [False, True])
def test_jobs_are_told_their_end_where_a_device_is_lost(ends: bool, decoder: Decoder, bundle: Bundle) -> None:
    """Those that run, and those that wait; while the loom works, and at its end."""
    faulty = Faulty(decoder, 0.002)
    harness = Harness(faulty, bundle.manifest.start_token, max_rows=2)
    readers = [harness.submit(seed=n, max_tokens=10**6) for n in range(2)]
    assert all(reader.began.wait(60) for reader in readers)
    readers.append(harness.submit(seed=3, max_tokens=10**6))
    if ends:
        faulty.gate = threading.Event()
        faulty.entered.clear()
        assert faulty.entered.wait(60)
    faulty.fails_at = lambda name: name in ("take", "gather", "scatter", "to_host")
    if ends:
        assert faulty.gate is not None
        harness.loom.end_now()
        faulty.gate.set()
    reasons = [reader.wait().reason for reader in readers]
    waiting = FinishReason.DRAINING if ends else FinishReason.FAILED
    assert reasons == [FinishReason.FAILED, FinishReason.FAILED, waiting]
    assert not ends or readers[2].wait().snapshot.position == 0
    eventually(lambda: not harness.loom.working)
    with pytest.raises(Draining):
        harness.submit(max_tokens=1)


def test_draining_lets_jobs_end_and_refuses_new_ones(decoder: Decoder, bundle: Bundle) -> None:
    harness = Harness(Slow(decoder, 0.002), bundle.manifest.start_token)
    reader = harness.submit(max_tokens=400)
    assert reader.began.wait(60)
    harness.loom.drain(60)
    assert reader.wait().reason is FinishReason.LENGTH
    with pytest.raises(Draining):
        harness.submit(max_tokens=1)


def test_draining_ends_jobs_whose_time_is_up_with_their_state(decoder: Decoder, bundle: Bundle) -> None:
    harness = Harness(Slow(decoder, 0.002), bundle.manifest.start_token)
    reader = harness.submit(seed=5, max_tokens=10**6)
    assert reader.began.wait(60)
    harness.loom.drain(0.05)
    finish = reader.wait()
    assert finish.reason is FinishReason.DRAINING
    assert finish.snapshot.position == len(reader.tokens) > 0
    again = Harness(decoder, bundle.manifest.start_token)
    rest = again.submit(start=finish.snapshot, max_tokens=50)
    rest.wait()
    whole = generate_stepwise(decoder, again.fresh(5), [], len(reader.tokens) + 50, Sampling())[0]
    assert reader.tokens + rest.tokens == whole
    again.loom.drain(1)


def test_jobs_that_are_put_on_together_are_in_one_tick(decoder: Decoder, bundle: Bundle) -> None:
    slow = Slow(decoder)
    harness = Harness(slow, bundle.manifest.start_token, workers=2)
    for reader in harness.submit_together([[1]] * 16):
        assert reader.wait().fed == 1
    assert slow.rows == [16]
    harness.loom.drain(1)


def test_a_search_through_a_large_vocabulary_does_not_slow_down_streams(
    decoder: Decoder, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows tell more than a tick may; the streams beside them tell nothing, and are in ticks without them."""
    monkeypatch.setattr(schedule, "MOST_TICK_ALTERNATIVES", 4 * decoder.shape.vocabulary)
    seen = []

    class Telling(Slow):
        def run(self, inputs: Inputs) -> Outputs:
            seen.append((len(inputs.token), len(inputs.forced), int(inputs.sampling["top"][0])))
            return super().run(inputs)

    harness = Harness(Telling(decoder), bundle.manifest.start_token)
    streams = [harness.submit(seed=number, max_tokens=3_000) for number in range(8)]
    eventually(lambda: all(stream.chunks for stream in streams))
    top = decoder.shape.vocabulary
    search = [harness.submit(prompt=[1] * 9, max_tokens=0, top_logprobs=top, scored=True) for _ in range(6)]
    for reader in [*search, *streams]:
        assert reader.wait().reason is FinishReason.LENGTH
    told = [rows * steps for rows, steps, each in seen if each]
    assert max(told) <= 4
    assert sum(told) == 6 * 9
    assert all(each in (0, top) for _, _, each in seen)
    harness.loom.drain(1)


def test_of_jobs_that_are_put_on_together_all_or_none_wait(decoder: Decoder, bundle: Bundle) -> None:
    slow = Slow(decoder)
    slow.gate = threading.Event()
    harness = Harness(slow, bundle.manifest.start_token, max_rows=1, max_waiting=4)
    running = harness.submit(max_tokens=5)
    assert slow.entered.wait(60)
    greedy = [harness.submit(seed=number, max_tokens=5) for number in range(4)]
    with pytest.raises(Overloaded):  # two of the polite ones would find room, the third would not
        harness.submit_together([[1]] * 3, Share("polite"))
    assert harness.loom.waiting == 4
    slow.gate.set()
    for reader in (running, *greedy):  # nobody has made room for what was refused
        assert reader.wait().generated == 5
    harness.loom.drain(1)
    assert harness.loom.live == harness.loom.slots == 0


def test_an_idle_loom_takes_more_jobs_together_than_may_wait(decoder: Decoder, bundle: Bundle) -> None:
    harness = Harness(decoder, bundle.manifest.start_token, max_rows=16, max_waiting=2)
    for reader in harness.submit_together([[1]] * 16):
        assert reader.wait().fed == 1
    harness.loom.drain(1)


def test_a_decoder_that_becomes_ten_times_slower_makes_ticks_of_fewer_steps(
    decoder: Decoder, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that calls go on joining every few milliseconds; and as many again once it is as fast as before."""

    class Computing(Slow):
        step_seconds = 0.0002

        def __init__(self, decoder: Decoder) -> None:
            super().__init__(decoder)
            self.steps: list[int] = []
            self.computed = 0.0

        def run(self, inputs: Inputs) -> Outputs:
            self.steps.append(len(inputs.forced))
            self.computed += self.step_seconds * len(inputs.forced)
            return super().run(inputs)

    computing = Computing(decoder)
    harness = Harness(computing, bundle.manifest.start_token, tick_seconds=0.008)
    monkeypatch.setattr(harness.loom, "_clock", lambda: computing.computed)
    reader = harness.submit(max_tokens=10**6)
    for seconds, least, most in [(0.0002, 32, 48), (0.002, 3, 5), (0.0002, 32, 48)]:
        computing.step_seconds = seconds
        eventually(lambda least=least, most=most: least <= (computing.steps or [0])[-1] <= most)  # type: ignore[misc]
        ticks = len(computing.steps)
        eventually(lambda ticks=ticks: len(computing.steps) >= ticks + 5)  # type: ignore[misc]
        assert all(least <= steps <= most for steps in computing.steps[ticks:])
    assert reader.row is not None
    reader.row.cancel()
    reader.wait()
    harness.loom.drain(1)


def test_a_call_of_the_decoder_that_does_not_return_is_noticed_and_not_waited_for(
    decoder: Decoder, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_calls, "LONGEST_CALL", 0.2)
    monkeypatch.setattr(loom, "ENDING_SECONDS", 0.2)
    slow = Slow(decoder)
    slow.gate = threading.Event()
    harness = Harness(slow, bundle.manifest.start_token)
    assert harness.loom.working
    harness.submit(max_tokens=20)
    assert slow.entered.wait(60)
    eventually(lambda: not harness.loom.working)
    assert not harness.loom.drain(0.1)
    slow.gate.set()
    assert harness.loom.drain(60)
