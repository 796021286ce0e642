"""Where calls start, and what of them is left to do."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from charloom.bundle import Bundle, read_bundle
from charloom.engine import errors
from charloom.engine.calls.requests import GenerationRequest, ReadingRequest
from charloom.engine.calls.starting import Starting
from charloom.engine.calls_in_progress import CallsInProgress
from charloom.engine.constraints.compiler import Compiler
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.limits import Limits
from charloom.engine.loom.model import try_model
from charloom.engine.loom.models import Models
from charloom.engine.model_errors import CallOfAnotherModel
from charloom.engine.rates import Rates
from charloom.engine.sessions.sealed_states import SealedStates
from charloom.engine.sessions.sealing import Sealer, new_keys
from charloom.engine.sessions.session import Key, Session
from charloom.engine.sessions.sessions import Sessions
from charloom.engine.sessions.stores.memory import MemoryStore
from tests.oracles.one_text import generate_stepwise
from tests.unit.bundle.bundle_files import change_manifest


@pytest.fixture
async def models(bundle: Bundle, decoder: Decoder) -> AsyncIterator[Models]:
    models = Models([(bundle, decoder)], Limits())
    yield models
    for model in models:
        model.loom.drain(0)


@pytest.fixture
def sealed(models: Models) -> SealedStates:
    return SealedStates(Sealer(new_keys()), models, Limits())


@pytest.fixture
def sessions(models: Models, sealed: SealedStates) -> Sessions:
    return Sessions(MemoryStore(10), models, Limits(), sealed)


@pytest.fixture
def starting(models: Models, sessions: Sessions, sealed: SealedStates) -> Starting:
    return Starting(models, sessions, sealed, Limits(), CallsInProgress(Rates()), Compiler())


async def written(
    starting: Starting, decoder: Decoder, session: Session, request: GenerationRequest, generated: int
) -> list[int]:
    """Begin a call, and break it off when its session has been written after some tokens; returns all its tokens."""
    start = await starting.generation(replace(request, session_id=session.id))
    assert start.writer is not None
    prompt = start.checked.prompt.tolist()
    tokens, snapshot = generate_stepwise(decoder, start.snapshot, prompt, generated, request.sampling)
    start.writer.on_tokens(tokens, snapshot)
    await start.writer.close(snapshot)
    return [*prompt, *tokens]


async def test_a_call_without_session_starts_at_the_zero_state_or_at_its_sealed_state(
    starting: Starting, sessions: Sessions, models: Models
) -> None:
    fresh = await starting.generation(GenerationRequest(seed=5))
    assert (fresh.snapshot, fresh.writer) == (models.named("").fresh(5), None)
    session = await sessions.create(seed=6)
    state, _ = await sessions.export(session.key, None)
    sealed = await starting.generation(GenerationRequest(state=state, seed=7))
    assert (sealed.snapshot.seed, sealed.snapshot.pending, sealed.writer) == (7, session.snapshot.pending, None)


async def test_a_call_of_a_session_has_it_until_it_is_closed(starting: Starting, sessions: Sessions) -> None:
    session = await sessions.create(seed=1)
    start = await starting.generation(GenerationRequest(session_id=session.id, prompt="abc", max_tokens=9))
    assert start.writer is not None
    assert start.snapshot is session.snapshot
    assert (len(start.checked.prompt), start.checked.max_tokens, len(start.checked.earlier)) == (3, 9, 0)
    with pytest.raises(errors.SessionBusy):
        await starting.generation(GenerationRequest(session_id=session.id))
    await start.writer.close(None)
    assert sessions.writing == 0


async def test_a_preview_and_a_reading_leave_the_session_free(starting: Starting, sessions: Sessions) -> None:
    session = await sessions.create(seed=1)
    preview = await starting.preview(GenerationRequest(session_id=session.id, seed=2))
    assert (preview.snapshot.seed, preview.writer) == (2, None)
    reading = await starting.reading(ReadingRequest(session.key))
    assert (reading.snapshot, reading.writer) == (session.snapshot, None)
    assert sessions.writing == 0
    writing = await starting.reading(ReadingRequest(session.key), write=True)
    assert (writing.writer is not None, sessions.writing) == (True, 1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"model": "none"}, errors.ModelNotFound),
        ({"max_tokens": 0}, errors.InvalidRequest),
        ({"expected_position": 4}, errors.StalePosition),
        ({"call_id": "call", "resume_position": 4}, errors.StalePosition),
    ],
)
async def test_a_call_that_cannot_start_gives_its_session_back(
    starting: Starting, sessions: Sessions, options: dict[str, object], error: type[Exception]
) -> None:
    session = await sessions.create(seed=1)
    with pytest.raises(error):
        await starting.generation(GenerationRequest(session_id=session.id, **options))  # type: ignore[arg-type]
    assert sessions.writing == 0
    assert (await sessions.get(session.key)).version == 0


@pytest.mark.parametrize("arrived", [None, 0, 2, 3, 7, 13])
async def test_of_a_call_that_broke_off_the_rest_is_left(
    starting: Starting, sessions: Sessions, decoder: Decoder, arrived: int | None
) -> None:
    """The prompt has 3 tokens, and 10 of 40 were generated."""
    session = await sessions.create(seed=1)
    request = GenerationRequest(call_id="call", prompt="abc", max_tokens=40)
    tokens = await written(starting, decoder, session, request, generated=10)
    again = replace(request, session_id=session.id, resume_position=arrived)
    start = await starting.generation(again)
    done = arrived or 0
    assert start.snapshot.position == done
    assert start.arrived == done
    assert start.checked.earlier.tolist() == tokens[:done]
    assert start.checked.earlier_generated == max(0, done - 3)
    assert start.checked.prompt.tolist() == tokens[done:3]
    assert start.checked.max_tokens == 40 - start.checked.earlier_generated
    assert start.writer is not None
    await start.writer.close(None)


async def test_of_a_call_that_was_over_the_last_token_is_left(
    starting: Starting, sessions: Sessions, decoder: Decoder
) -> None:
    session = await sessions.create(seed=1)
    request = GenerationRequest(call_id="call", max_tokens=10)
    await written(starting, decoder, session, request, generated=10)
    start = await starting.generation(replace(request, session_id=session.id, resume_position=10))
    assert (start.snapshot.position, start.checked.max_tokens, start.arrived) == (9, 1, 10)


async def test_the_state_at_a_resumed_position_is_the_one_that_was_there(
    starting: Starting, sessions: Sessions, decoder: Decoder
) -> None:
    """Its tokens since the last checkpoint are still to be read, and give the state that it had."""
    session = await sessions.create(seed=1)
    request = GenerationRequest(call_id="call", max_tokens=40)
    tokens = await written(starting, decoder, session, request, generated=20)
    start = await starting.generation(replace(request, session_id=session.id, resume_position=12))
    rest, there = generate_stepwise(decoder, start.snapshot, [], 8, request.sampling)
    assert rest == tokens[12:]
    assert np.array_equal(there.state, (await sessions.get(Key("", session.id))).snapshot.state)


async def test_a_resumed_call_without_session_goes_on_with_the_version_that_it_began_with_or_not_at_all(
    starting: Starting, models: Models, bundle: Bundle, decoder: Decoder, tmp_path: Path
) -> None:
    path = shutil.copytree(bundle.path, tmp_path / "2")
    change_manifest(path, lambda manifest: manifest.update(training={"version": "2"}))
    old = models.named("")
    request = GenerationRequest(seed=3, max_tokens=9, resume_position=2, digest=old.digest)
    new = models.serve(try_model(read_bundle(path), decoder, 4), grace=60)
    assert (await starting.generation(request)).model is old
    assert (await starting.generation(replace(request, digest=""))).model is new, "a client that names none"
    old.grace_ends = 0.0
    with pytest.raises(CallOfAnotherModel, match="begin the text anew") as refused:
        await starting.generation(request)
    assert refused.value.facts == {"digest": old.digest}
    old.loom.drain(0)


async def test_a_call_starts_with_the_version_that_it_has_in_use_whatever_serves_now(
    starting: Starting, models: Models, bundle: Bundle, decoder: Decoder, tmp_path: Path
) -> None:
    path = shutil.copytree(bundle.path, tmp_path / "2")
    change_manifest(path, lambda manifest: manifest.update(training={"version": "2"}))
    held = models.named("")
    new = models.serve(try_model(read_bundle(path), decoder, 4), grace=0)
    for digest, expected in ((held.digest, held), ("", new)):
        assert (await starting.generation(GenerationRequest(digest=digest))).model is expected
        assert (await starting.reading(ReadingRequest(Key("", ""), digest=digest))).model is expected
    held.loom.drain(0)
