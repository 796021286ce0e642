"""The loom against the oracle: one text, one step per decoder call."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder, Inputs, Outputs
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.loom.jobs import FinishReason
from tests.oracles.one_text import generate_stepwise
from tests.unit.engine.looms import Harness, Slow
from tests.waiting import eventually


def test_one_job_gives_the_text_of_the_oracle(harness: Harness) -> None:
    prompt = [5, 9, 11]
    reader = harness.submit(seed=7, prompt=prompt, max_tokens=300)
    finish = reader.wait()
    expected, snapshot = generate_stepwise(harness.decoder, harness.fresh(7), prompt, 300, Sampling())
    assert reader.tokens == expected
    assert (finish.reason, finish.fed, finish.generated) == (FinishReason.LENGTH, 3, 300)
    assert finish.snapshot.position == snapshot.position == 303
    assert finish.snapshot.pending == snapshot.pending
    assert np.array_equal(finish.snapshot.state, snapshot.state)


def test_many_jobs_at_once_each_give_the_text_they_give_alone(harness: Harness) -> None:
    random = np.random.default_rng(3)
    jobs = []
    for number in range(40):
        prompt = random.integers(harness.decoder.shape.vocabulary, size=random.integers(0, 60)).tolist()
        sampling = Sampling(
            temperature=float(random.choice([0, 0.5, 1.0])),
            top_k=int(random.choice([0, 5])),
            top_p=float(random.choice([0.9, 1])),
        )
        length = int(random.integers(1, 120))
        jobs.append(
            (
                harness.submit(seed=number, prompt=prompt, max_tokens=length, sampling=sampling),
                prompt,
                sampling,
                number,
                length,
            )
        )
        if number % 7 == 0:
            time.sleep(0.01)  # so that they join at different ticks
    for reader, prompt, sampling, seed, length in jobs:
        reader.wait()
        expected, _ = generate_stepwise(harness.decoder, harness.fresh(seed), prompt, length, sampling)
        assert reader.tokens == expected


def test_jobs_really_share_decoder_calls(decoder: Decoder, bundle: Bundle) -> None:
    slow = Slow(decoder, 0.002)
    slow.gate = threading.Event()
    harness = Harness(slow, bundle.manifest.start_token)
    readers = [harness.submit(seed=n, max_tokens=100) for n in range(20)]
    slow.gate.set()
    for reader in readers:
        reader.wait()
    assert max(slow.rows) == 20
    harness.loom.drain(1)


@pytest.mark.parametrize("workers", [2, 3])
def test_several_workers_share_the_rows_and_change_no_text(decoder: Decoder, bundle: Bundle, workers: int) -> None:
    slow = Slow(decoder, 0.001)
    slow.gate = threading.Event()
    harness = Harness(slow, bundle.manifest.start_token, workers=workers)
    readers = []
    for n in range(24):
        readers.append(harness.submit(seed=n, prompt=[1] * (n % 5), max_tokens=200 + n))
        if n < workers:
            eventually(lambda n=n: slow.at_once == n + 1)  # type: ignore[misc]
    slow.gate.set()
    for n, reader in enumerate(readers):
        reader.wait()
        assert reader.tokens == generate_stepwise(decoder, harness.fresh(n), [1] * (n % 5), 200 + n, Sampling())[0]
        assert [chunk.position for chunk in reader.chunks] == sorted(chunk.position for chunk in reader.chunks)
    assert workers <= slow.most_at_once <= workers + 1
    harness.loom.drain(1)
    assert harness.loom.live == 0


def test_two_jobs_in_a_row_continue_the_state(harness: Harness) -> None:
    first = harness.submit(seed=4, prompt=[1, 2], max_tokens=37)
    start = first.wait().snapshot
    second = harness.submit(start=start, max_tokens=63)
    second.wait()
    whole = harness.submit(seed=4, prompt=[1, 2], max_tokens=100)
    whole.wait()
    assert first.tokens + second.tokens == whole.tokens


def test_the_first_token_comes_in_a_chunk_of_its_own(harness: Harness) -> None:
    reader = harness.submit(prompt=[1, 2, 3], max_tokens=200)
    finish = reader.wait()
    assert len(reader.chunks[0].tokens) == 1
    assert len(reader.chunks) < 100, "tokens are delivered in chunks, not one by one"
    assert 0 <= finish.queued <= finish.first_token <= finish.total


def test_no_more_alternatives_are_told_than_there_are_tokens(harness: Harness) -> None:
    size = harness.decoder.shape.vocabulary
    many = harness.submit(prompt=[1, 2], max_tokens=0, top_logprobs=size + 5, scored=True)
    few = harness.submit(prompt=[1, 2], max_tokens=3, top_logprobs=size)
    assert many.wait().reason is few.wait().reason is FinishReason.LENGTH
    for reader, count in ((many, 2), (few, 3)):
        told = [one for chunk in reader.chunks for one in chunk.logprobs]
        assert [len(one.top) for one in told] == [size] * count


def test_a_tick_in_which_nobody_asks_for_anything_takes_no_memory_for_it(decoder: Decoder, bundle: Bundle) -> None:
    seen: list[Mapping[str, Any]] = []

    class Seeing(Slow):
        def run(self, inputs: Inputs) -> Outputs:
            seen.append(inputs.sampling)
            return super().run(inputs)

    harness = Harness(Seeing(decoder), bundle.manifest.start_token)
    for rows in (3, 1, 2):
        for reader in harness.submit_together([[1]] * rows):
            reader.wait()
    for name in ("bias", "counts"):
        arrays = [one[name] for one in seen]
        assert [len(array) for array in arrays] == [3, 1, 2]
        assert all(np.shares_memory(array, arrays[0]) and not array.any() for array in arrays)
    harness.loom.drain(1)


def test_positions_are_absolute_and_gapless(harness: Harness) -> None:
    start = harness.submit(prompt=[1], max_tokens=9).wait().snapshot
    reader = harness.submit(start=start, prompt=[2, 3], max_tokens=80)
    reader.wait()
    position = start.position + 2
    for chunk in reader.chunks:
        position += len(chunk.tokens)
        assert chunk.position == position
    assert position == 10 + 2 + 80


def test_a_job_with_nothing_to_do_ends_where_it_began(harness: Harness) -> None:
    start = harness.submit(prompt=[1], max_tokens=9).wait().snapshot
    reader = harness.submit(start=start, max_tokens=0)
    finish = reader.wait()
    assert (finish.reason, reader.tokens) == (FinishReason.LENGTH, [])
    assert (finish.snapshot.position, finish.snapshot.pending) == (start.position, start.pending)
    assert np.array_equal(finish.snapshot.state, start.state)
