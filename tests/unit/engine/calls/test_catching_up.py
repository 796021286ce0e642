"""Tokens that are read again after a rewind: once for a call, counted against its caller, with the same result."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from charloom.bundle import Bundle
from charloom.engine.calls.inspection import InspectionRequest
from charloom.engine.calls.price import FED, READ
from charloom.engine.calls.requests import GenerationRequest, ReadingRequest
from charloom.engine.calls.suggesting import SuggestionRequest
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.inspector import Activations, Inspector
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.engine import Engine
from charloom.engine.quotas import Quota, QuotaExceeded
from charloom.engine.sessions.session import Key, Session
from charloom.engine.shares import Share, set_share

TEXT = "The cat is an object. " * 20
BEHIND = 200
"""Tokens that the session has still to read."""
Use = Callable[[Engine, Session], Awaitable[Any]]
"""A call, and what it tells."""


@pytest.fixture
async def engine(bundle: Bundle, decoder: Decoder) -> AsyncIterator[Engine]:
    engine = Engine([(bundle, decoder)])
    yield engine
    await engine.drain(0)


async def put_back(engine: Engine) -> Session:
    session = await engine.sessions.create(seed=1)
    await engine.reading.feed(ReadingRequest(session.key, text=TEXT), None)
    session = await engine.sessions.rewind(session.key, BEHIND, None, None)
    assert session.snapshot.behind == BEHIND
    return session


async def up_to_date(engine: Engine) -> Session:
    session = await engine.sessions.create(seed=1)
    return await engine.reading.feed(ReadingRequest(session.key, text=TEXT[:BEHIND]), None)


def spent(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is counted from now on."""
    counted: list[int] = []
    spend = engine.rates.spend

    def seen(share: Any, tokens: int) -> float:
        counted.append(tokens)
        return spend(share, tokens)

    monkeypatch.setattr(engine.rates, "spend", seen)
    return counted


