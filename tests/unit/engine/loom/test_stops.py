"""Stop strings: the matcher against a plain search, and a loom that ends at the exact token."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charloom.bundle import Bundle
from charloom.engine.calls.price import STOP
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.loom.jobs import FinishReason, Stops
from charloom.engine.loom.stops import Match, StopAutomaton, StopMatcher
from tests.oracles.one_text import generate_stepwise
from tests.unit.engine.looms import Harness, JobReader, Slow

few = st.sampled_from("ab")
patterns = st.lists(st.lists(few, min_size=1, max_size=5).map("".join), min_size=1, max_size=4)
texts = st.lists(few, max_size=40).map("".join)


def plainly(patterns: list[str], text: str, *, include: bool, min_tokens: int) -> tuple[int, int] | None:
    """Start and end of the first match, by trying every place."""
    for end in range(1, len(text) + 1):
        starts = sorted(end - len(pattern) for pattern in patterns if text[:end].endswith(pattern))
        for start in starts:
            if (end if include else start) >= min_tokens:
                return start, end
    return None


@given(patterns=patterns, text=texts, cuts=st.lists(st.integers(1, 7)), include=st.booleans(), least=st.integers(0, 9))
def test_the_first_match_is_found_wherever_the_text_is_cut(
    patterns: list[str], text: str, cuts: list[int], include: bool, least: int
) -> None:
    automaton = StopAutomaton([list(map(ord, pattern)) for pattern in patterns])
    matcher = StopMatcher(automaton, include=include, min_tokens=least)
    found: Match | None = None
    done = 0
    for cut in [*cuts, len(text)]:
        part = text[done : done + cut]
        found = found or matcher.push(list(map(ord, part)))
        done += len(part)
        if not found:
            beginnings = [n for p in patterns for n in range(len(p)) if text[:done].endswith(p[:n])]
            assert matcher.held == (0 if include else max(beginnings))
    expected = plainly(patterns, text, include=include, min_tokens=least)
    assert (found and (found.start, found.end)) == expected
    if found:
        assert text[found.start : found.end] == patterns[found.pattern]


@pytest.mark.parametrize("size", [65, 256, 100_000])
def test_an_automaton_takes_no_more_memory_than_its_price(size: int) -> None:
    draw = np.random.default_rng(1)
    patterns = draw.integers(0, size, (16, 1024)).tolist()
    tracemalloc.start()
    try:
        automaton = StopAutomaton(patterns)
        taken, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert StopMatcher(automaton, include=False, min_tokens=0).push(patterns[5]) == Match(5, 0, 1024)
    assert taken < STOP * 16 * 1024 / 3, "the numbers of the tokens take the others"
    assert most < 3 * STOP * 16 * 1024


SEED, LENGTH = 11, 400


@pytest.fixture(scope="module")
def unstopped(decoder: Decoder, bundle: Bundle) -> tuple[list[int], Snapshot]:
    """What is generated without stop strings, and where that leaves a session."""
    start = Harness(decoder, bundle.manifest.start_token)
    start.loom.drain(1)
    return generate_stepwise(decoder, start.fresh(SEED), [3, 4], LENGTH, Sampling())


@pytest.fixture(scope="module")
def whole(unstopped: tuple[list[int], Snapshot]) -> list[int]:
    """What is generated without stop strings."""
    return unstopped[0]


def first(whole: Sequence[int], pattern: Sequence[int], least: int = 0) -> int:
    """Where a pattern begins first."""
    size = len(pattern)
    return next(n for n in range(least, len(whole)) if list(whole[n : n + size]) == list(pattern))


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("length", [1, 2, 5, 40])
@pytest.mark.parametrize("tick", [1e-6, 0.002, 0.05])
def test_a_job_ends_at_its_stop_string_and_its_state_at_the_end_of_its_text(
    decoder: Decoder, bundle: Bundle, unstopped: tuple[list[int], Snapshot], include: bool, length: int, tick: float
) -> None:
    whole, _ = unstopped
    pattern = whole[200 : 200 + length]
    at = first(whole, pattern)
    told = at + length if include else at
    harness = Harness(decoder, bundle.manifest.start_token, tick_seconds=tick)
    stops = Stops([[0, 0, 0, 0, 0, 0], pattern], include=include)
    reader = harness.submit(seed=SEED, prompt=[3, 4], max_tokens=LENGTH, stops=stops, snapshots=True)
    finish = reader.wait()
    assert reader.tokens == whole[:told]
    assert (finish.reason, finish.stop, finish.generated) == (FinishReason.STOP, 1, told)
    assert finish.snapshot.position == 2 + told
    assert_goes_on(harness, reader, unstopped, told)


def assert_goes_on(harness: Harness, reader: JobReader, unstopped: tuple[list[int], Snapshot], told: int) -> None:
    """From the snapshots of the last chunk and of every other one, the text goes on as if it had never been stopped."""
    assert reader.finish is not None
    snapshots = [(chunk.snapshot, chunk.position) for chunk in reader.chunks] + [(reader.finish.snapshot, 2 + told)]
    whole, expected = unstopped
    for snapshot, position in snapshots[-5:]:
        assert snapshot is not None
        assert snapshot.position == position
        rest = harness.submit(start=snapshot, max_tokens=LENGTH + 2 - position)
        end = rest.wait()
        assert rest.tokens == whole[position - 2 :]
        assert end.snapshot.position == expected.position
        assert end.fed == 0, "tokens that are read again are not those of the prompt"
        assert np.array_equal(end.snapshot.state, expected.state)
    harness.loom.drain(1)


@pytest.mark.parametrize("tick", [1e-6, 0.002])
def test_text_that_may_become_a_stop_string_is_held_back_and_told_when_it_does_not(
    decoder: Decoder, bundle: Bundle, unstopped: tuple[list[int], Snapshot], tick: float
) -> None:
    """The pattern is what comes, but for its last token; so the job holds back and then tells all of it."""
    whole, _ = unstopped
    almost = [*whole[100:130], (whole[130] + 1) % decoder.shape.vocabulary]
    harness = Harness(decoder, bundle.manifest.start_token, tick_seconds=tick)
    reader = harness.submit(seed=SEED, prompt=[3, 4], max_tokens=LENGTH, stops=Stops([almost]), snapshots=True)
    assert reader.wait().reason is FinishReason.LENGTH
    assert reader.tokens == whole
    ends = {chunk.position - 2 for chunk in reader.chunks}
    assert not ends & set(range(102, 130)), "a beginning of the stop string was told before it was decided"
    assert_goes_on(harness, reader, unstopped, LENGTH)


def test_what_is_held_back_at_the_end_is_told(decoder: Decoder, bundle: Bundle, whole: list[int]) -> None:
    harness = Harness(decoder, bundle.manifest.start_token)
    reader = harness.submit(seed=SEED, prompt=[3, 4], max_tokens=110, stops=Stops([whole[100:130]]))
    assert reader.wait().reason is FinishReason.LENGTH
    assert reader.tokens == whole[:110]
    harness.loom.drain(1)


@pytest.mark.parametrize("include", [False, True])
def test_min_tokens_lets_earlier_stop_strings_pass(
    decoder: Decoder, bundle: Bundle, whole: list[int], include: bool
) -> None:
    pattern = [whole[20]]
    at = first(whole, pattern, 60 if not include else 59)
    harness = Harness(decoder, bundle.manifest.start_token)
    stops = Stops([pattern], include=include, min_tokens=60)
    reader = harness.submit(seed=SEED, prompt=[3, 4], max_tokens=LENGTH, stops=stops)
    assert reader.wait().reason is FinishReason.STOP
    assert reader.tokens == whole[: at + include]
    assert len(reader.tokens) >= 60
    harness.loom.drain(1)


def test_a_drained_job_is_told_all_but_what_is_held_back(decoder: Decoder, bundle: Bundle, whole: list[int]) -> None:
    slow = Slow(decoder, 0.003)
    harness = Harness(slow, bundle.manifest.start_token)
    reader = harness.submit(seed=SEED, prompt=[3, 4], max_tokens=10**6, stops=Stops([whole[100:130]]), snapshots=True)
    assert reader.began.wait(60)
    harness.loom.drain(0.02)
    finish = reader.wait()
    assert finish.reason in (FinishReason.DRAINING, FinishReason.STOP)
    told = len(reader.tokens)
    assert finish.snapshot.position == 2 + told
    again = Harness(decoder, bundle.manifest.start_token)
    rest = again.submit(start=finish.snapshot, max_tokens=50)
    rest.wait()
    expected, _ = generate_stepwise(decoder, again.fresh(SEED), [3, 4], told + 50, Sampling())
    assert reader.tokens + rest.tokens == expected
    again.loom.drain(1)
    harness.loom.drain(1)


def test_a_call_that_is_given_up_as_the_loom_ends_leaves_the_others_their_end(decoder: Decoder, bundle: Bundle) -> None:
    """It goes on after a break, and what came before it may still become a stop string."""
    slow = Slow(decoder)
    slow.gate = threading.Event()
    harness = Harness(slow, bundle.manifest.start_token, workers=1)
    stops = Stops([[3, 4, 5]])
    given_up = harness.submit(max_tokens=50, stops=stops, earlier=np.array([3]), earlier_generated=1)
    other = harness.submit(max_tokens=10**6)
    assert slow.entered.wait(60)
    assert given_up.row is not None
    given_up.row.cancel()
    harness.loom.end_now()
    slow.gate.set()
    assert other.wait().reason is FinishReason.DRAINING
    assert given_up.wait().reason is FinishReason.CANCELLED
    assert not given_up.tokens
    assert harness.loom.drain(60)


def test_penalties_do_not_count_tokens_of_an_earlier_call_that_are_read_again(
    decoder: Decoder, bundle: Bundle, whole: list[int]
) -> None:
    harness = Harness(decoder, bundle.manifest.start_token, tick_seconds=0.05)
    stopped = harness.submit(seed=SEED, prompt=[3, 4], max_tokens=LENGTH, stops=Stops([whole[200:203]]), snapshots=True)
    start = stopped.wait().snapshot
    assert len(start.pending) > 1
    sampling = Sampling(frequency_penalty=1.0, repetition_penalty=1.2)
    reader = harness.submit(start=start, prompt=[5, 5], max_tokens=120, sampling=sampling)
    reader.wait()
    assert reader.tokens == generate_stepwise(decoder, start, [5, 5], 120, sampling)[0]
    harness.loom.drain(1)
