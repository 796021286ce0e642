"""Readers that are slow, stop or come back: what becomes of their rows, and of the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder, Inputs, Outputs
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.loom import loom
from charloom.engine.loom.jobs import FinishReason
from charloom.engine.loom.live_rows import LiveRows
from charloom.engine.loom.row import Delivery, Row, RowState
from charloom.engine.shares import Share
from tests.oracles.one_text import generate_stepwise
from tests.unit.engine.looms import Harness, Slow
from tests.waiting import eventually


def test_a_reader_that_stops_reading_pauses_its_job_and_no_other(decoder: Decoder, bundle: Bundle) -> None:
    harness = Harness(decoder, bundle.manifest.start_token, unread_limit=100)
    lazy = harness.submit(seed=1, max_tokens=3000, takes=False)
    busy = harness.submit(seed=2, max_tokens=3000)
    busy.wait()
    row = lazy.row
    assert row is not None
    eventually(lambda: row.state is RowState.PAUSED)
    held = len(lazy.tokens)
    assert 100 <= held <= 100 + 256
    assert not lazy.ended.is_set()
    lazy.takes = True
    row.took(held)
    lazy.wait()
    assert lazy.tokens == generate_stepwise(decoder, harness.fresh(1), [], 3000, Sampling())[0]
    harness.loom.drain(1)


def test_a_slow_reader_has_its_own_text_beside_rows_that_go_further_in_the_same_ticks(
    decoder: Decoder, bundle: Bundle
) -> None:
    harness = Harness(decoder, bundle.manifest.start_token, workers=1)
    busy = [harness.submit(seed=seed, max_tokens=1500) for seed in (2, 3)]
    slow = harness.submit(seed=1, max_tokens=200, takes=False, ahead=10)
    row = slow.row
    assert row is not None
    while not slow.ended.is_set():
        row.took(len(slow.tokens) - row.taken)
        time.sleep(0.001)
    assert slow.tokens == generate_stepwise(decoder, harness.fresh(1), [], 200, Sampling())[0]
    for seed, reader in enumerate(busy, 2):
        reader.wait()
        assert reader.tokens == generate_stepwise(decoder, harness.fresh(seed), [], 1500, Sampling())[0]
    harness.loom.drain(1)


def test_paused_jobs_do_not_keep_others_from_running(
    decoder: Decoder, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = Harness(decoder, bundle.manifest.start_token, max_rows=2, unread_limit=50)
    lazy = [harness.submit(seed=n, max_tokens=1000, takes=False) for n in range(4)]
    for reader in lazy:
        assert reader.began.wait(60)
    busy = harness.submit(seed=9, max_tokens=500)
    assert busy.wait().generated == 500
    eventually(lambda: all(reader.row is not None and reader.row.state is RowState.PAUSED for reader in lazy))
    looks, change_rows = 0, harness.loom._change_rows

    def looked(deliveries: list[Delivery]) -> None:
        nonlocal looks
        looks += 1
        change_rows(deliveries)

    monkeypatch.setattr(harness.loom, "_change_rows", looked)
    time.sleep(0.3)
    assert looks < 10, "the worker spins while all its jobs are paused"
    for reader in lazy:
        reader.takes = True
        assert reader.row is not None
        reader.row.took(len(reader.tokens))
    for n, reader in enumerate(lazy):
        reader.wait()
        assert reader.tokens == generate_stepwise(decoder, harness.fresh(n), [], 1000, Sampling())[0]
    harness.loom.drain(1)


def test_a_reader_that_reads_while_a_tick_ends_goes_on(
    decoder: Decoder, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so without the loom's lock, and nothing else makes the loom look at its row again."""
    harness = Harness(decoder, bundle.manifest.start_token, unread_limit=20)
    paused = harness.submit(max_tokens=100, takes=False)
    row = paused.row
    assert row is not None
    eventually(lambda: row.state is RowState.PAUSED)
    paused.takes = True
    end_tick, read = LiveRows.end_tick, threading.Event()

    def read_meanwhile(live: LiveRows, rows: Sequence[Row]) -> bool:
        look = end_tick(live, rows)
        if not read.is_set():
            read.set()
            row.took(len(paused.tokens))
        return look

    monkeypatch.setattr(LiveRows, "end_tick", read_meanwhile)
    harness.submit(max_tokens=1)
    assert read.wait(60)
    assert paused.wait().generated == 100
    harness.loom.drain(1)


def test_a_reader_that_reads_while_its_row_is_attended_to_leaves_no_tick_without_steps(
    decoder: Decoder, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How far the row may go and when it is attended to next are two questions, and it reads between them."""

    class ReadsBetween(Row):
        reads = True

        @property
        def end_step(self) -> int:
            return self._then_read(super().end_step)

        @property
        def attend_step(self) -> int:
            return self._then_read(super().attend_step)

        def _then_read(self, found: int) -> int:
            if self.reads and self.generated:
                self.reads = False
                self.took(1000)
            return found

    class Counting(Slow):
        idle = 0

        def run(self, inputs: Inputs) -> Outputs:
            self.idle += not inputs.steps.any()
            return super().run(inputs)

    monkeypatch.setattr(loom, "Row", ReadsBetween)
    counting = Counting(decoder)
    # A message leaves after half a second, and until then nothing else makes the loom attend to the row.
    harness = Harness(counting, bundle.manifest.start_token, workers=1, tick_seconds=0.5)
    assert harness.submit(max_tokens=200, takes=False, ahead=10).wait().generated == 200
    assert not counting.idle
    harness.loom.drain(1)


def test_readers_that_do_not_read_are_ended_at_their_own_callers_cost(decoder: Decoder, bundle: Bundle) -> None:
    harness = Harness(decoder, bundle.manifest.start_token, max_rows=4, max_waiting=6, unread_limit=50)
    polite = harness.submit(max_tokens=2000, takes=False, share=Share("polite"))
    eventually(lambda: len(polite.tokens) >= 50)
    # So many that some wait for their place until others were ended.
    greedy = []
    for number in range(12):
        greedy.append(harness.submit(seed=number, max_tokens=2000, takes=False))
        assert greedy[-1].began.wait(60)
    eventually(lambda: sum(reader.ended.is_set() for reader in greedy) == 7)
    assert not polite.ended.is_set(), "it was paused first, but has one row alone"
    for reader in greedy[:7]:
        assert reader.wait().reason is FinishReason.STALLED
    harness.loom.drain(0)


def test_readers_that_are_slowed_down_are_none_that_do_not_read(decoder: Decoder, bundle: Bundle) -> None:
    harness = Harness(decoder, bundle.manifest.start_token, max_rows=4, max_waiting=2, unread_limit=50)
    slowed = []
    for number in range(6):
        slowed.append(harness.submit(seed=number, max_tokens=2000, takes=False))
        row = slowed[-1].row
        assert row is not None
        row.slowed = True
        eventually(lambda row=row: row.state is RowState.PAUSED)  # type: ignore[misc]
    lazy = []
    for number in range(4):
        lazy.append(harness.submit(seed=number, max_tokens=2000, takes=False))
        assert lazy[-1].began.wait(60)
    eventually(lambda: sum(reader.ended.is_set() for reader in lazy) == 2)
    assert {reader.wait().reason for reader in lazy if reader.ended.is_set()} == {FinishReason.STALLED}
    assert not any(reader.ended.is_set() for reader in slowed)
    for reader in slowed:
        reader.takes = True
        assert reader.row is not None
        reader.row.slowed = False
        reader.row.took(len(reader.tokens))
    for reader in slowed:
        assert reader.wait().generated == 2000
    harness.loom.drain(0)
