"""Resampled continuations: what NumPy says they are, and the model's own texts that match, weighted."""

from __future__ import annotations

import asyncio
import gc
import math
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charloom.bundle import Bundle
from charloom.engine.calls import resampling
from charloom.engine.calls.generation import Continuation, GenerationResult, TextDelta
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.calls.resampling import log_mean, parents, shares
from charloom.engine.constraints.automata import automaton_of
from charloom.engine.constraints.constraint import Constraint, Kind
from charloom.engine.decoding.automaton import Automaton, table_of
from charloom.engine.decoding.decoder import Decoder, Inputs, Ints, neutral
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.decoding.uniforms import Uniforms
from charloom.engine.engine import Engine
from charloom.engine.errors import Draining, InvalidRequest
from charloom.engine.loom.jobs import FinishReason
from charloom.engine.rates import Rates
from charloom.engine.shares import Share
from tests.unit.engine.looms import Slow
from tests.waiting import eventually

PATTERN = r"[A-Z]{3,8}: [a-z ]+\."
CHOICES = ("the", "then", "them", "that", "thing", "state", "statement", "and", "an", "zoo", "zebra", "q")


@pytest.fixture
async def engine(bundle: Bundle, decoder: Decoder) -> AsyncIterator[Engine]:
    engine = Engine([(bundle, decoder)])
    yield engine
    await engine.drain(0)


def request(n: int, seed: int, **more: object) -> GenerationRequest:
    asked: dict[str, object] = {"constraint": Constraint(Kind.REGEX, (PATTERN,)), "max_tokens": 40, "prompt": "The "}
    return GenerationRequest(n=n, seed=seed, resample=True, **{**asked, **more})  # type: ignore[arg-type]


async def written(texts: Sequence[Continuation]) -> list[tuple[TextDelta, GenerationResult]]:
    deltas = await asyncio.gather(*(text.whole() for text in texts))
    return [(delta, text.result) for delta, text in zip(deltas, texts, strict=True) if text.result is not None]


async def resampled(engine: Engine, asked: GenerationRequest) -> list[tuple[TextDelta, GenerationResult]]:
    return await written(await engine.generating.continuations(asked))


@given(st.lists(st.floats(-30, 0), min_size=1, max_size=64), st.floats(0, 1, exclude_max=True))
def test_a_text_comes_as_often_as_its_share_says(logs: list[float], uniform: float) -> None:
    log_weights, count = np.array(logs), len(logs)
    chosen = parents(log_weights, uniform)
    own = shares(log_weights)
    if 1 / (own**2).sum() >= count / 2:
        assert chosen.tolist() == list(range(count))
        return
    times = np.bincount(chosen, minlength=count)
    assert (np.abs(times - own * count) < 1 + 1e-9).all()
    assert all(chosen[place] == place for place in np.flatnonzero(times))
    assert not np.array_equal(chosen, np.arange(count))


def test_even_weights_are_left_alone_and_one_of_all_weight_takes_all_places() -> None:
    assert parents(np.zeros(8), 0.5).tolist() == [*range(8)]
    assert parents(np.array([-800.0, 0.0, -900.0]), 0.99).tolist() == [1, 1, 1]
    assert log_mean(np.array([-800.0, -800.0])) == pytest.approx(-800)


def stated(
    decoder: Decoder, bundle: Bundle, automaton: Automaton, prompt: Sequence[int], most: int, n: int, seed: int
) -> tuple[list[list[int]], list[float], list[int], float]:
    """The same, one decoder call for each token of each text: tokens, shares, ancestors, estimate."""
    size, numbers = decoder.shape.vocabulary, Uniforms()
    zero = np.zeros((decoder.shape.arrays, decoder.shape.layers, 1, decoder.shape.hidden), np.float32)
    states = [(zero, bundle.manifest.start_token)] * n
    texts: list[list[int]] = [[] for _ in range(n)]
    over, ancestors = [False] * n, list(range(n))
    since, estimate = np.zeros(n), 0.0
    while not all(over):
        length = max(len(text) for text, ended in zip(texts, over, strict=True) if not ended)
        for number in range(n):
            for _ in range(resampling.EVERY):
                if over[number]:
                    break
                text, (state, token) = texts[number], states[number]
                forced = [*prompt] if not text else []
                constraints = table_of([automaton], [most - len(text) + len(forced)], size)
                at = automaton.after(text)
                assert at is not None
                constraints = constraints._replace(state=constraints.state + at)
                steps, position = len(forced) + 1, len(prompt) + len(text) - len(forced)
                given_numbers = numbers.at((seed + number) % 2**64, position, steps)[:, None]
                fed = np.array([*forced, -1])[:, None]
                sampling = neutral(1, size)
                found = decoder.run(
                    Inputs(
                        np.array([token]), state, fed, np.array([steps]), given_numbers, sampling, False, constraints
                    )
                )
                since[number] += float(found.allowed[-1, 0])
                if found.taken[0] < steps:
                    over[number] = True
                    break
                states[number] = (found.state, int(found.tokens[-1, 0]))
                texts[number] = [*text, int(found.tokens[-1, 0])]
                end = automaton.after(texts[number])
                over[number] = len(texts[number]) == most or bool((automaton.next[end] < 0).all())
        if all(over):
            break
        uniform = float(numbers.at((seed + n) % 2**64, len(prompt) + length + resampling.EVERY, 1)[0])
        chosen = parents(since, uniform)
        if not np.array_equal(chosen, np.arange(n)):
            estimate, since = estimate + log_mean(since), np.zeros(n)
            states, texts = [states[one] for one in chosen], [texts[one] for one in chosen]
            over, ancestors = [over[one] for one in chosen], [ancestors[one] for one in chosen]
    return texts, shares(since).tolist(), ancestors, estimate + log_mean(since)


