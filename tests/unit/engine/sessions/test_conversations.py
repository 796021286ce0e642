"""Conversations of sessions: where commands take effect, and what is committed."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from charloom.bundle import Bundle
from charloom.engine import errors
from charloom.engine.calls.generation import GenerationResult, TextDelta
from charloom.engine.calls.requests import GenerationRequest, ReadingRequest
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.engine import Engine
from charloom.engine.limits import Limits
from charloom.engine.loom.jobs import FinishReason
from charloom.engine.memory_budget import MemoryBudget, TooMuchMemory
from charloom.engine.quotas import Quota
from charloom.engine.sessions import writer
from charloom.engine.shares import Share, set_share
from tests.unit.engine.sessions.texts import now, same, text_of

LONGEST_MESSAGE = 300
"""Tokens; parts of a text begin between two messages of it."""


async def converse_for(engine: Engine, conversation: object, characters: int) -> str:
    text = ""
    while len(text) < characters:
        delta = await conversation.next()  # type: ignore[attr-defined]
        assert isinstance(delta, TextDelta)
        text += delta.text
    return text


async def test_every_change_of_a_conversation_takes_effect_where_it_says(engine: Engine) -> None:
    session = await engine.sessions.create(seed=10)
    talk = await engine.converse(GenerationRequest(session_id=session.id, prompt="ab"))
    assert talk.position == 2
    await talk.generate(0)
    first = await converse_for(engine, talk, 40)
    await asyncio.sleep(0.05)  # much more is made than is taken
    cooler = await talk.set_sampling(Sampling(temperature=0.2))
    assert cooler == 2 + len(first)
    second = await converse_for(engine, talk, 30)
    injected = await talk.inject("cab")
    assert injected == cooler + len(second)
    third = await converse_for(engine, talk, 10)
    assert talk.pause() == injected + 3 + len(third)
    assert not talk.running
    await talk.generate(7)
    rest = ""
    while isinstance(found := await talk.next(), TextDelta):
        rest += found.text
    assert isinstance(found, GenerationResult)
    assert len(rest) == 7
    ended = await talk.end()
    assert ended is not None
    alone = await engine.sessions.create(seed=10)
    cool = Sampling(temperature=0.2)
    assert await text_of(engine, alone, len(first), prompt="ab") == first
    assert await text_of(engine, alone, len(second), sampling=cool) == second
    assert await text_of(engine, alone, len(third), sampling=cool, prompt="cab") == third
    assert await text_of(engine, alone, 7, sampling=cool) == rest
    assert same((await now(engine, alone)).snapshot, ended.snapshot)
    assert (await now(engine, session)).version == 1
    back = ended.snapshot.position - 5
    await engine.sessions.rewind(session.key, back, None, None)
    assert await text_of(engine, session, 5, sampling=cool) == rest[-5:]


async def test_a_conversation_never_stands_ahead_of_the_text_that_it_handed_out(engine: Engine) -> None:
    session = await engine.sessions.create(seed=12)
    talk = await engine.converse(GenerationRequest(session_id=session.id))
    await talk.generate(7)
    said = 0
    while talk.running:
        following = asyncio.ensure_future(talk.next())
        while not following.done():
            assert talk.position == said  # a command may come at any time, and takes effect here
            await asyncio.sleep(0)
        found = following.result()
        said += len(found.text) if isinstance(found, TextDelta) else 0
    assert said == talk.position == 7
    ended = await talk.end()
    assert ended is not None
    assert ended.snapshot.position == 7


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(frequency_penalty=0.3)], ids=["plain", "penalised"])
async def test_a_text_without_end_is_one_text_wherever_its_generations_end(
    bundle: Bundle, decoder: Decoder, engine: Engine, sampling: Sampling, include: bool
) -> None:
    """Its stop strings lie across the ends of generations of 5 tokens, or are longer than one."""
    alone = await engine.sessions.create(seed=13)
    whole = await text_of(engine, alone, 60, sampling=sampling)
    short = Engine([(bundle, decoder)], Limits(max_tokens=5))
    for size, last in itertools.product((2, 3, 12), range(40, 46)):
        stop = whole[last - size : last]
        asked = {"sampling": sampling, "stop": (stop,), "include_stop": include}
        end = whole.index(stop) + (size if include else 0)
        session = await short.sessions.create(seed=13)
        talk = await short.converse(GenerationRequest(session_id=session.id, **asked))  # type: ignore[arg-type]
        await talk.generate(0)
        said = ""
        while isinstance(found := await talk.next(), TextDelta):
            said += found.text
            assert found.position == talk.position == len(said)
        assert (said, found.stop, found.finish.reason) == (whole[:end], stop, FinishReason.STOP)
        assert (found.finish.generated, found.max_tokens) == (end, 0)
        assert found.finish.total >= found.finish.first_token
        ended = await talk.end()
        assert ended is not None
        assert ended.snapshot.position == end
        if not sampling.penalises:  # those of another call count anew
            assert await text_of(short, ended, 5) == whole[end : end + 5]
    await short.drain(0)


async def test_of_a_text_that_goes_on_and_on_no_more_is_kept_than_of_several_calls(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MOST_TOKENS", 300)
    engine = Engine([(bundle, decoder)], Limits(rewind_tokens=256, unread_tokens=LONGEST_MESSAGE))
    talked, observed, alone = [await engine.sessions.create(seed=17) for _ in range(3)]
    talk = await engine.converse(GenerationRequest(session_id=talked.id))
    await talk.generate(0)
    said = await converse_for(engine, talk, 2500)
    text = await text_of(engine, alone, len(said) + 50)
    assert text.startswith(said)
    observation = await engine.reading.observe(ReadingRequest(observed.key))
    for start in range(0, len(said), LONGEST_MESSAGE):
        await observation.read(said[start : start + LONGEST_MESSAGE])
    for ended in (await talk.end(), await observation.end()):
        assert ended is not None
        now, earliest = ended.snapshot.position, ended.history.earliest
        assert now == len(said)
        assert now - 2 * (256 + 300) - LONGEST_MESSAGE <= earliest <= now - 256
        await engine.sessions.rewind(ended.key, earliest, None, None)
        assert await text_of(engine, ended, 50) == text[earliest : earliest + 50]
    await engine.drain(0)


async def test_a_bad_command_changes_nothing(engine: Engine) -> None:
    session = await engine.sessions.create(seed=11)
    talk = await engine.converse(GenerationRequest(session_id=session.id))
    await talk.generate(0)
    await converse_for(engine, talk, 5)
    position = talk.position
    with pytest.raises(errors.InvalidRequest):
        await talk.inject("日")
    with pytest.raises(errors.InvalidRequest):
        await talk.set_sampling(Sampling(allowed_characters=""))
    assert talk.running
    assert talk.position == position
    await talk.end()
    assert engine.sessions.writing == 0
    for field in ("n", "max_tokens", "min_tokens"):
        with pytest.raises(errors.InvalidRequest, match=field):
            await engine.converse(GenerationRequest(session_id=session.id, **{field: 3}))  # type: ignore[arg-type]


async def test_a_text_that_is_injected_has_its_price(bundle: Bundle, decoder: Decoder) -> None:
    engine = Engine([(bundle, decoder)], Limits(max_tokens=10), budget=MemoryBudget(2_000_000))
    try:
        session = await engine.sessions.create(seed=1)
        talk = await engine.converse(GenerationRequest(session_id=session.id, prompt="ab"))
        with pytest.raises(TooMuchMemory):
            await talk.inject("a" * 60_000)
        assert await talk.inject("c") == 2
        assert await talk.end() is not None
        with pytest.raises(TooMuchMemory):
            await engine.converse(GenerationRequest(session_id=session.id, prompt="a" * 60_000))
        assert (engine.sessions.writing, engine.budget.held) == (0, 0)
    finally:
        await engine.drain(0)


async def test_commands_take_no_stop_string_apart_again(engine: Engine, stop_automata: list[object]) -> None:
    talk = await engine.converse(GenerationRequest(seed=3, stop=["abcabcabc"]))
    for temperature in (0.5, 1.0, 1.5):
        await talk.generate(0)
        await talk.set_sampling(Sampling(temperature=temperature))
        await talk.inject("a")
    await talk.end()
    assert len(stop_automata) == 1


@pytest.mark.parametrize("command", ["generate", "sampling", "inject"])
async def test_commands_of_a_conversation_give_no_more_tokens_than_its_caller_may_have(
    engine: Engine, command: str
) -> None:
    share = Share("tenant shop", quota=Quota(tokens_per_second=100.0))
    set_share(share)
    talk = await engine.converse(GenerationRequest())
    engine.rates.spend(share, 1000)  # all that was saved up
    began, said = asyncio.get_running_loop().time(), 0
    await talk.generate(0)
    while said < 150:
        found = await talk.next()
        assert isinstance(found, TextDelta)
        said += len(found.text)
        if command == "generate":
            await talk.generate(0)
        elif command == "sampling":
            await talk.set_sampling(Sampling(temperature=0.5))
        else:
            await talk.inject("")
    assert asyncio.get_running_loop().time() - began > 1.0, "150 tokens, of which 25 are made ahead of their reader"
    await talk.end()
