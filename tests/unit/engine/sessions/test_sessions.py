"""Sessions as values: fed, put back, copied, blended, sealed, resumed. Texts are compared byte for byte."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from charloom.bundle import Bundle
from charloom.engine import errors
from charloom.engine.calls.requests import GenerationRequest, ReadingRequest
from charloom.engine.engine import Engine
from charloom.engine.sessions.session import Key, Session
from tests.unit.engine.sessions.texts import now, same, text_of


@pytest.mark.parametrize("seed", [-1, 2**64])
async def test_a_seed_out_of_range_is_refused_wherever_one_is_given(engine: Engine, seed: int) -> None:
    one, other = [await engine.sessions.create() for _ in range(2)]
    for act in (
        engine.sessions.create(seed=seed),
        engine.sessions.rewind(one.key, 0, seed, None),
        engine.sessions.fork(one.key, position=None, count=1, seed=seed, ids=(), time_to_live=None),
        engine.reading.blend([(one.key, 1.0), (other.key, 1.0)], Key("", "blended"), seed, None),
    ):
        with pytest.raises(errors.InvalidRequest, match=f"seed: '?{seed}"):
            await act


# Feeding.


async def test_feeding_in_parts_is_feeding_the_whole(engine: Engine) -> None:
    parts, whole = [await engine.sessions.create(seed=1) for _ in range(2)]
    for part in ("to be ", "", "or not ", "to be"):
        await engine.reading.feed(ReadingRequest(parts.key, text=part), None)
    fed = await engine.reading.feed(ReadingRequest(whole.key, text="to be or not to be"), 0)
    assert same((await now(engine, parts)).snapshot, fed.snapshot)
    prompted = await engine.sessions.create(seed=1)
    assert await text_of(engine, whole, 50) == await text_of(engine, prompted, 50, prompt="to be or not to be")


async def test_feeding_refuses_what_it_cannot_read_and_where_it_does_not_stand(engine: Engine) -> None:
    session = await engine.sessions.create()
    with pytest.raises(errors.InvalidRequest, match="text"):
        await engine.reading.feed(ReadingRequest(session.key, text="日本"), None)
    with pytest.raises(errors.StalePosition):
        await engine.reading.feed(ReadingRequest(session.key, text="a"), 3)
    assert (await now(engine, session)).version == 0
    assert engine.sessions.writing == 0


# Going back.


@pytest.mark.parametrize("length", [40, 700, 3000])
async def test_a_session_that_was_put_back_says_the_same_again(engine: Engine, length: int) -> None:
    session = await engine.sessions.create(seed=2)
    await text_of(engine, session, length)
    text = await text_of(engine, session, 280)
    present = await now(engine, session)
    assert present.history.earliest <= present.snapshot.position - 300 or present.history.earliest == 0
    for back in (1, 2, 100, 280):
        position = length + 280 - back
        put_back = await engine.sessions.rewind(session.key, position, None, None)
        assert put_back.snapshot.position == position
        assert await text_of(engine, session, back) == text[280 - back :]
    assert (await now(engine, session)).snapshot.position == length + 280


async def test_nothing_goes_back_further_than_is_kept_or_into_the_future(engine: Engine) -> None:
    session = await engine.sessions.create(seed=3)
    for _ in range(4):
        await text_of(engine, session, 500)
    present = await now(engine, session)
    earliest = present.history.earliest
    assert 2000 - 300 - 2 * 300 < earliest <= 1700
    for position in (earliest - 1, 0, 2001, 2**63):
        with pytest.raises(errors.PositionNotKept, match=f"from {earliest} to 2000"):
            await engine.sessions.rewind(session.key, position, None, None)
        with pytest.raises(errors.PositionNotKept):
            await fork(engine, session, position=position)
    assert await now(engine, session) == replace(present, expires=(await now(engine, session)).expires)
    await engine.sessions.rewind(session.key, earliest, None, 2000)


async def test_a_rewound_session_can_get_another_seed(engine: Engine) -> None:
    session = await engine.sessions.create(seed=4)
    first = await text_of(engine, session, 60)
    await engine.sessions.rewind(session.key, 20, 99, None)
    other = await text_of(engine, session, 40)
    assert other != first[20:]
    fresh = await engine.sessions.create(seed=4)
    await text_of(engine, fresh, 20)
    assert await text_of(engine, fresh, 40, seed=99) == other


# Copies.


async def fork(engine: Engine, session: Session, **options: object) -> list[Session]:
    defaults = {"position": None, "count": 1, "seed": None, "ids": (), "time_to_live": None}
    return await engine.sessions.fork(session.key, **defaults | options)  # type: ignore[arg-type]


async def test_copies_are_sessions_of_their_own(engine: Engine) -> None:
    session = await engine.sessions.create(seed=5)
    await text_of(engine, session, 50)
    same_seed, other = await fork(engine, session, count=2, seed=5)
    assert (same_seed.origin, other.snapshot.seed) == ((session.id, 50), 6)
    alone = await engine.sessions.create(seed=5)
    await text_of(engine, alone, 50)
    expected = await text_of(engine, alone, 100)
    texts = await asyncio.gather(*(text_of(engine, one, 100) for one in (other, session, same_seed)))
    assert texts[1] == texts[2] == expected != texts[0]
    past = (await fork(engine, same_seed, position=60, seed=5))[0]
    assert await text_of(engine, past, 90) == expected[10:]


async def test_copies_share_their_states(engine: Engine) -> None:
    session = await engine.sessions.create(seed=6)
    await text_of(engine, session, 50)
    for _ in range(10):
        forks = await fork(engine, session, count=1000)
    assert len({id(one.snapshot.state) for one in forks}) == 1
    assert len(await engine.sessions.page("", "", 20_000)) == 10_001


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"count": 0}, "count"),
        ({"count": 1001}, "count"),
        ({"count": 2, "ids": ["a"]}, "new_session_ids"),
        ({"count": 2, "ids": ["a", "a"]}, "new_session_ids"),
        ({"ids": ["no spaces"]}, "session_id"),
        ({"ids": [""]}, "session_id"),
        ({"time_to_live": timedelta(0)}, "time_to_live"),
    ],
)
async def test_copies_that_cannot_be(engine: Engine, options: dict[str, object], field: str) -> None:
    session = await engine.sessions.create()
    with pytest.raises(errors.InvalidRequest) as caught:
        await fork(engine, session, **options)
    assert caught.value.field == field
    assert len(await engine.sessions.page("", "", 10)) == 1


async def test_an_id_that_exists_makes_no_copy_at_all(engine: Engine) -> None:
    session = await engine.sessions.create(session_id="here")
    with pytest.raises(errors.SessionExists):
        await fork(engine, session, count=2, ids=["there", "here"])
    with pytest.raises(errors.SessionNotFound):
        await engine.sessions.get(Key("", "there"))


async def test_blending_a_state_with_itself_is_that_state(engine: Engine) -> None:
    one = await engine.sessions.create(seed=7)
    await text_of(engine, one, 50)
    two = (await fork(engine, one))[0]
    await engine.sessions.rewind(two.key, 40, None, None)
    await engine.reading.feed(ReadingRequest(two.key, text="q"), None)
    blend = await engine.reading.blend([(one.key, 2.0), (one.key, 1.0)], Key("", "same"), 7, None)
    state = (await now(engine, one)).snapshot
    assert np.allclose(blend.snapshot.state[0], state.state[0], atol=1e-6)
    assert (blend.snapshot.pending, blend.snapshot.position) == (state.pending, state.position)
    mixed = await engine.reading.blend([(one.key, 3.0), (two.key, 1.0)], Key("", ""), None, None)
    other = (await now(engine, two)).snapshot
    assert np.allclose(mixed.snapshot.state, 0.75 * state.state + 0.25 * other.state, atol=1e-6)
    assert len(await text_of(engine, mixed, 30)) == 30
    huge = await engine.reading.blend([(one.key, 1e308), (one.key, 1e308)], Key("", ""), None, None)
    assert np.allclose(huge.snapshot.state, state.state, atol=1e-6)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, math.nan], [1.0, math.inf], [1.0, -1.0], [1.0] * 17])
async def test_weights_that_cannot_be(engine: Engine, weights: list[float]) -> None:
    session = await engine.sessions.create()
    with pytest.raises(errors.InvalidRequest, match="sources"):
        await engine.reading.blend([(session.key, weight) for weight in weights], Key("", ""), None, None)


# Tenants, expiry.


async def test_tenants_do_not_see_each_other(engine: Engine) -> None:
    mine = await engine.sessions.create(tenant="a", session_id="s", seed=1)
    theirs = await engine.sessions.create(tenant="b", session_id="s", seed=2)
    await (await engine.generating.generate(GenerationRequest(tenant="a", session_id="s", max_tokens=9))).whole()
    assert [(await engine.sessions.get(key)).snapshot.position for key in (mine.key, theirs.key)] == [9, 0]
    assert [one.tenant for one in await engine.sessions.page("b", "", 10)] == ["b"]
    with pytest.raises(errors.SessionNotFound):
        await engine.sessions.get(Key("", "s"))


async def test_the_expiry_can_be_set_and_renewed(engine: Engine) -> None:
    session = await engine.sessions.create(time_to_live=timedelta(seconds=60))
    longer = await engine.sessions.renew(session.key, timedelta(hours=2))
    assert timedelta(hours=1.9) < longer.expires - session.updated < timedelta(hours=2.1)
    assert longer.version == session.version
    for wrong in (timedelta(0), timedelta(days=8)):
        with pytest.raises(errors.InvalidRequest, match="time_to_live"):
            await engine.sessions.renew(session.key, wrong)


async def test_a_copy_of_an_expired_session_is_refused_as_expired(engine: Engine) -> None:
    session = await engine.sessions.create(time_to_live=timedelta(milliseconds=10))
    await asyncio.sleep(0.02)
    with pytest.raises(errors.SessionExpired):
        await fork(engine, session)


# Reading without writing.


async def test_a_score_is_what_generating_says_of_the_same_text(engine: Engine) -> None:
    session = await engine.sessions.create(seed=8)
    await text_of(engine, session, 30)
    before = await now(engine, session)
    generation = await engine.generating.generate(
        GenerationRequest(session_id=session.id, max_tokens=80, logprobs=True)
    )
    delta = await generation.whole()
    await engine.sessions.rewind(session.key, 30, None, None)  # several tokens are pending now
    reading, _ = await engine.reading.score(ReadingRequest(session.key, text=delta.text, top_logprobs=3))
    assert [one.token for one in reading.logprobs] == [one.token for one in delta.logprobs]
    assert [one.logprob for one in reading.logprobs] == [one.logprob for one in delta.logprobs]
    assert all(len(one.top) == 3 for one in reading.logprobs)
    assert reading.position == 110
    assert (await now(engine, session)).snapshot.position == before.snapshot.position


async def test_a_peek_sees_what_would_come_and_the_whole_distribution(engine: Engine, bundle: Bundle) -> None:
    session = await engine.sessions.create(seed=9)
    await text_of(engine, session, 30)
    request = GenerationRequest(session_id=session.id, max_tokens=5)
    peeked = await (await engine.generating.peek(request, 0)).whole()
    assert [len(one.top) for one in peeked.logprobs] == [bundle.vocabulary.size] * 5
    assert all(abs(sum(math.exp(p) for _, p in one.top) - 1) < 1e-5 for one in peeked.logprobs)
    assert len((await (await engine.generating.peek(replace(request, max_tokens=None), 2)).whole()).text) == 1
    assert (await now(engine, session)).version == 1
    assert await text_of(engine, session, 5) == peeked.text
    for wrong in ({"n": 2}, {"stop": ("a",)}, {"return_state": True}, {"max_tokens": 257}):
        with pytest.raises(errors.InvalidRequest):
            await engine.generating.peek(replace(request, **wrong), 0)  # type: ignore[arg-type]


async def test_observing_piece_by_piece_is_scoring_the_whole(engine: Engine) -> None:
    session = await engine.sessions.create(seed=1)
    observation = await engine.reading.observe(ReadingRequest(session.key, top_logprobs=1))
    told = []
    for part in ("ab", "", "cab"):
        told += (await observation.read(part)).logprobs
    with pytest.raises(errors.InvalidRequest):
        await observation.read("日")
    with pytest.raises(errors.SessionBusy):
        await text_of(engine, session, 1)
    ended = await observation.end()
    assert ended is not None
    assert ended.snapshot.position == 5
    whole, _ = await engine.reading.score(ReadingRequest(Key("", ""), text="abcab", top_logprobs=1))
    assert told == list(whole.logprobs)
    fed = await engine.sessions.create(seed=1)
    assert same((await engine.reading.feed(ReadingRequest(fed.key, text="abcab"), None)).snapshot, ended.snapshot)
