"""What a session stands at after a call that did not come to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from charloom.bundle import Bundle
from charloom.engine.calls.generation import Generation, TextDelta
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.engine import Engine
from charloom.engine.errors import DecoderFailure, SessionBusy
from charloom.engine.sessions.session import Session
from tests.oracles.one_text import generate_stepwise


@pytest.fixture
async def engine(bundle: Bundle, decoder: Decoder) -> AsyncIterator[Engine]:
    engine = Engine([(bundle, decoder)])
    yield engine
    await engine.drain(0)


def expected(bundle: Bundle, decoder: Decoder, seed: int, length: int) -> tuple[str, Snapshot]:
    start = Snapshot.fresh(decoder.shape, bundle.manifest.start_token, seed)
    tokens, snapshot = generate_stepwise(decoder, start, [], length, Sampling())
    return bundle.vocabulary.decode(tokens), snapshot


async def begin(engine: Engine, session: Session, max_tokens: int, prompt: str = "") -> Generation:
    request = GenerationRequest(session_id=session.id, max_tokens=max_tokens, prompt=prompt)
    return await engine.generating.generate(request)


async def test_a_slow_reader_that_goes_away_leaves_its_session_behind_what_it_got(
    engine: Engine, bundle: Bundle, decoder: Decoder
) -> None:
    session = await engine.sessions.create(seed=5)
    generation = await begin(engine, session, 60_000)
    text = ""
    for _ in range(3):
        text += (await generation.__anext__()).text
        await asyncio.sleep(0.02)  # meanwhile much more is made than was asked for
    generation.cancel()
    now = (await engine.sessions.get(session.key)).snapshot
    wanted, oracle = expected(bundle, decoder, 5, len(text))
    assert text == wanted
    assert (now.position, now.pending) == (oracle.position, oracle.pending)
    assert np.array_equal(now.state, oracle.state)
    assert engine.models[0].loom.live == 0
    rest = (await (await begin(engine, session, 100)).whole()).text
    assert text + rest == expected(bundle, decoder, 5, len(text) + 100)[0]


async def test_a_reader_that_goes_away_after_the_last_token_was_made_is_no_exception(
    engine: Engine, bundle: Bundle, decoder: Decoder
) -> None:
    session = await engine.sessions.create(seed=6)
    generation = await begin(engine, session, 5000)
    text = (await generation.__anext__()).text
    while engine.models[0].loom.live:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    with pytest.raises(SessionBusy):
        await begin(engine, session, 1)
    generation.cancel()
    assert (await engine.sessions.get(session.key)).snapshot.position == len(text) < 5000


@pytest.mark.parametrize("prompt", ["", "a long prompt " * 500])
async def test_a_call_that_handed_out_nothing_leaves_its_session_as_it_was(engine: Engine, prompt: str) -> None:
    session = await engine.sessions.create(seed=7)
    for _ in range(2):
        generation = await begin(engine, session, 1000, prompt)
        await asyncio.sleep(0.002)
        generation.cancel()
    now = await engine.sessions.get(session.key)
    assert (now.version, now.snapshot) == (0, session.snapshot)


async def test_a_whole_text_that_was_cancelled_was_not_handed_out(engine: Engine) -> None:
    session = await engine.sessions.create(seed=8)
    generation = await begin(engine, session, 60_000)
    reading = asyncio.create_task(generation.whole())
    await asyncio.sleep(0.05)
    generation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert generation.result is None
    assert (await engine.sessions.get(session.key)).version == 0


async def test_a_generation_that_cannot_take_its_tokens_fails_alone(
    engine: Engine, bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        tail = b""

        def feed(self, tokens: object) -> str:
            raise RuntimeError("a defect")

    sessions = [await engine.sessions.create(seed=n) for n in range(3)]
    generations = [await begin(engine, sessions[0], 300)]
    with monkeypatch.context() as patched:
        patched.setattr(type(bundle.vocabulary), "decoder", lambda *_: Broken())
        generations.append(await begin(engine, sessions[1], 300))
    generations.append(await begin(engine, sessions[2], 300))
    texts = await asyncio.gather(*(generation.whole() for generation in generations), return_exceptions=True)
    assert isinstance(texts[1], DecoderFailure)
    assert [texts[n].text for n in (0, 2) if isinstance(texts[n], TextDelta)] == [
        expected(bundle, decoder, n, 300)[0] for n in (0, 2)
    ]
    assert engine.sessions.writing == 0
    assert (await engine.sessions.get(sessions[1].key)).version == 0
