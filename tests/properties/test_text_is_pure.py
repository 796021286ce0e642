"""The text of a session depends on its seed, prompts and parameters, and on nothing that happens around it."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charloom.bundle import Bundle
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.invariance import first_rows, random_inputs
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.engine import Engine
from charloom.engine.errors import SessionBusy
from charloom.engine.limits import Limits
from tests.oracles.one_text import generate_stepwise, one_by_one


@dataclass(frozen=True)
class Call:
    prompt: str
    length: int
    delay: int
    """Turns of the event loop before it starts."""
    cancelled_after: int | None
    """Pieces after which its reader goes away; the session then goes on from wherever that left it."""
    sampling: Sampling
    stop: tuple[str, ...]
    include_stop: bool


prompts = st.text("abcdefghij ,.\n", max_size=30)
samplings = st.sampled_from(
    [
        Sampling(),
        Sampling(),
        Sampling(temperature=0),
        Sampling(top_k=5, top_p=0.9),
        Sampling(frequency_penalty=0.3, repetition_penalty=1.3),
    ]
)
calls = st.builds(
    Call,
    prompts,
    st.integers(1, 80),
    st.integers(0, 5),
    st.one_of(st.none(), st.none(), st.integers(0, 3)),
    samplings,
    st.lists(st.sampled_from(["e", "th", " th", "\n", "ee"]), max_size=2).map(tuple),
    st.booleans(),
)
plans = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.lists(calls, min_size=1, max_size=4)), min_size=1, max_size=12)


SCHEDULES = int(os.environ.get("CHARLOOM_SCHEDULES", "60"))
"""How many are tried; set it to some thousands for a long run."""


@settings(max_examples=SCHEDULES)
@given(
    plans=plans,
    max_rows=st.integers(1, 8),
    workers=st.integers(1, 4),
    tick=st.sampled_from([1e-6, 0.001, 0.01]),
    unread=st.sampled_from([3, 20, Limits.unread_tokens]),
)
def test_any_schedule_of_calls_and_cancellations_gives_each_session_its_own_text(
    bundle: Bundle,
    decoder: Decoder,
    plans: list[tuple[int, list[Call]]],
    max_rows: int,
    workers: int,
    tick: float,
    unread: int,
) -> None:
    async def main() -> None:
        limits = Limits(max_rows=max_rows, workers=workers, tick_seconds=tick, unread_tokens=unread)
        engine = Engine([(bundle, decoder)], limits)
        await asyncio.gather(*(one_session(engine, seed, calls) for seed, calls in plans))
        assert engine.sessions.writing == 0
        loom = engine.models[0].loom
        assert (loom.live, loom.waiting) == (0, 0)
        await engine.drain(1)

    async def one_session(engine: Engine, seed: int, calls: list[Call]) -> None:
        session = await engine.sessions.create(seed=seed)
        oracle = Snapshot.fresh(decoder.shape, bundle.manifest.start_token, seed)
        for call in calls:
            for _ in range(call.delay):
                await asyncio.sleep(0)
            request = GenerationRequest(
                session_id=session.id,
                prompt=call.prompt,
                max_tokens=call.length,
                sampling=call.sampling,
                stop=call.stop,
                include_stop=call.include_stop,
            )
            generation = await engine.generating.generate(request)
            text, deltas = "", 0
            if call.cancelled_after == 0:
                generation.cancel()
            async for delta in generation:
                text += delta.text
                deltas += 1
                if deltas == call.cancelled_after:
                    generation.cancel()
            fed = bundle.vocabulary.encode(call.prompt).tolist()
            length = len(text) if call.cancelled_after is not None else call.length
            expected, stands = "", []
            for there in one_by_one(decoder, oracle, fed, call.sampling):
                if stands:
                    expected += bundle.vocabulary.decode([there.pending[0]])
                stands.append(there)
                if len(expected) == length or expected.endswith(call.stop):
                    break
            if call.cancelled_after is None:
                assert text == stopped(expected, call)
            if text or generation.result is not None:  # the session stands behind the last character handed out
                assert text == expected[: len(text)]
                oracle = stands[len(text)]
            now = (await engine.sessions.get(session.key)).snapshot
            assert now.position == oracle.position
            replayed = caught_up(now)
            assert replayed.pending == oracle.pending
            assert np.array_equal(replayed.state, oracle.state)

    def caught_up(snapshot: Snapshot) -> Snapshot:
        """The same after its pending tokens, but for the last, were read."""
        *read, last = snapshot.pending
        if not read:
            return snapshot
        start = replace(snapshot, pending=(read[0],), position=snapshot.position - len(read))
        return generate_stepwise(decoder, start, [*read[1:], last], 0, Sampling())[1]

    def stopped(text: str, call: Call) -> str:
        """The text as its stop strings cut it."""
        for end in range(1, len(text) + 1):
            found = [stop for stop in call.stop if text[:end].endswith(stop)]
            if found:
                return text[: end if call.include_stop else end - max(map(len, found))]
        return text

    asyncio.run(main())


@settings(max_examples=40)
@given(rows=st.integers(1, 64), steps=st.integers(1, 6), part=st.integers(1, 64), seed=st.integers(0, 1000))
def test_rows_of_a_batch_are_what_they_are_in_any_smaller_batch(
    decoder: Decoder, rows: int, steps: int, part: int, seed: int
) -> None:
    inputs = random_inputs(decoder, rows, steps, seed)
    part = min(part, rows)
    whole, alone = decoder.run(inputs), decoder.run(first_rows(inputs, part))
    assert np.array_equal(alone.tokens, whole.tokens[:, :part])
    assert np.array_equal(alone.logprob, whole.logprob[:, :part])
    assert np.array_equal(alone.state, whole.state[:, :, :part])


def test_a_session_has_one_generation_and_the_next_waits_for_a_cancelled_one(bundle: Bundle, decoder: Decoder) -> None:
    async def main() -> None:
        engine = Engine([(bundle, decoder)])
        session = await engine.sessions.create(seed=1)
        generation = await engine.generating.generate(GenerationRequest(session_id=session.id, max_tokens=60_000))
        with pytest.raises(SessionBusy):
            await engine.generating.generate(GenerationRequest(session_id=session.id))
        generation.cancel()
        following = await engine.generating.generate(GenerationRequest(session_id=session.id, max_tokens=10))
        assert len("".join([delta.text async for delta in following])) == 10
        await engine.drain(1)

    asyncio.run(main())
