"""Conversations of sessions: where commands take effect, and what is committed."""

from __future__ import annotations

import asyncio

import pytest

from charloom.engine import errors
from charloom.engine.calls.generation import GenerationResult, TextDelta
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.engine import Engine
from charloom.engine.quotas import Quota
from charloom.engine.shares import Share, set_share
from tests.unit.engine.sessions.texts import now, same, text_of


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
