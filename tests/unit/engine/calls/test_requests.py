"""What the engine refuses before any work is done, field by field, and what several continuations are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from charloom.bundle import Bundle, CharacterVocabulary, WordVocabulary
from charloom.engine.calls import requests
from charloom.engine.calls.requests import GenerationRequest, check
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.engine import Engine
from charloom.engine.errors import InvalidRequest, StalePosition
from charloom.engine.limits import Limits
from charloom.engine.loom.jobs import FinishReason

VOCABULARY = CharacterVocabulary(sorted("\n abcdefghij"))


def asked(**options: Any) -> GenerationRequest:
    sampling = {name: options.pop(name) for name in list(options) if name in Sampling.__dataclass_fields__}
    return GenerationRequest(**options, sampling=Sampling(**sampling))


@pytest.mark.parametrize(
    ("options", "field", "says"),
    [
        ({"max_tokens": 0}, "max_tokens", "from 1 to 65536"),
        ({"max_tokens": 65_537}, "max_tokens", "65537 is not allowed"),
        ({"max_tokens": 5, "min_tokens": 6}, "min_tokens", "6 is more than the 5 of max_tokens"),
        ({"min_tokens": 257}, "min_tokens", "257 is more than the 256 of max_tokens"),
        ({"min_tokens": -1}, "min_tokens", "-1 is not allowed"),
        ({"seed": -1}, "seed", "'-1' is not allowed; from 0 to 2^64 - 1"),
        ({"seed": 2**64}, "seed", "18446744073709551616"),
        ({"n": 0}, "n", "from 1 to 64"),
        ({"n": 65}, "n", "65 is not allowed"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "from 0 to 20"),
        ({"top_logprobs": 3}, "top_logprobs", "it needs logprobs"),
        ({"stop": [""]}, "stop[0]", "it is empty"),
        ({"stop": ["a", ""]}, "stop[1]", "it is empty"),
        ({"stop": ["a"] * 1000}, "stop", "1000 strings are too many; give up to 16"),
        ({"stop": ["a" * 257]}, "stop[0]", "257 characters; up to 256"),
        ({"stop": ["a", "#"]}, "stop[1]", "can never be generated"),
        ({"prompt": "#"}, "prompt", "skip"),
        ({"temperature": float("nan")}, "sampling.temperature", "nan is not allowed"),
        ({"temperature": -1.0}, "sampling.temperature", "-1 is not allowed"),
        ({"temperature": float("inf")}, "sampling.temperature", "inf is not allowed"),
        ({"temperature": float(np.float32(100.0001))}, "sampling.temperature", "100.0001 is not allowed"),
        ({"temperature": 100.00000001}, "sampling.temperature", "100.00000001 is not allowed"),
        ({"temperature": 3e39}, "sampling.temperature", "3e+39 is not allowed"),
        ({"top_p": float(np.nextafter(np.float32(1), np.float32(2)))}, "sampling.top_p", "1.0000001 is not allowed"),
        ({"top_p": 0.0}, "sampling.top_p", "0 is not allowed"),
        ({"min_p": 1.5}, "sampling.min_p", "1.5 is not allowed"),
        ({"repetition_penalty": 0.0}, "sampling.repetition_penalty", "from 0.01 to 100"),
        ({"repetition_penalty": float("nan")}, "sampling.repetition_penalty", "nan"),
        ({"presence_penalty": 101.0}, "sampling.presence_penalty", "from -100 to 100"),
        ({"frequency_penalty": float("-inf")}, "sampling.frequency_penalty", "-inf"),
        ({"logit_bias": (("a", float("nan")),)}, "sampling.logit_bias['a']", "nan is not allowed"),
        ({"logit_bias": (("a", -100.00001),)}, "sampling.logit_bias['a']", "-100.00001 is not allowed"),
        ({"logit_bias": (("a", 100.5),)}, "sampling.logit_bias['a']", "from -100 to 100"),
        ({"logit_bias": (("", 1.0),)}, "sampling.logit_bias", "names no characters"),
        ({"logit_bias": (("#", 1.0),)}, "sampling.logit_bias", "'#'"),
        ({"allowed_characters": ""}, "sampling.allowed_characters", "no character of the model is left"),
        ({"allowed_characters": "#"}, "sampling.allowed_characters", "'#'"),
        ({"forbidden_characters": "\n abcdefghij"}, "sampling.forbidden_characters", "no character of the model"),
        ({"allowed_characters": "ab", "forbidden_characters": "ba"}, "sampling.forbidden_characters", "is left"),
    ],
)
def test_a_wrong_value_is_refused_by_field_and_fault(options: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(asked(**options), Limits(), VOCABULARY)
    assert caught.value.field == field
    assert says in caught.value.problem


def test_the_limits_themselves_are_allowed() -> None:
    request = asked(
        max_tokens=65_536,
        min_tokens=65_536,
        n=64,
        logprobs=True,
        top_logprobs=20,
        stop=["a" * 256] * 16,
        temperature=100.0,
        repetition_penalty=100.0,
        presence_penalty=-100.0,
        frequency_penalty=100.0,
        logit_bias=(("abc", -100.0), ("a", 100.0)),
    )
    checked = check(request, Limits(), VOCABULARY)
    assert checked.top_logprobs == VOCABULARY.size, "there are no more alternatives than tokens"
    assert checked.bias is not None
    assert checked.bias[VOCABULARY.encode("abcd")].tolist() == [0, -100, -100, 0]


def test_what_a_model_lacks_can_be_skipped_in_every_text_of_a_request() -> None:
    request = asked(
        prompt="a#b", stop=["c#", "d"], logit_bias=(("e#", 1.0),), forbidden_characters="#f", skip_unknown=True
    )
    checked = check(request, Limits(), VOCABULARY)
    assert VOCABULARY.decode(checked.prompt.tolist()) == "ab"
    assert checked.stop == ["d"], "a string with such a character can never occur"
    assert checked.bias is not None
    assert checked.bias[VOCABULARY.encode("ef")].tolist() == [1, -float("inf")]


def test_line_breaks_of_windows_are_refused_with_the_flag_that_leaves_them_out() -> None:
    with pytest.raises(InvalidRequest, match=r"'\\r' \(U\+000D\) at 1 .*Windows.*--skip-unknown"):
        check(asked(prompt="a\r"), Limits(), VOCABULARY)


def test_a_call_that_forbids_nothing_does_not_look_at_all_characters_of_the_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = WordVocabulary(["\N{REPLACEMENT CHARACTER}", " ", "a"])
    monkeypatch.setattr(WordVocabulary, "tokens_with", None)
    bias = check(asked(logit_bias=(("a a", 1.5),)), Limits(), words).bias
    assert bias is not None
    assert bias.tolist() == [float("-inf"), 1.5, 1.5]


def test_what_a_model_lacks_may_be_forbidden() -> None:
    checked = check(asked(forbidden_characters="#a~"), Limits(), VOCABULARY)
    assert checked.bias is not None
    assert np.flatnonzero(checked.bias).tolist() == VOCABULARY.encode("a").tolist()


@pytest.fixture
async def engine(bundle: Bundle, decoder: Decoder) -> AsyncIterator[Engine]:
    engine = Engine([(bundle, decoder)])
    yield engine
    await engine.drain(0)


async def whole(engine: Engine, request: GenerationRequest) -> str:
    return (await (await engine.generating.generate(request)).whole()).text


async def test_characters_that_are_not_allowed_are_never_generated(engine: Engine) -> None:
    text = await whole(engine, asked(max_tokens=500, seed=1, allowed_characters="abcde "))
    assert set(text) == set("abcde ")
    text = await whole(engine, asked(max_tokens=500, seed=1, forbidden_characters="e"))
    assert "e" not in text
    assert "e" in await whole(engine, asked(max_tokens=500, seed=1))


async def test_a_stop_string_ends_text_and_session_before_it_or_after_it(engine: Engine) -> None:
    plain = await whole(engine, asked(max_tokens=300, seed=3))
    stop = plain[150:153]
    end = plain.index(stop)
    for include in (False, True):
        session = await engine.sessions.create(seed=3)
        request = asked(session_id=session.id, max_tokens=300, stop=["~" * 3, stop], include_stop=include)
        generation = await engine.generating.generate(replace(request, skip_unknown=True))
        told = (await generation.whole()).text
        assert told == plain[: end + (3 if include else 0)]
        result = generation.result
        assert result is not None
        assert (result.finish.reason, result.stop) == (FinishReason.STOP, stop)
        assert (
            result.finish.snapshot.position == (await engine.sessions.get(session.key)).snapshot.position == len(told)
        )
        rest = await whole(engine, asked(session_id=session.id, max_tokens=300 - len(told)))
        assert told + rest == plain


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(repetition_penalty=1.5)], ids=["plain", "penalties"])
async def test_continuations_are_the_texts_of_their_seeds_and_leave_the_session_alone(
    engine: Engine, sampling: Sampling
) -> None:
    session = await engine.sessions.create(seed=2**64 - 2)
    await whole(engine, GenerationRequest(session_id=session.id, prompt="once upon", max_tokens=20))
    before = await engine.sessions.get(session.key)
    request = GenerationRequest(session_id=session.id, prompt=" a time", max_tokens=40, sampling=sampling, n=4)
    generations = await engine.generating.continuations(request)
    texts = [delta.text for delta in await asyncio.gather(*(generation.whole() for generation in generations))]
    assert (await engine.sessions.get(session.key)) == before
    assert len(set(texts)) == 4
    seeds = []
    for generation in generations:
        assert generation.result is not None
        assert generation.result.finish.fed == len(" a time")
        assert generation.result.session is None
        seeds.append(generation.result.finish.snapshot.seed)
    assert seeds == [2**64 - 2, 2**64 - 1, 0, 1]
    chosen = replace(request, n=1, seed=seeds[2])
    assert await whole(engine, chosen) == texts[2]
    assert (await engine.sessions.get(session.key)).version == before.version + 1


async def test_stop_strings_are_taken_apart_once_for_all_continuations(
    engine: Engine, stop_automata: list[object]
) -> None:
    for one in await engine.generating.continuations(
        asked(n=8, seed=1, max_tokens=20, stop=["ab", "b"], include_stop=True)
    ):
        await one.whole()
    assert len(stop_automata) == 1


async def test_continuations_of_a_session_that_moved_on_are_refused(engine: Engine) -> None:
    session = await engine.sessions.create()
    with pytest.raises(StalePosition):
        await engine.generating.continuations(GenerationRequest(session_id=session.id, expected_position=5, n=2))


async def test_logprobs_come_with_their_tokens(engine: Engine, bundle: Bundle) -> None:
    request = asked(max_tokens=60, seed=4, logprobs=True, top_logprobs=3, stop=["qqqqq"])
    generation = await engine.generating.generate(request)
    delta = await generation.whole()
    assert bundle.vocabulary.decode([found.token for found in delta.logprobs]) == delta.text
    for found in delta.logprobs:
        assert len(found.top) == 3
        values = [logprob for _, logprob in found.top]
        assert values == sorted(values, reverse=True)
        assert found.logprob <= values[0]
        assert found.logprob == dict(found.top).get(found.token, found.logprob)
    alone = await (await engine.generating.generate(replace(request, top_logprobs=0))).whole()
    assert [found.logprob for found in alone.logprobs] == [found.logprob for found in delta.logprobs]
    assert not any(found.top for found in alone.logprobs)


def test_only_a_token_that_is_wrong_gets_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body has room for a million tokens, and the name of each would take the event loop longer than its check."""
    named: list[str] = []
    monkeypatch.setattr(requests, "within", lambda name, *_: named.append(name))
    requests.check_text("prompt", [0, 1, 0], False, Limits(), VOCABULARY)
    assert named == []
    requests.check_text("prompt", [0, 1, VOCABULARY.size, -1], False, Limits(), VOCABULARY)
    assert named == ["prompt[2]"]


def test_a_templates_stop_strings_stand_beside_those_of_a_request() -> None:
    checked = check(asked(stop=["a"] * 16, template_stop=["b#", "bc"]), Limits(), VOCABULARY)
    assert checked.stop == [*["a"] * 16, "bc"], "the model cannot write the other"
    assert checked.stops is not None
    assert checked.stops.patterns[-1] == VOCABULARY.encode("bc").tolist()
