"""Whatever is done to sessions, in whatever order and on whichever replica, each is what its own history says.

The oracle knows nothing of stores, leases or checkpoints: a session is a seed and a list of tokens, and its text is
computed alone, from zero. So a byte of another session would be seen at once.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charloom.bundle import Bundle
from charloom.engine import errors
from charloom.engine.calls.requests import GenerationRequest, ReadingRequest
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.engine import Engine
from charloom.engine.limits import Limits
from charloom.engine.sessions.record import from_session, to_session
from charloom.engine.sessions.sealing import Sealer, new_keys
from charloom.engine.sessions.session import Key
from charloom.engine.sessions.stores.memory import MemoryStore
from charloom.engine.sessions.stores.sqlite import SqliteStore
from charloom.engine.sessions.stores.store import Store
from tests.oracles.one_text import generate_stepwise

SCHEDULES = int(os.environ.get("CHARLOOM_SCHEDULES", "40"))
"""How many are tried; set it to some thousands for a long run."""
KEEP = 20
NAMES = ["a", "b", "c", "d"]
SAMPLING = Sampling(temperature=0.9)

names = st.sampled_from(NAMES)
texts = st.text("abc de", min_size=1, max_size=12)
lengths = st.integers(1, 60)
operations = st.one_of(
    st.tuples(st.just("create"), names, st.integers(0, 5), st.booleans()),
    st.tuples(st.just("generate"), names, lengths, st.text("abc ", max_size=8)),
    st.tuples(st.just("abandon"), names, lengths),
    st.tuples(st.just("resume"), names, lengths, st.integers(0, 60)),
    st.tuples(st.just("feed"), names, texts),
    st.tuples(st.just("rewind"), names, st.integers(0, 90)),
    st.tuples(st.just("fork"), names, names, st.integers(0, 90)),
    st.tuples(st.just("delete"), names),
    st.tuples(st.just("carry"), names, names),
    st.tuples(st.just("read"), names),
    st.tuples(st.just("restart")),
)


@dataclass
class Told:
    """What a session's history says."""

    seed: int
    adaptive: bool
    tokens: list[int] = field(default_factory=list)
    earliest: int = 0


class Oracle:
    """Texts, computed alone from zero."""

    def __init__(self, bundle: Bundle, decoder: Decoder) -> None:
        self.bundle, self.decoder = bundle, decoder

    def after(self, told: Told) -> Snapshot:
        first = self.bundle.manifest.start_token
        start = Snapshot.fresh(self.decoder.shape, first, told.seed, adaptive=told.adaptive)
        return generate_stepwise(self.decoder, start, told.tokens, 0, SAMPLING)[1] if told.tokens else start

    def generated(self, told: Told, prompt: str, length: int) -> tuple[str, list[int]]:
        fed = self.bundle.vocabulary.encode(prompt).tolist()
        tokens, _ = generate_stepwise(self.decoder, self.after(told), fed, length, SAMPLING)
        return self.bundle.vocabulary.decode(tokens), [*fed, *tokens]


