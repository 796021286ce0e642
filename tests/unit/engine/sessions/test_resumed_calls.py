"""Calls of sessions that broke off and are sent again. Texts are compared byte for byte."""

from __future__ import annotations

from dataclasses import replace

import pytest

from charloom.engine import errors
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.engine import Engine
from tests.unit.engine.sessions.texts import now, same, text_of

SHAPINGS = {
    "plain": GenerationRequest(),
    "penalties": GenerationRequest(sampling=Sampling(repetition_penalty=1.3, frequency_penalty=0.3)),
    "filters": GenerationRequest(sampling=Sampling(temperature=0.7, top_k=5)),
    "stop": GenerationRequest(stop=("zzzzzz", "qx"), min_tokens=5),
}


@pytest.mark.parametrize("shaping", SHAPINGS)
@pytest.mark.parametrize("prompt", ["", "a long prompt " * 30])
@pytest.mark.parametrize("got", [0, 1, 77, 399, 400])
async def test_a_call_that_broke_off_is_resumed_where_its_reader_stands(
    engine: Engine, shaping: str, prompt: str, got: int
) -> None:
    """Whether the server had written the session before the break, or after all of it."""
    request = replace(SHAPINGS[shaping], prompt=prompt, max_tokens=400, call_id="one")
    alone = await engine.sessions.create(seed=12)
    await text_of(engine, alone, 20)
    generation = await engine.generating.generate(replace(request, session_id=alone.id))
    text, wanted = (await generation.whole()).text, (await now(engine, alone)).snapshot
    result = generation.result
    assert result is not None
    arrived = None if got == 0 else 20 + len(prompt) + min(got, len(text))
    for committed in ("whole", "part", "nothing"):
        session = await engine.sessions.create(seed=12)
        await text_of(engine, session, 20)
        first = await engine.generating.generate(replace(request, session_id=session.id))
        if committed == "whole":
            await first.whole()
        elif committed == "part":
            read = ""
            while len(read) < got and (delta := await anext(first, None)):
                read += delta.text
            first.cancel()
        elif arrived is None:
            first.cancel()
        else:
            break  # only where sessions outlive their server: see the tests of replicas
        again = await engine.generating.generate(replace(request, session_id=session.id, resume_position=arrived))
        assert (await again.whole()).text == text[got:]
        after = await now(engine, session)
        assert same(after.snapshot, wanted)
        assert after.version == 2
        assert again.result is not None
        told, expected = again.result.finish, result.finish
        assert (told.reason, told.generated, told.fed, told.stop) == (
            expected.reason,
            expected.generated,
            expected.fed,
            expected.stop,
        )


@pytest.mark.parametrize("include", [False, True])
async def test_a_call_whose_text_has_ended_with_a_stop_string_is_resumed_at_its_end(
    engine: Engine, include: bool
) -> None:
    """The reader lacks nothing but how it ended."""
    session = await engine.sessions.create(seed=12)
    request = GenerationRequest(
        session_id=session.id, max_tokens=400, stop=("zz", "e"), include_stop=include, min_tokens=20, call_id="one"
    )
    generation = await engine.generating.generate(request)
    text = (await generation.whole()).text
    again = await engine.generating.generate(replace(request, resume_position=len(text)))
    assert (await again.whole()).text == ""
    assert generation.result is not None
    assert again.result is not None
    first, told = generation.result, again.result
    assert first.stop == "e"
    assert (told.stop, told.finish.reason, told.finish.generated) == ("e", first.finish.reason, len(text))
    assert (await now(engine, session)).snapshot.position == len(text)


async def test_a_stateless_call_is_resumed_by_generating_it_again(engine: Engine) -> None:
    request = GenerationRequest(prompt="abc", max_tokens=100, seed=13)
    text = (await (await engine.generating.generate(request)).whole()).text
    again = await (await engine.generating.generate(replace(request, resume_position=3 + 60))).whole()
    assert again.text == text[60:]


async def test_a_stateless_call_without_its_seed_is_not_resumed(engine: Engine) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"^resume_position: .* needs the seed"):
        await engine.generating.generate(GenerationRequest(prompt="abc", max_tokens=100, resume_position=63))
    session = await engine.sessions.create(seed=13)
    state, _ = await engine.sessions.export(session.key, None)  # it has a seed of its own
    request = GenerationRequest(prompt="abc", max_tokens=100, state=state)
    text = (await (await engine.generating.generate(request)).whole()).text
    again = await (await engine.generating.generate(replace(request, resume_position=63))).whole()
    assert again.text == text[60:]


@pytest.mark.parametrize("kept", [False, True])
async def test_a_position_that_the_call_cannot_reach_is_refused(engine: Engine, *, kept: bool) -> None:
    request = GenerationRequest(prompt="abc", max_tokens=10, seed=13)
    if kept:
        session = await engine.sessions.create(seed=13)
        request = replace(request, session_id=session.id, call_id="x")
        await (await engine.generating.generate(request)).whole()
    with pytest.raises(errors.InvalidRequest, match=r"^resume_position: 14 is too far: the call ends by 13"):
        await engine.generating.generate(replace(request, resume_position=14))
    assert (await (await engine.generating.generate(replace(request, resume_position=13))).whole()).text == ""
    assert engine.sessions.writing == 0


async def test_a_call_that_still_runs_is_taken_over_by_itself(engine: Engine) -> None:
    session = await engine.sessions.create(seed=14)
    request = GenerationRequest(session_id=session.id, max_tokens=3000, call_id="x")
    first = await engine.generating.generate(request)
    begun = (await anext(first)).text
    with pytest.raises(errors.SessionBusy):
        await text_of(engine, session, 1)
    again = await engine.generating.generate(replace(request, resume_position=len(begun)))
    with pytest.raises(errors.SessionTakenOver):
        [delta async for delta in first]
    rest = (await again.whole()).text
    alone = await engine.sessions.create(seed=14)
    assert begun + rest == await text_of(engine, alone, 3000)


async def test_what_is_resumed_must_be_the_same_call(engine: Engine) -> None:
    session = await engine.sessions.create(seed=15)
    request = GenerationRequest(session_id=session.id, max_tokens=50, call_id="x", prompt="abc")
    await (await engine.generating.generate(request)).whole()
    for wrong in ({"prompt": "abd"}, {"max_tokens": 20}):
        with pytest.raises(errors.InvalidRequest, match="call_id"):
            await engine.generating.generate(replace(request, resume_position=40, **wrong))  # type: ignore[arg-type]
    with pytest.raises(errors.StalePosition):
        await engine.generating.generate(replace(request, call_id="y", resume_position=40))
    with pytest.raises(errors.InvalidRequest, match="resume_position"):
        await engine.generating.generate(replace(request, call_id="", resume_position=40))
    await text_of(engine, session, 5)  # another call came after it
    with pytest.raises(errors.StalePosition):
        await engine.generating.generate(replace(request, resume_position=40))
    assert (await now(engine, session)).snapshot.position == 58