async def test_they_are_what_token_by_token_gives(engine: Engine, bundle: Bundle, decoder: Decoder) -> None:
    symbols = [bundle.vocabulary.symbol(token) for token in range(bundle.vocabulary.size)]
    automaton = automaton_of(PATTERN, symbols, bytewise=False)
    prompt = bundle.vocabulary.encode("The ").tolist()
    times = 0
    for seed in (3, 2**64 - 2):
        found = await resampled(engine, request(12, seed))
        texts, weights, ancestors, estimate = stated(decoder, bundle, automaton, prompt, 40, 12, seed)
        assert [delta.text for delta, _ in found] == [bundle.vocabulary.decode(text) for text in texts]
        told = [result.resampled for _, result in found]
        assert [one.ancestor for one in told if one] == ancestors
        assert [one.weight for one in told if one] == pytest.approx(weights, rel=1e-4)
        assert [one.match_logprob for one in told if one] == pytest.approx([estimate] * 12, abs=1e-4)
        times += sum(one.times for one in told if one)
    assert times > 0


async def test_other_calls_and_logprobs_change_nothing(engine: Engine) -> None:
    alone = await resampled(engine, request(8, 5))
    others = [engine.generating.continuations(request(8, seed, logprobs=True)) for seed in (4, 5, 6)]
    several = await asyncio.gather(*(written(texts) for texts in await asyncio.gather(*others)))
    beside = several[1]
    assert [delta.text for delta, _ in beside] == [delta.text for delta, _ in alone]
    assert [result.resampled for _, result in beside] == [result.resampled for _, result in alone]
    for (delta, result), (_, before) in zip(beside, alone, strict=True):
        assert len(delta.logprobs) == len(delta.text)
        assert result.finish.allowed == pytest.approx(sum(one.allowed for one in delta.logprobs), abs=1e-4)
        assert (result.finish.generated, result.finish.fed) == (len(delta.text), 4)
        assert result.finish.reason in (FinishReason.STOP, FinishReason.LENGTH)
        assert (result.finish.snapshot.position, result.max_tokens) == (4 + len(delta.text), 40)
        assert result.finish.allowed == before.finish.allowed


async def test_penalties_count_all_of_the_text_and_its_prompt(engine: Engine) -> None:
    """A penalty that lets no letter come twice: also not across the places where it was resampled."""
    sampling = Sampling(presence_penalty=100)
    asked = request(
        8, 1, prompt="abcd", sampling=sampling, max_tokens=20, constraint=Constraint(Kind.REGEX, ("[a-z]{20}",))
    )
    for delta, _ in await resampled(engine, asked):
        assert len(set(delta.text)) == 20
        assert not set(delta.text) & set("abcd")


@pytest.mark.parametrize(("penalty", "read"), [(0.0, 4), (1.0, 8 * 4)])
async def test_each_token_that_is_read_and_written_is_paid(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, penalty: float, read: int
) -> None:
    """A prompt is read once for all texts, unless a penalty makes each of them read it."""
    spend, paid = Rates.spend, []

    def counted(rates: Rates, share: Share, tokens: int) -> float:
        paid.append(tokens)
        return spend(rates, share, tokens)

    monkeypatch.setattr(Rates, "spend", counted)
    constraint, sampling = Constraint(Kind.REGEX, ("[a-z ]{20}",)), Sampling(presence_penalty=penalty)
    await resampled(engine, request(8, 1, prompt="abcd", sampling=sampling, constraint=constraint, max_tokens=20))
    assert sum(paid) == read + 8 * 20


