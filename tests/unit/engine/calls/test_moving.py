"""Sessions are moved to other models, which read their text again."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charloom.bundle import Bundle, DecoderKind, read_bundle
from charloom.engine import errors
from charloom.engine.calls.requests import ReadingRequest
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.engine.engine import Engine
from charloom.engine.limits import Limits
from charloom.engine.loom.model import try_model
from charloom.engine.model_errors import ModelRetired
from charloom.engine.sessions.session import Key, Session
from tests.unit.bundle.bundle_files import change_manifest
from tests.unit.export.random_bundle import without_weights

KEY = Key("", "a")
WRITTEN_BEFORE = Path(__file__).resolve().parents[3] / "fixtures" / "written-by-0.1" / "bundle"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model of another size, with another vocabulary: only lower case up to o."""
    path = tmp_path_factory.mktemp("other") / "other"
    without_weights(path, hidden=8)
    change_manifest(path, lambda manifest: manifest.update(name="other"))
    return read_bundle(path)


@pytest.fixture
async def engine(bundle: Bundle, decoder: Decoder, other: Bundle) -> AsyncIterator[Engine]:
    models = [(bundle, decoder), (other, open_decoder(other, kind=DecoderKind.ONNX_INT8))]
    engine = Engine(models, Limits(rewind_tokens=256, max_rows=4))
    yield engine
    await engine.drain(0)


def next_version(bundle: Bundle, path: Path) -> Bundle:
    """The same weights, and another digest."""
    shutil.copytree(bundle.path, path)
    change_manifest(path, lambda manifest: manifest.update(training={}))
    return read_bundle(path)


async def having_read(engine: Engine, text: str, **more: Any) -> Session:
    await engine.sessions.create(tenant=KEY.tenant, session_id=KEY.id, **more)
    return await engine.reading.feed(ReadingRequest(key=KEY, text=text), None)


async def test_a_moved_session_is_one_that_its_new_model_has_read(engine: Engine, other: Bundle) -> None:
    before = await having_read(engine, "a good man", seed=7)
    moved = await engine.moving.move(KEY, "other", expected_position=10)
    assert (moved.model, moved.model_digest, moved.snapshot.seed) == ("other", other.manifest.digest, 7)
    assert (moved.version, moved.history.earliest, moved.created) == (before.version + 1, 0, before.created)
    assert await engine.sessions.get(KEY) == moved
    own = await engine.sessions.create(session_id="own", model="other", seed=7)
    own = await engine.reading.feed(ReadingRequest(key=own.key, text="a good man"), None)
    np.testing.assert_array_equal(moved.snapshot.state, own.snapshot.state)
    assert replace(moved.snapshot, state=own.snapshot.state) == own.snapshot
    assert (await engine.sessions.rewind(KEY, 4, None, None)).snapshot.position == 4


async def test_where_not_all_of_the_text_is_kept_the_rest_is_read(engine: Engine) -> None:
    text = "".join(chr(ord("a") + number % 15) for number in range(2000))
    await having_read(engine, text[:1000])
    before = await engine.reading.feed(ReadingRequest(key=KEY, text=text[1000:]), None)
    earliest = before.history.earliest
    assert 0 < earliest <= 2000 - 256
    moved = await engine.moving.move(KEY, "other")
    assert moved.snapshot.position == 2000 - earliest
    assert moved.history.kind == "<u1"


async def test_to_its_own_model_it_is_not_moved(engine: Engine) -> None:
    before = await having_read(engine, "The ")
    after = await engine.moving.move(KEY)
    assert replace(after, expires=before.expires) == before


async def test_a_character_that_the_model_lacks(engine: Engine) -> None:
    before = await having_read(engine, "The Queen")
    with pytest.raises(errors.InvalidRequest, match="choose another"):
        await engine.moving.move(KEY, "other")
    after = await engine.sessions.get(KEY)
    assert replace(after, expires=before.expires) == before
    assert (await engine.moving.move(KEY, "other", skip_unknown=True)).snapshot.position == len("he een")


async def test_an_empty_session_is_moved_too(engine: Engine) -> None:
    await engine.sessions.create(session_id=KEY.id)
    moved = await engine.moving.move(KEY, "other")
    assert (moved.snapshot.position, moved.history.tokens) == (0, b"")
    assert moved.snapshot.state.shape[-1] == 8
    assert (await engine.reading.feed(ReadingRequest(key=KEY, text="a"), None)).snapshot.position == 1