def priced(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is held from now on."""
    held: list[int] = []

    @contextlib.contextmanager
    def held_for(needed: int) -> Iterator[None]:
        held.append(needed)
        yield

    monkeypatch.setattr(engine.budget, "hold", held.append)
    monkeypatch.setattr(engine.budget, "held_for", held_for)
    return held


async def feed(engine: Engine, session: Session) -> object:
    after = await engine.reading.feed(ReadingRequest(session.key, text="cat"), None)
    return after.snapshot.state.tolist()


async def score(engine: Engine, session: Session) -> object:
    found, _ = await engine.reading.score(ReadingRequest(session.key, text="cat"))
    return found.position, list(found.logprobs.values)


async def score_many(engine: Engine, session: Session) -> object:
    many = await engine.reading.score_many(ReadingRequest(session.key))
    return [list(one.logprobs.values) for _ in range(2) for one in (await many.read(["cat", "a", "at"])).scored]


async def state_after(engine: Engine, session: Session) -> object:
    state, length = await engine.reading.state_after(ReadingRequest(session.key, text="cat"))
    return state.tolist(), length


async def observe(engine: Engine, session: Session) -> object:
    observation = await engine.reading.observe(ReadingRequest(session.key))
    found = [list((await observation.read(text)).logprobs.values) for text in ("ca", "t")]
    await observation.end()
    return found


async def rank(engine: Engine, session: Session) -> object:
    return (await engine.suggesting.rank(ReadingRequest(session.key), ["cat", "a", "at"])).candidates


async def rank_after_a_prompt(engine: Engine, session: Session) -> object:
    return (await engine.suggesting.rank(ReadingRequest(session.key, text="The"), [" cat", "a"])).candidates


async def suggest(engine: Engine, session: Session) -> object:
    found = await engine.suggesting.suggest(SuggestionRequest(ReadingRequest(session.key), count=2, max_tokens=3))
    return found.texts, found.position


async def continue_thrice(engine: Engine, session: Session, **options: Any) -> object:
    request = GenerationRequest(session_id=session.id, n=3, max_tokens=5, seed=1, **options)
    return [(await one.whole()).text for one in await engine.generating.continuations(request)]


async def continue_thrice_with_penalties(engine: Engine, session: Session) -> object:
    return await continue_thrice(engine, session, sampling=Sampling(frequency_penalty=1.0), prompt="ab")


async def peek(engine: Engine, session: Session) -> object:
    return (await (await engine.generating.peek(GenerationRequest(session_id=session.id, seed=1), 3)).whole()).text


async def generate(engine: Engine, session: Session) -> object:
    request = GenerationRequest(session_id=session.id, max_tokens=5, prompt="The", seed=1)
    return (await (await engine.generating.generate(request)).whole()).text


async def blend(engine: Engine, session: Session) -> object:
    sources = [(session.key, 1.0), ((await engine.sessions.create(seed=2)).key, 1.0)]
    return (await engine.reading.blend(sources, Key("", f"blend-{session.id}"), 1, None)).snapshot.state.tolist()


USES = [
    feed,
    score,
    score_many,
    state_after,
    observe,
    rank,
    rank_after_a_prompt,
    suggest,
    continue_thrice,
    continue_thrice_with_penalties,
    peek,
    generate,
    blend,
]


@pytest.mark.parametrize("use", USES)
async def test_what_is_read_again_is_counted_once_and_priced_and_changes_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, use: Use
) -> None:
    plain, again = await up_to_date(engine), await put_back(engine)
    set_share(Share("tenant shop", quota=Quota(tokens_per_second=1e9)))
    tokens, held = spent(engine, monkeypatch), priced(engine, monkeypatch)
    expected, plain_tokens, plain_held = await use(engine, plain), sum(tokens), sum(held)
    assert await use(engine, again) == expected
    assert sum(tokens) - plain_tokens == plain_tokens + BEHIND
    assert sum(held) - plain_held >= plain_held + (READ + FED) * BEHIND


@pytest.mark.parametrize("start", [up_to_date, put_back])
async def test_an_inspector_reads_nothing_but_the_text(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, start: Callable[[Engine], Awaitable[Session]]
) -> None:
    session = await start(engine)
    read: list[int] = []
    run = Inspector.run

    def seen(self: Inspector, tokens: Any, state: Any) -> Activations:
        read.append(len(tokens))
        return run(self, tokens, state)

    monkeypatch.setattr(Inspector, "run", seen)
    counted = spent(engine, monkeypatch)
    begun = await engine.inspections.inspect(InspectionRequest(session.key, text="cat"))
    assert [token.position async for token in begun.tokens] == [BEHIND + 1, BEHIND + 2, BEHIND + 3]
    assert read == [4], "the text, and the token before it"
    # The text last: what is read waits until nothing is owed.
    assert list(filter(None, counted)) == list(filter(None, [session.snapshot.behind, 3]))


@pytest.mark.parametrize("use", [rank, rank_after_a_prompt, suggest, continue_thrice, continue_thrice_with_penalties])
async def test_what_reads_it_again_first_has_given_that_memory_back_when_it_holds_its_own(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, use: Use
) -> None:
    session, now, most = await put_back(engine), [], []

    @contextlib.contextmanager
    def held_for(needed: int) -> Iterator[None]:
        hold(needed)
        yield
        now.remove(needed)

    def hold(needed: int) -> None:
        now.append(needed)
        most.append(len(now))

    monkeypatch.setattr(engine.budget, "hold", hold)
    monkeypatch.setattr(engine.budget, "held_for", held_for)
    await use(engine, session)
    assert most == [1, 1]


async def test_a_character_that_is_not_complete_stays(engine: Engine) -> None:
    session = await put_back(engine)
    cut = replace(session.snapshot, tail=b"\xc3")
    after = await engine.reading.caught_up(engine.models[0], cut)
    assert (after.tail, after.behind, after.position) == (b"\xc3", 0, BEHIND)


async def test_a_session_takes_what_its_tokens_take(engine: Engine) -> None:
    session = await put_back(engine)
    read = replace(session.snapshot, pending=session.snapshot.pending[-1:])
    assert session.memory == replace(session, snapshot=read).memory + 8 * BEHIND


async def test_a_blend_begins_like_any_other_call(engine: Engine) -> None:
    session = await up_to_date(engine)
    share = Share("tenant shop", quota=Quota(tokens_per_second=1.0))
    set_share(share)
    engine.rates.spend(share, 1000)
    with pytest.raises(QuotaExceeded):
        await blend(engine, session)
