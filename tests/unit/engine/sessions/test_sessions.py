"""Sessions as values: fed, put back, copied, blended, sealed, resumed. Texts are compared byte for byte."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charloom.bundle import Bundle, CharacterVocabulary
from charloom.engine import errors
from charloom.engine.calls.generation import GenerationResult, TextDelta
from charloom.engine.calls.requests import GenerationRequest, ReadingRequest
from charloom.engine.decoding.decoder import Decoder, Shape
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.engine import Engine
from charloom.engine.limits import Limits
from charloom.engine.quotas import Quota
from charloom.engine.sessions.sealing import Sealer, new_keys, read_keys
from charloom.engine.sessions.session import History, Key, Session
from charloom.engine.shares import Share, set_share

SHAPINGS = {
    "plain": GenerationRequest(),
    "penalties": GenerationRequest(sampling=Sampling(repetition_penalty=1.3, frequency_penalty=0.3)),
    "filters": GenerationRequest(sampling=Sampling(temperature=0.7, top_k=5)),
    "stop": GenerationRequest(stop=("zzzzzz", "qx"), min_tokens=5),
}


@pytest.fixture
async def engine(bundle: Bundle, decoder: Decoder) -> AsyncIterator[Engine]:
    engine = Engine([(bundle, decoder)], Limits(rewind_tokens=300))
    yield engine
    await engine.drain(0)


async def text_of(engine: Engine, session: Session | None, length: int, **options: object) -> str:
    request = GenerationRequest(session_id=session.id if session else "", max_tokens=length, **options)  # type: ignore[arg-type]
    return (await (await engine.generate(request)).whole()).text


async def now(engine: Engine, session: Session) -> Session:
    return await engine.sessions.get(session.key)


def same(one: Snapshot, other: Snapshot) -> bool:
    return np.array_equal(one.state, other.state) and (one.pending, one.position, one.seed) == (
        other.pending,
        other.position,
        other.seed,
    )


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


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, math.nan], [1.0, math.inf], [1.0, -1.0], [1.0] * 17])
async def test_weights_that_cannot_be(engine: Engine, weights: list[float]) -> None:
    session = await engine.sessions.create()
    with pytest.raises(errors.InvalidRequest, match="sources"):
        await engine.reading.blend([(session.key, weight) for weight in weights], Key("", ""), None, None)


# Tenants, expiry.


async def test_tenants_do_not_see_each_other(engine: Engine) -> None:
    mine = await engine.sessions.create(tenant="a", session_id="s", seed=1)
    theirs = await engine.sessions.create(tenant="b", session_id="s", seed=2)
    await (await engine.generate(GenerationRequest(tenant="a", session_id="s", max_tokens=9))).whole()
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
    generation = await engine.generate(GenerationRequest(session_id=session.id, max_tokens=80, logprobs=True))
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
    peeked = await (await engine.peek(request, 0)).whole()
    assert [len(one.top) for one in peeked.logprobs] == [bundle.vocabulary.size] * 5
    assert all(abs(sum(math.exp(p) for _, p in one.top) - 1) < 1e-5 for one in peeked.logprobs)
    assert len((await (await engine.peek(replace(request, max_tokens=None), 2)).whole()).text) == 1
    assert (await now(engine, session)).version == 1
    assert await text_of(engine, session, 5) == peeked.text
    for wrong in ({"n": 2}, {"stop": ("a",)}, {"return_state": True}, {"max_tokens": 257}):
        with pytest.raises(errors.InvalidRequest):
            await engine.peek(replace(request, **wrong), 0)  # type: ignore[arg-type]


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


# Conversations.


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


# Resuming.


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
    generation = await engine.generate(replace(request, session_id=alone.id))
    text, wanted = (await generation.whole()).text, (await now(engine, alone)).snapshot
    result = generation.result
    assert result is not None
    arrived = None if got == 0 else 20 + len(prompt) + min(got, len(text))
    for committed in ("whole", "part", "nothing"):
        session = await engine.sessions.create(seed=12)
        await text_of(engine, session, 20)
        first = await engine.generate(replace(request, session_id=session.id))
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
        again = await engine.generate(replace(request, session_id=session.id, resume_position=arrived))
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


async def test_a_stateless_call_is_resumed_by_generating_it_again(engine: Engine) -> None:
    request = GenerationRequest(prompt="abc", max_tokens=100, seed=13)
    text = (await (await engine.generate(request)).whole()).text
    again = await (await engine.generate(replace(request, resume_position=3 + 60))).whole()
    assert again.text == text[60:]


async def test_a_call_that_still_runs_is_taken_over_by_itself(engine: Engine) -> None:
    session = await engine.sessions.create(seed=14)
    request = GenerationRequest(session_id=session.id, max_tokens=3000, call_id="x")
    first = await engine.generate(request)
    begun = (await anext(first)).text
    with pytest.raises(errors.SessionBusy):
        await text_of(engine, session, 1)
    again = await engine.generate(replace(request, resume_position=len(begun)))
    with pytest.raises(errors.SessionTakenOver):
        [delta async for delta in first]
    rest = (await again.whole()).text
    alone = await engine.sessions.create(seed=14)
    assert begun + rest == await text_of(engine, alone, 3000)


async def test_what_is_resumed_must_be_the_same_call(engine: Engine) -> None:
    session = await engine.sessions.create(seed=15)
    request = GenerationRequest(session_id=session.id, max_tokens=50, call_id="x", prompt="abc")
    await (await engine.generate(request)).whole()
    for wrong in ({"prompt": "abd"}, {"max_tokens": 20}):
        with pytest.raises(errors.InvalidRequest, match="call_id"):
            await engine.generate(replace(request, resume_position=40, **wrong))  # type: ignore[arg-type]
    with pytest.raises(errors.StalePosition):
        await engine.generate(replace(request, call_id="y", resume_position=40))
    with pytest.raises(errors.InvalidRequest, match="resume_position"):
        await engine.generate(replace(request, call_id="", resume_position=40))
    await text_of(engine, session, 5)  # another call came after it
    with pytest.raises(errors.StalePosition):
        await engine.generate(replace(request, resume_position=40))
    assert (await now(engine, session)).snapshot.position == 58


# Sealed.


async def test_a_sealed_state_goes_on_as_the_session(engine: Engine, bundle: Bundle, decoder: Decoder) -> None:
    session = await engine.sessions.create(seed=16)
    await text_of(engine, session, 50)
    token, _ = await engine.sessions.export(session.key, None)
    imported, exact = await engine.sessions.import_(token, Key("", "copy"), None)
    assert exact
    stateless = GenerationRequest(state=token, max_tokens=40, return_state=True)
    generation = await engine.generate(stateless)
    text = (await generation.whole()).text
    assert generation.result is not None
    further = GenerationRequest(state=generation.result.state, max_tokens=40)
    text += (await (await engine.generate(further)).whole()).text
    assert text == await text_of(engine, session, 80) == await text_of(engine, imported, 80)
    assert len(token) < imported.snapshot.state.nbytes + 400


async def test_tokens_that_are_refused_say_why(engine: Engine, bundle: Bundle, decoder: Decoder) -> None:
    session = await engine.sessions.create(tenant="a")
    token, _ = await engine.sessions.export(session.key, timedelta(seconds=60))

    async def open_(data: bytes, tenant: str = "a") -> None:
        await engine.sessions.import_(data, Key(tenant, ""), None)

    for at in (0, 3, 6, 15, 40, len(token) - 1):
        flipped = bytearray(token)
        flipped[at] ^= 1
        with pytest.raises(errors.SealedStateCorrupt):
            await open_(bytes(flipped))
    for length in (0, 3, 21, 40, len(token) - 1):
        with pytest.raises(errors.SealedStateCorrupt):
            await open_(token[:length])
    with pytest.raises(errors.SealedStateCorrupt):
        await open_(token + b"x")
    with pytest.raises(errors.SealedStateCorrupt):  # the version of sessions that learn
        await open_(token[:4] + b"\2" + token[5:])
    with pytest.raises(errors.SealedStateVersion):
        await open_(token[:4] + b"\3" + token[5:])
    with pytest.raises(errors.SealedStateOfAnotherTenant):
        await open_(token, "b")
    short, _ = await engine.sessions.export(session.key, timedelta(milliseconds=1))
    await asyncio.sleep(0.01)
    with pytest.raises(errors.SealedStateExpired):
        await open_(short)
    elsewhere = Engine([(bundle, decoder)])
    with pytest.raises(errors.SealedStateCorrupt, match="key"):
        await elsewhere.sessions.import_(token, Key("a", ""), None)
    await elsewhere.drain(0)


async def test_keys_rotate(bundle: Bundle, decoder: Decoder, tmp_path: Path) -> None:
    old, new = new_keys()[0], new_keys()[0]
    file = tmp_path / "keys"
    file.write_text(f"# newest first\n{base64.b64encode(new).decode()}\n\n{base64.b64encode(old).decode()} # old\n")
    keys = read_keys(file)
    assert keys == [new, old]
    engines = [Engine([(bundle, decoder)], sealer=Sealer(keys)) for keys in ([old], keys, [new])]
    session = await engines[0].sessions.create()
    token, _ = await engines[0].sessions.export(session.key, None)
    imported, _ = await engines[1].sessions.import_(token, Key("", ""), None)
    renewed, _ = await engines[1].sessions.export(imported.key, None)
    await engines[2].sessions.import_(renewed, Key("", ""), None)
    with pytest.raises(errors.SealedStateCorrupt):
        await engines[2].sessions.import_(token, Key("", ""), None)
    for engine in engines:
        await engine.drain(0)


@pytest.mark.parametrize("text", ["", "# none\n", "short\n", base64.b64encode(bytes(31)).decode(), "not base64!"])
def test_files_without_keys_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ValueError, match="urandom"):
        read_keys(file)


# The ring of checkpoints.


SHAPE = Shape(arrays=2, layers=1, hidden=2, vocabulary=300)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_history_keeps_what_it_promises_and_little_more(data: st.DataObject) -> None:
    """Against a model that keeps everything: h is the position, so that a state says where it belongs."""
    keep = data.draw(st.sampled_from([0, 1, 256, 300, 1000]))
    vocabulary = CharacterVocabulary([chr(300 + n) for n in range(300)])
    history, everything = History.fresh(SHAPE, 0), list[int]()

    def state(position: int) -> Snapshot:
        state = np.full((2, 1, 2), position, np.float32)
        last = everything[position - 1] if position else 0
        return Snapshot(state, (last,), position, 5)

    for _ in range(data.draw(st.integers(1, 8))):
        if data.draw(st.booleans()) and everything:
            position = data.draw(st.integers(history.earliest, len(everything)))
            history = history.until(position)
            del everything[position:]
        start = len(everything)
        tokens = data.draw(st.lists(st.integers(0, 299), min_size=1, max_size=50)) * data.draw(st.integers(1, 30))
        everything += tokens
        cuts = sorted(data.draw(st.sets(st.integers(start + 1, len(everything)), max_size=6)))
        known = history.earliest
        history = history.grown(tokens, [state(start), *map(state, cuts)], keep)
        assert history.position == len(everything)
        assert history.earliest <= max(known, min(len(everything) - keep, start))
        assert len(history.checkpoints) <= 3 + (len(everything) - history.checkpoints[-1].position + keep) // 256
        for position in {history.earliest, start, len(everything), *data.draw(st.sets(st.integers(0, 100)))}:
            if not history.earliest <= position <= len(everything):
                continue
            found = history.until(position).present(7, vocabulary)
            read = int(found.state[0, 0, 0])
            assert (found.position, found.seed) == (position, 7)
            assert list(found.pending) == [everything[read - 1] if read else 0, *everything[read:position]]