@settings(max_examples=SCHEDULES, deadline=None)
@given(
    plan=st.lists(st.tuples(st.integers(0, 1), operations), min_size=3, max_size=25),
    durable=st.booleans(),
)
def test_any_interleaving_leaves_each_session_its_own(
    bundle: Bundle, decoder: Decoder, plan: list[tuple[int, tuple[object, ...]]], durable: bool
) -> None:
    """Two replicas that share a file, or one with its sessions in memory."""
    oracle, keys = Oracle(bundle, decoder), new_keys()

    def engine_on(store: Store) -> Engine:
        return Engine([(bundle, decoder)], Limits(rewind_tokens=KEEP, workers=2), store, Sealer(keys))

    async def main(folder: Path) -> None:
        def engine() -> Engine:
            return engine_on(SqliteStore(folder / "sessions.db", 100) if durable else MemoryStore(100))

        engines = [engine(), engine()] if durable else [engine()]
        told: dict[str, Told] = {}
        number = 0
        for replica, (kind, *rest) in plan:
            number += 1
            at = engines[replica % len(engines)]
            if kind == "restart":
                if durable:
                    await close(at)
                    engines[replica] = engine()
                continue
            name = str(rest[0])
            key = Key("", name)
            if kind == "create":
                if name in told:
                    with pytest.raises(errors.SessionExists):
                        await at.sessions.create(session_id=name)
                else:
                    told[name] = Told(int(str(rest[1])), bool(rest[2]))
                    await at.sessions.create(session_id=name, seed=told[name].seed, adaptive=told[name].adaptive)
                continue
            if name not in told:
                with pytest.raises(errors.SessionNotFound):
                    await at.sessions.get(key)
                continue
            mine = told[name]
            await do(at, key, mine, told, number, kind, rest)
        for name, mine in told.items():
            found = (await engines[0].sessions.get(Key("", name))).snapshot
            wanted = oracle.after(mine)
            assert (found.position, found.seed) == (wanted.position, wanted.seed)
            assert (found.learnt is not None) is mine.adaptive
            text = (await (await engines[-1].generating.generate(request(name, 12))).whole()).text
            assert text == oracle.generated(mine, "", 12)[0]
        for one in engines:
            await close(one)

    def request(name: str, length: int, **more: object) -> GenerationRequest:
        return GenerationRequest(session_id=name, max_tokens=length, sampling=SAMPLING, **more)  # type: ignore[arg-type]

    async def do(
        at: Engine, key: Key, mine: Told, told: dict[str, Told], number: int, kind: object, rest: list[object]
    ) -> None:
        if kind == "generate":
            length, prompt = int(str(rest[1])), str(rest[2])
            text, added = oracle.generated(mine, prompt, length)
            assert (await (await at.generating.generate(request(key.id, length, prompt=prompt))).whole()).text == text
            mine.tokens += added
        elif kind in ("abandon", "resume"):
            length = int(str(rest[1]))
            text, added = oracle.generated(mine, "", length)
            asked = request(key.id, length, call_id=f"call-{number}")
            generation = await at.generating.generate(asked)
            first = (await anext(generation)).text
            generation.cancel()
            assert text.startswith(first)
            mine.tokens += added[: len(first)]
            if kind == "abandon":
                await at.sessions.all_written(60)  # another replica sees it only then
            if kind == "resume":
                arrived = min(int(str(rest[2])), len(first))
                start = len(mine.tokens) - len(first)
                resumed = await at.generating.generate(replace(asked, resume_position=start + arrived))
                assert (await resumed.whole()).text == text[arrived:]
                mine.tokens = [*mine.tokens[:start], *added]
        elif kind == "feed":
            await at.reading.feed(ReadingRequest(key, text=str(rest[1])), len(mine.tokens))
            mine.tokens += bundle.vocabulary.encode(str(rest[1])).tolist()
        elif kind == "rewind":
            position = max(0, len(mine.tokens) - int(str(rest[1])))
            if await kept(at, key, mine, position):
                await at.sessions.rewind(key, position, None, None)
                del mine.tokens[position:]
            else:
                with pytest.raises(errors.PositionNotKept):
                    await at.sessions.rewind(key, position, None, None)
        elif kind == "fork":
            copy, position = str(rest[1]), max(0, len(mine.tokens) - int(str(rest[2])))
            options = {"position": position, "count": 1, "ids": [copy], "time_to_live": None}
            if copy in told:
                with pytest.raises((errors.SessionExists, errors.PositionNotKept)):
                    await at.sessions.fork(key, seed=mine.seed, **options)  # type: ignore[arg-type]
            elif await kept(at, key, mine, position):
                await at.sessions.fork(key, seed=mine.seed, **options)  # type: ignore[arg-type]
                told[copy] = Told(mine.seed, mine.adaptive, mine.tokens[:position])
        elif kind == "delete":
            await at.sessions.delete(key)
            del told[key.id]
            with pytest.raises(errors.SessionDeleted):
                await at.sessions.get(key)
        elif kind == "carry":
            copy = str(rest[1])
            token, _ = await at.sessions.export(key, None)
            if copy not in told:
                await at.sessions.import_(token, Key("", copy), None)
                told[copy] = Told(mine.seed, mine.adaptive, list(mine.tokens))
        else:
            session = await at.sessions.get(key)
            again = to_session(from_session(session))
            assert from_session(again) == from_session(session)
            peeked = (await (await at.generating.peek(request(key.id, 3), 1)).whole()).text
            assert peeked == oracle.generated(mine, "", 3)[0]

    async def kept(at: Engine, key: Key, mine: Told, position: int) -> bool:
        session = await at.sessions.get(key)
        assert session.snapshot.position == len(mine.tokens)
        return session.history.earliest <= position

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))


async def close(engine: Engine) -> None:
    await engine.drain(1)
    await engine.sessions.all_written(60)
    await engine.sessions.close()
