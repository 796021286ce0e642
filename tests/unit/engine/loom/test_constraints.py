"""Jobs with constraints: what they generate is what Python's engine matches, alone and beside any others."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charloom.bundle import Bundle
from charloom.engine.constraints.automata import automaton_of
from charloom.engine.decoding.automaton import FIRST, Automaton, AutomatonTable, unconstrained
from charloom.engine.decoding.decoder import NEVER, Decoder
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.loom.jobs import FinishReason
from tests.oracles.one_text import generate_stepwise
from tests.unit.engine.looms import Harness, JobReader, Slow

PATTERNS = [
    r"[A-Z]{3,8}: [a-z ]+\.",
    "[0-9]{4}-[0-9]{2}-[0-9]{2}",
    "yes|no|perhaps",
    "(a|ab)(c|bcd)*",
    r"\w+( \w+)*",
    r"[^\n]*",
    r"(?:the )*end",
]
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0),
    Sampling(temperature=0.5, top_k=3),
    Sampling(temperature=1.5, top_p=0.7),
    Sampling(min_p=0.2, repetition_penalty=1.3, frequency_penalty=0.5),
]


def automaton(pattern: str, bundle: Bundle) -> Automaton:
    symbols = [bundle.vocabulary.symbol(token) for token in range(bundle.vocabulary.size)]
    return automaton_of(pattern, symbols, bytewise=False)


@pytest.fixture(scope="module")
def automata(bundle: Bundle) -> dict[str, Automaton]:
    return {pattern: automaton(pattern, bundle) for pattern in PATTERNS}


def told(reader: JobReader) -> tuple[list[int], FinishReason, int, float | None, int]:
    finish = reader.wait()
    return reader.tokens, finish.reason, finish.generated, finish.allowed, finish.snapshot.position


def test_many_jobs_at_once_match_and_are_what_they_are_alone(
    harness: Harness, bundle: Bundle, automata: dict[str, Automaton]
) -> None:
    jobs = [
        {
            "automaton": automata[pattern],
            "sampling": sampling,
            "seed": seed,
            "max_tokens": 30,
            "prompt": [3] * (seed % 3),
        }
        for seed, (pattern, sampling) in enumerate(itertools.product(PATTERNS, SAMPLINGS))
    ]
    free = [{"sampling": sampling, "seed": seed, "max_tokens": 40} for seed, sampling in enumerate(SAMPLINGS)]
    together = [told(reader) for reader in [harness.submit(**job) for job in [*jobs, *free]]]  # type: ignore[arg-type]
    alone = [told(harness.submit(**job)) for job in [*jobs, *free]]  # type: ignore[arg-type]
    assert together == alone
    ended = 0
    for (pattern, _), (tokens, reason, generated, allowed, _) in zip(
        itertools.product(PATTERNS, SAMPLINGS), alone, strict=False
    ):
        text = bundle.vocabulary.decode(tokens)
        assert re.fullmatch(pattern, text), (pattern, text)
        assert generated == len(tokens) <= 30
        assert reason is FinishReason.STOP or (reason is FinishReason.LENGTH and generated == 30)
        assert allowed is not None
        assert allowed <= 0
        ended += reason is FinishReason.STOP
    assert ended > len(jobs) / 2
    assert all(allowed is None for *_, allowed, _ in alone[len(jobs) :])


def test_a_temperature_that_float32_cannot_divide_by_is_greedy(
    harness: Harness, automata: dict[str, Automaton]
) -> None:
    def told_at(temperature: float) -> list[tuple[list[int], FinishReason, int, float | None, int]]:
        sampling = Sampling(temperature=temperature)
        jobs = [{"automaton": one, "sampling": sampling, "max_tokens": 30} for one in (None, *automata.values())]
        return [told(reader) for reader in [harness.submit(**job) for job in jobs]]  # type: ignore[arg-type]

    greedy = told_at(0)
    assert all(told_at(temperature) == greedy for temperature in (1e-31, 1e-36, 1e-44))


@pytest.mark.parametrize("tick_seconds", [1e-6, 0.0004, 0.02])
def test_neither_ticks_nor_workers_change_a_text(
    tick_seconds: float, decoder: Decoder, bundle: Bundle, harness: Harness, automata: dict[str, Automaton]
) -> None:
    jobs = [{"automaton": one, "seed": seed, "max_tokens": 60} for one in automata.values() for seed in range(4)]
    expected = [told(harness.submit(**job)) for job in jobs]  # type: ignore[arg-type]
    other = Harness(Slow(decoder), bundle.manifest.start_token, tick_seconds=tick_seconds, workers=3)
    found = [told(reader) for reader in [other.submit(**job) for job in jobs]]  # type: ignore[arg-type]
    other.loom.drain(1)
    assert found == expected


@pytest.mark.parametrize("tick_seconds", [1e-6, 0.02])
def test_a_text_that_can_only_end_ends_after_all_that_is_to_be_read(
    tick_seconds: float, decoder: Decoder, bundle: Bundle
) -> None:
    harness = Harness(Slow(decoder), bundle.manifest.start_token, tick_seconds=tick_seconds)
    prompt, written = bundle.vocabulary.encode("Say: ").tolist(), bundle.vocabulary.encode("yes").tolist()
    after = generate_stepwise(decoder, harness.fresh(1), [*prompt, *written], 0, Sampling())[1]
    # A call that broke off after its last token: what its state has not read yet is read once more.
    unread = replace(harness.fresh(1), pending=(bundle.manifest.start_token, *prompt, *written), position=8)
    answer = automaton("yes|no", bundle)
    state = answer.after(written)
    assert state is not None
    resumed = harness.submit(start=unread, automaton=answer, automaton_state=state, top_logprobs=0)
    empty = harness.submit(prompt=[*prompt, *written], automaton=automaton("", bundle), top_logprobs=0)
    for reader in (resumed, empty):
        finish = reader.wait()
        assert (finish.reason, finish.generated) == (FinishReason.STOP, 0)
        assert (finish.snapshot.position, finish.snapshot.pending) == (8, after.pending)
        assert np.array_equal(finish.snapshot.state, after.state)
    harness.loom.drain(1)


ATOMS = st.sampled_from(["a", "e", "[a-m]", ".", "[^ ]", " ", "the", r"\w"])
RANDOM_PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2,4}", "{3}"])).map(lambda two: f"(?:{two[0]}){two[1]}"),
    ),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RANDOM_PATTERNS, st.integers(0, 2**64 - 1), st.sampled_from(SAMPLINGS), st.integers(0, 12))
def test_a_text_of_any_pattern_matches_and_ends_in_time(
    harness: Harness, bundle: Bundle, pattern: str, seed: int, sampling: Sampling, more: int
) -> None:
    made = automaton(pattern, bundle)
    most = made.least_tokens + more
    if not most:
        return
    readers = [
        harness.submit(automaton=made, seed=(seed + number) % 2**64, sampling=sampling, max_tokens=most)
        for number in range(20)
    ]
    for reader in readers:
        finish = reader.wait()
        assert re.fullmatch(pattern, bundle.vocabulary.decode(reader.tokens))
        assert len(reader.tokens) <= most
        assert finish.reason in (FinishReason.STOP, FinishReason.LENGTH)


def test_the_end_comes_as_often_as_the_model_would_write_what_is_not_allowed(harness: Harness, bundle: Bundle) -> None:
    """At the first place where the text may end: of 2,000 seeds, within five standard deviations."""
    vocabulary = bundle.vocabulary
    letters = [token for token in range(vocabulary.size) if vocabulary.symbol(token).isalpha()]
    prompt = vocabulary.encode("th").tolist()
    peeked = harness.submit(prompt=prompt, max_tokens=1, top_logprobs=vocabulary.size)
    peeked.wait()
    of = dict(peeked.chunks[0].logprobs[0].top)
    expected = 1 - sum(np.exp(of[token]) for token in letters)
    made = automaton("[A-Za-z]*", bundle)
    readers = [harness.submit(prompt=prompt, max_tokens=1, automaton=made, seed=seed) for seed in range(2_000)]
    ended = [reader.wait().generated == 0 for reader in readers]
    assert 0.01 < expected < 0.99
    assert abs(np.mean(ended) - expected) < 5 * (expected * (1 - expected) / 2_000) ** 0.5


def test_choices_come_as_often_as_the_model_would_write_them_token_by_token(harness: Harness, bundle: Bundle) -> None:
    """Their probabilities are 1 together, and of 2,000 seeds each comes so often, within five standard deviations."""
    texts, vocabulary = ("the", "then", "them", "that", "state", "statement", "and", "an"), bundle.vocabulary
    prompt = vocabulary.encode("The ").tolist()

    def after(text: str) -> dict[int, float]:
        peeked = harness.submit(
            prompt=[*prompt, *vocabulary.encode(text).tolist()], max_tokens=1, top_logprobs=vocabulary.size
        )
        peeked.wait()
        return {token: float(np.exp(logprob)) for token, logprob in peeked.chunks[0].logprobs[0].top}

    expected = dict.fromkeys(texts, 1.0)
    for text in texts:
        for place in range(len(text) + 1):
            begun = text[:place]
            allowed = {one[place] for one in texts if one.startswith(begun) and len(one) > place}
            if not allowed:
                continue  # it can only end
            of = after(begun)
            wanted = {one: of[vocabulary.encode(one)[0]] for one in allowed}
            whole = 1.0 if begun in texts else sum(wanted.values())  # where it may end, all the rest means the end
            expected[text] *= (wanted[text[place]] if place < len(text) else 1 - sum(wanted.values())) / whole
    assert sum(expected.values()) == pytest.approx(1, abs=1e-4)
    made = automaton("|".join(texts), bundle)
    found = Counter[str]()
    for first in range(0, 2_000, 500):  # no more than may wait at a time
        seeds = range(first, first + 500)
        readers = [harness.submit(prompt=prompt, max_tokens=20, automaton=made, seed=seed) for seed in seeds]
        for reader in readers:
            reader.wait()
        found.update(vocabulary.decode(reader.tokens) for reader in readers)
    assert set(found) <= set(texts)
    for text, share in expected.items():
        assert abs(found[text] / 2_000 - share) <= 5 * (share * (1 - share) / 2_000) ** 0.5 + 1e-4


def test_what_was_left_is_told_for_each_token_and_in_all(harness: Harness, bundle: Bundle) -> None:
    made = automaton("[0-9]{3}[a-z]*", bundle)
    reader = harness.submit(automaton=made, max_tokens=20, top_logprobs=bundle.vocabulary.size, seed=5)
    finish = reader.wait()
    logprobs = [one for chunk in reader.chunks for one in chunk.logprobs]
    digits = [token for token in range(bundle.vocabulary.size) if bundle.vocabulary.symbol(token).isdigit()]
    assert len(logprobs) == len(reader.tokens)
    for place, one in enumerate(logprobs):
        of = dict(one.top)
        expected = np.log(sum(np.exp(of[token]) for token in digits)) if place < 3 else 0.0
        assert one.allowed == pytest.approx(expected, abs=1e-4)
    assert finish.allowed == pytest.approx(sum(one.allowed for one in logprobs))
    assert finish.allowed is not None
    assert finish.allowed < -3


def test_a_text_that_goes_on_after_a_break_ends_as_it_would_have(
    harness: Harness, automata: dict[str, Automaton]
) -> None:
    made = automata[r"[A-Z]{3,8}: [a-z ]+\."]
    whole = harness.submit(automaton=made, seed=9, max_tokens=40)
    expected = whole.wait()
    for cut in range(1, len(whole.tokens)):
        before = whole.tokens[:cut]
        # The state after `cut` tokens: these were the text of the call before the break.
        start = _after(harness, before, 9)
        rest = harness.submit(
            start=start,
            automaton=made,
            max_tokens=40 - cut,
            earlier=np.array(before, np.int64),
            earlier_generated=cut,
            automaton_state=made.after(before),
        )
        finish = rest.wait()
        assert before + rest.tokens == whole.tokens
        assert (finish.reason, finish.snapshot.position) == (expected.reason, expected.snapshot.position)


def _after(harness: Harness, tokens: Sequence[int], seed: int) -> Snapshot:
    reader = harness.submit(prompt=tokens, max_tokens=0, seed=seed)
    return reader.wait().snapshot


def test_automata_that_leave_make_room_for_others(bundle: Bundle) -> None:
    table = AutomatonTable(bundle.vocabulary.size)
    small, large = automaton("ab", bundle), automaton("[a-z]{50}", bundle)
    first = table.take(small)
    assert table.take(small) == first == FIRST
    second = table.take(large)
    for _ in range(20):
        table.release(large)
        assert table.take(large) == second
    table.release(small)
    assert table.take(automaton("ba", bundle)) != first
    size = len(table.distance)
    table.release(small)
    assert table.take(automaton("ca", bundle)) == first
    assert len(table.distance) == size
    state = second
    for token in bundle.vocabulary.encode("a" * 50):
        state = int(table.next[state, token])
    assert table.is_over(state)
    assert table.distance[state] == 0


def test_automata_that_have_left_take_neither_memory_nor_time(bundle: Bundle) -> None:
    table = AutomatonTable(bundle.vocabulary.size)
    small, large = automaton("ab", bundle), automaton("[a-z]{200}", bundle)
    kept, begin = table.take(small), table.take(large)
    running, most = table.rows(np.array([begin]), np.array([9])), table.distance.max()
    table.release(large)
    assert len(table.distance) < 4 * (FIRST + len(small.distance))
    assert len(table.next) == len(table.distance)
    assert (table.next[kept : kept + len(small.distance)] < len(table.distance)).all()
    assert len(running.next) > len(large.distance)  # a call that runs has what it was given
    second = table.take(large)
    assert table.distance.max() == most
    table.take(automaton("b", bundle))  # behind it, so that the table stays as long as it is
    table.release(large)
    assert second < len(table.distance)
    assert table.distance[table.distance < NEVER].max() == small.distance.max()


def test_calls_without_constraints_have_one_table_for_any_number_of_rows() -> None:
    few, many = unconstrained(1, 65), unconstrained(256, 65)
    assert few.next is many.next
    assert (len(few.state), len(many.state), len(many.left)) == (1, 256, 256)
    assert unconstrained(1, 66).next.shape[1] == 66