async def test_a_session_whose_model_is_gone(engine: Engine, bundle: Bundle, tmp_path: Path) -> None:
    version = next_version(bundle, tmp_path / "2")
    await having_read(engine, "The ")
    engine.serve(try_model(version, open_decoder(version, kind=DecoderKind.ONNX_INT8), 4), 0.0)
    assert [model.digest for model in await engine.let_go_of_models()] == [bundle.manifest.digest]
    with pytest.raises(ModelRetired, match="move it to another"):
        await engine.reading.feed(ReadingRequest(key=KEY, text="a"), None)
    moved = await engine.moving.move(KEY)
    assert (moved.model, moved.model_digest) == ("small", version.manifest.digest)
    assert (await engine.reading.feed(ReadingRequest(key=KEY, text="a"), None)).snapshot.position == 5


async def test_where_its_name_serves_no_more_it_goes_to_the_default_model(engine: Engine) -> None:
    await having_read(engine, "a")
    engine.unload("small", 600.0)
    assert (await engine.moving.move(KEY)).model == "other"


async def test_what_cannot_be_moved(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.SessionNotFound):
        await engine.moving.move(KEY)
    session = await having_read(engine, "a")
    with pytest.raises(errors.ModelNotFound):
        await engine.moving.move(KEY, "big")
    with pytest.raises(errors.StalePosition):
        await engine.moving.move(KEY, "other", expected_position=3)
    writer = await engine.sessions.acquire(KEY)
    with pytest.raises(errors.SessionBusy):
        await engine.moving.move(KEY, "other")
    await writer.close_with(replace(session, model_digest="0" * 64))
    with pytest.raises(errors.SessionOfAnotherModel, match=r"000000000000.*this server has.*--follows"):
        await engine.moving.move(KEY, "other")


async def test_a_model_that_follows_another_takes_its_sessions_on_a_server_that_never_had_it(
    bundle: Bundle, decoder: Decoder
) -> None:
    """As after a restart with a new model: the store has a session of the old one."""
    old = "0" * 64
    following = replace(bundle, manifest=bundle.manifest.model_copy(update={"follows": (old,)}))
    engine = Engine([(following, decoder)], Limits(max_rows=4))
    session = await having_read(engine, "a good man")
    writer = await engine.sessions.acquire(KEY)
    await writer.close_with(replace(session, model_digest=old))
    with pytest.raises(ModelRetired, match="MoveSession"):
        await engine.reading.feed(ReadingRequest(key=KEY, text="a"), None)
    moved = await engine.moving.move(KEY)
    assert (moved.model_digest, moved.snapshot.position) == (following.manifest.digest, 10)
    np.testing.assert_array_equal(moved.snapshot.state, session.snapshot.state)
    await engine.reading.feed(ReadingRequest(key=KEY, text="a"), None)
    await engine.drain(0)


async def test_an_adaptive_session_learns_from_its_text_again(engine: Engine) -> None:
    await having_read(engine, "a good man, a good man", adaptive=True)
    moved = await engine.moving.move(KEY, "other", skip_unknown=True)
    own = await engine.sessions.create(session_id="own", model="other", adaptive=True)
    request = ReadingRequest(key=own.key, text="a good man, a good man", skip_unknown=True)
    own = await engine.reading.feed(request, None)
    assert moved.snapshot.learnt is not None
    assert own.snapshot.learnt is not None
    assert moved.snapshot.learnt.any()
    np.testing.assert_array_equal(moved.snapshot.learnt, own.snapshot.learnt)


async def test_a_model_that_cannot_learn_takes_no_adaptive_session(
    bundle: Bundle, decoder: Decoder, tmp_path: Path
) -> None:
    """Even where it says that it goes on with the states of one that can."""
    shutil.copytree(WRITTEN_BEFORE, tmp_path / "before")
    change_manifest(
        tmp_path / "before", lambda manifest: manifest.update(name="before", continues=[bundle.manifest.digest])
    )
    before = read_bundle(tmp_path / "before")
    engine = Engine([(bundle, decoder), (before, open_decoder(before))], Limits(max_rows=4))
    session = await having_read(engine, "a", adaptive=True)
    ordinary = await engine.sessions.create(session_id="ordinary")
    tokens = {one.id: (await engine.sessions.export(one.key, None))[0] for one in (session, ordinary)}
    await engine.moving.move(ordinary.key, "before")
    with pytest.raises(errors.InvalidRequest, match=r"charloom export --from OLD NEW.*or choose another") as refused:
        await engine.moving.move(KEY, "before")
    assert refused.value.field == "model"
    assert (await engine.sessions.get(KEY)).version == session.version
    engine.unload("small", 0.0)
    await engine.let_go_of_models()
    with pytest.raises(ModelRetired):
        await engine.reading.feed(ReadingRequest(key=KEY, text="a"), None)
    with pytest.raises(ModelRetired):
        await engine.sessions.import_(tokens["a"], Key("", "imported"), None)
    # That of an ordinary session is tried with that model, which is of another size here, whatever it says.
    with pytest.raises(errors.SealedStateCorrupt, match="its state has the sizes"):
        await engine.sessions.import_(tokens["ordinary"], Key("", "imported"), None)
    await engine.drain(0)