async def test_only_the_latest_state_of_a_text_is_kept(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def counted(log_weights: resampling.Doubles, uniform: float) -> Ints:
        kept.append(sum(type(one) is Snapshot for one in gc.get_objects()))
        return parents(log_weights, uniform)

    monkeypatch.setattr(resampling, "parents", counted)
    await resampled(engine, request(8, 1, constraint=Constraint(Kind.REGEX, ("[a-z ]{96}",)), max_tokens=96))
    assert len(kept) == 96 // resampling.EVERY - 1
    assert max(kept) <= kept[1] + 8


async def masses(engine: Engine, bundle: Bundle, texts: Sequence[str], prompt: str) -> dict[str, float]:
    """The probability that the model writes each of these texts, and then nothing that another one goes on with."""
    model, vocabulary = engine.models[0], bundle.vocabulary
    start, _ = await engine.reading.read(model, vocabulary.encode(prompt), model.fresh(0))
    found = {}
    for text in texts:
        tokens = vocabulary.encode(text).tolist()
        _, logprobs = await engine.reading.read(model, np.array([*tokens, 0]), start, vocabulary.size)
        of = dict(logprobs[-1].top)
        more = {vocabulary.encode(one)[len(tokens)] for one in texts if one.startswith(text) and one != text}
        end = 1 - sum(math.exp(of[token]) for token in more)
        found[text] = math.exp(sum(one.logprob for one in logprobs[:-1])) * (end if more else 1.0)
    return found


async def test_weighted_they_are_the_texts_of_the_model_that_match(
    engine: Engine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against all texts that match, counted out; independent ones are far from it."""
    monkeypatch.setattr(resampling, "EVERY", 2)
    exact = await masses(engine, bundle, CHOICES, "The ")
    total = sum(exact.values())
    wanted = np.array([exact[text] / total for text in CHOICES])
    constraint, calls, n = Constraint(Kind.CHOICES, CHOICES), 25, 64
    weighted, independent, estimates = Counter[str](), Counter[str](), []
    for call in range(calls):
        asked = request(n, 1000 * call, constraint=constraint)
        for delta, result in await resampled(engine, asked):
            assert result.resampled is not None
            weighted[delta.text] += result.resampled.weight / calls  # type: ignore[assignment]
            estimates.append(result.resampled.match_logprob)
        for one in await engine.generating.continuations(GenerationRequest(**{**vars(asked), "resample": False})):
            independent[(await one.whole()).text] += 1

    def off(found: Counter[str]) -> float:
        """Total variation distance from the exact distribution."""
        shown = np.array([found[text] for text in CHOICES], float)
        return float(np.abs(shown / shown.sum() - wanted).sum() / 2)

    assert set(weighted) <= set(CHOICES)
    assert off(weighted) < 0.06
    assert off(independent) > 0.2
    assert np.exp(estimates).mean() == pytest.approx(total, rel=0.1)


@pytest.mark.parametrize(
    ("more", "why"),
    [({"n": 1}, "takes several continuations"), ({"constraint": None}, "takes a constraint, and there is none")],
)
async def test_resampling_takes_several_and_a_constraint(engine: Engine, more: dict[str, object], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        await engine.generating.continuations(request(**{"n": 4, "seed": 1, **more}))  # type: ignore[arg-type]


async def test_cancelling_one_takes_all_out_of_the_batch(bundle: Bundle, decoder: Decoder) -> None:
    engine = Engine([(bundle, Slow(decoder, 0.005))])
    texts = await engine.generating.continuations(
        request(16, 1, constraint=Constraint(Kind.REGEX, ("[a-z ]{9000}",)), max_tokens=9000)
    )
    await asyncio.sleep(0.05)
    texts[3].cancel()
    with pytest.raises(asyncio.CancelledError):
        await texts[0].whole()
    assert [delta async for delta in texts[3]] == []
    await asyncio.to_thread(eventually, lambda: engine.models[0].loom.live == 0)
    await engine.drain(0)


async def test_a_server_that_stops_ends_them_with_an_error(bundle: Bundle, decoder: Decoder) -> None:
    engine = Engine([(bundle, Slow(decoder, 0.005))])
    texts = await engine.generating.continuations(
        request(4, 1, constraint=Constraint(Kind.REGEX, ("[a-z ]{9000}",)), max_tokens=9000)
    )
    whole = asyncio.ensure_future(texts[0].whole())
    await asyncio.sleep(0.05)
    await engine.drain(0)
    with pytest.raises(Draining):
        await whole
