"""Several callers on one loom: none takes the places or the workers of another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder, Inputs, Outputs
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.errors import Overloaded
from charloom.engine.fair_queue import CROWD
from charloom.engine.loom import loom
from charloom.engine.loom.jobs import FinishReason
from charloom.engine.shares import Share
from tests.oracles.one_text import generate_stepwise
from tests.unit.engine.looms import Harness, Slow
from tests.waiting import eventually


def test_a_job_that_another_caller_displaces_ends_at_once_and_is_not_run(decoder: Decoder, bundle: Bundle) -> None:
    slow = Slow(decoder)
    slow.gate = threading.Event()
    harness = Harness(slow, bundle.manifest.start_token, max_rows=1, max_waiting=4)
    running = harness.submit(max_tokens=5)
    assert slow.entered.wait(60)
    readers = [harness.submit(seed=number, max_tokens=5) for number in range(4)]
    polite = harness.submit(seed=9, max_tokens=5, share=Share("polite"))
    displaced = readers.pop()
    assert displaced.wait().reason is FinishReason.DISPLACED
    assert displaced.tokens == []
    slow.gate.set()
    for reader in (running, *readers, polite):
        assert reader.wait().generated == 5
    assert max(slow.rows) == 1
    harness.loom.drain(1)
    assert harness.loom.live == harness.loom.slots == 0


def test_jobs_of_another_caller_that_make_room_in_vain_come_to_their_end(decoder: Decoder, bundle: Bundle) -> None:
    """More wait than there is room for, since paused rows have taken the places that were free when they came."""
    slow = Slow(decoder)
    harness = Harness(slow, bundle.manifest.start_token, max_rows=3, max_waiting=2, unread_limit=8)
    paused = [harness.submit(seed=number, max_tokens=100, takes=False) for number in range(2)]
    eventually(lambda: harness.loom.live == 2 and harness.loom.taken_places == 0)
    slow.gate = threading.Event()
    slow.entered.clear()
    running = harness.submit(max_tokens=100)
    assert slow.entered.wait(60)
    waiting = [harness.submit(seed=number, max_tokens=5) for number in range(4)]
    for reader in paused:
        assert reader.row is not None
        reader.takes = True
        reader.row.took(len(reader.tokens))
    # A worker looks at the rows between two ticks.
    before, slow.gate = slow.gate, threading.Event()
    before.set()
    eventually(lambda: harness.loom.taken_places == 3)
    assert (harness.loom.waiting, harness.loom.taken_places) == (4, 3)
    with pytest.raises(Overloaded):
        harness.submit_together([[1], [2], [3], [4]], Share("other"))
    assert harness.loom.waiting == 4
    slow.gate.set()
    for reader in (*paused, running, *waiting):
        assert reader.wait().reason is FinishReason.LENGTH
    harness.loom.drain(1)


def test_a_caller_whose_rows_hold_all_places_keeps_nobody_out(decoder: Decoder, bundle: Bundle) -> None:
    harness = Harness(Slow(decoder, 0.001), bundle.manifest.start_token, max_rows=4)
    greedy = [harness.submit(seed=number, max_tokens=10**6) for number in range(20)]
    assert greedy[0].began.wait(60)
    polite = [harness.submit(seed=number, max_tokens=100, share=Share("polite")) for number in range(2)]
    for number, reader in enumerate(polite):
        assert reader.wait().generated == 100
        assert reader.tokens == generate_stepwise(decoder, harness.fresh(number), [], 100, Sampling())[0]
    eventually(lambda: harness.loom.live == 4)
    harness.loom.drain(0)


class StuckOnMany(Slow):
    """Calls with more rows than a crowd begins with wait for the gate."""

    def run(self, inputs: Inputs) -> Outputs:
        if len(inputs.token) > CROWD:
            self.entered.set()
            assert self.gate is not None
            assert self.gate.wait(60)
        return self._decoder.run(inputs)


@contextmanager
def stuck_on_many(decoder: Decoder, bundle: Bundle, **settings: float) -> Iterator[tuple[StuckOnMany, Harness]]:
    """A loom of two workers on such a decoder, which ends with the context."""
    stuck = StuckOnMany(decoder)
    stuck.gate = threading.Event()
    harness = Harness(stuck, bundle.manifest.start_token, workers=2, **settings)
    try:
        yield stuck, harness
    finally:
        stuck.gate.set()
        harness.loom.end_now()
        assert harness.loom.drain(60)


@pytest.fixture
def _two_ticks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a step costs on this machine."""
    monkeypatch.setattr(loom, "ticks_at_once", lambda *_: 2)


@pytest.mark.usefixtures("_two_ticks_at_once")
def test_a_crowd_leaves_a_worker_to_whoever_has_few_rows(decoder: Decoder, bundle: Bundle) -> None:
    with stuck_on_many(decoder, bundle) as (stuck, harness):
        polite, greedy = Share("polite"), Share("greedy")
        harness.submit(max_tokens=10**7, share=polite)  # it is here to the end of the test, however slow that is
        for seed in range(64):
            harness.submit(seed=seed, max_tokens=10**6, share=greedy)
        assert stuck.entered.wait(60)
        for _ in range(3):
            reader = harness.submit(max_tokens=50, share=polite)
            assert reader.wait().reason is FinishReason.LENGTH, "while a call with many rows is running"


@pytest.mark.usefixtures("_two_ticks_at_once")
def test_a_crowd_that_was_served_least_leaves_a_worker_all_the_same(
    decoder: Decoder, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes first, with more rows than a tick takes: what the other caller has is to be found behind them."""
    monkeypatch.setattr(loom, "crowd_rows", lambda most, seconds, expected: min(most, CROWD + 1))
    with stuck_on_many(decoder, bundle, max_rows=32) as (stuck, harness):
        polite, greedy = Share("polite"), Share("greedy")
        harness.submit(max_tokens=10**7, share=polite)  # it is here to the end of the test, however slow that is
        for seed in range(200):
            harness.submit(seed=seed, max_tokens=10**6, share=greedy)
        assert stuck.entered.wait(60)
        reader = harness.submit(max_tokens=5_000, share=polite)  # long enough to be served more than the crowd
        assert reader.wait().reason is FinishReason.LENGTH, "while a call with many rows is running"
