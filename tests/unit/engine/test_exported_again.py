"""A bundle that was exported again (`charloom export --from`) goes on with what belongs to the bundle before it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from charloom.bundle import Bundle, DecoderKind, read_bundle
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.constraints.constraint import Constraint, Kind
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.engine import Engine
from charloom.engine.errors import SessionOfAnotherModel
from charloom.engine.limits import Limits
from charloom.engine.loom.model import try_model
from charloom.engine.model_errors import ModelRetired
from charloom.engine.sessions.sealing import Sealer, read_keys
from charloom.engine.sessions.session import Key
from charloom.engine.sessions.stores.sqlite import SqliteStore
from charloom.export import export_from_bundle
from tests.unit.bundle.bundle_files import change_manifest
from tests.unit.engine.test_written_before import EXPECTED, FOLDER, an_hour_later, text_of

KIND = DecoderKind.ONNX_INT8
KEPT = Key("", "kept")
GOES_ON = {"max_tokens": 80, "sampling": Sampling(temperature=0.7)}


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    target = tmp_path_factory.mktemp("exported") / "again"
    export_from_bundle(read_bundle(FOLDER / "bundle"), target, decoders=[KIND])
    return read_bundle(target)


def engine_of(bundle: Bundle, sessions: Path) -> Engine:
    shutil.copy(FOLDER / "sessions.sqlite", sessions)
    store = SqliteStore(sessions / "sessions.sqlite", 100, an_hour_later)
    sealer = Sealer(read_keys(FOLDER / "sealing-keys"), an_hour_later)
    return Engine([(bundle, open_decoder(bundle, kind=KIND))], Limits(rewind_tokens=64), store, sealer)


async def test_sessions_and_sealed_states_go_on_as_they_would_have(again: Bundle, tmp_path: Path) -> None:
    engine = engine_of(again, tmp_path)
    assert await text_of(engine, session_id="kept", **GOES_ON) == EXPECTED["next"]
    await engine.sessions.rewind(KEPT, EXPECTED["position"], None, None)
    assert await text_of(engine, session_id="kept", **GOES_ON) == EXPECTED["next"]
    token = (FOLDER / "session.token").read_bytes()
    assert await text_of(engine, state=token, **GOES_ON) == EXPECTED["next"]
    await engine.drain(0)


async def test_what_the_bundle_before_could_not_do_its_sessions_can_now(again: Bundle, tmp_path: Path) -> None:
    engine = engine_of(again, tmp_path)
    constraint = Constraint(Kind.CHOICES, ("yes", "no"))
    generation = await engine.generating.generate(GenerationRequest(session_id="kept", constraint=constraint))
    assert (await generation.whole()).text in ("yes", "no")
    await engine.drain(0)


async def test_a_session_that_goes_on_stays_readable_for_servers_of_the_bundle_before(
    again: Bundle, tmp_path: Path
) -> None:
    engine = engine_of(again, tmp_path)
    before = (await engine.sessions.get(KEPT)).model_digest
    await text_of(engine, session_id="kept", **GOES_ON)
    moved = await engine.moving.move(KEPT)
    assert moved.snapshot.position > EXPECTED["position"]  # it has this model already: nothing was read again
    assert moved.model_digest == before != again.manifest.digest
    await engine.drain(0)


async def test_a_session_of_the_bundle_before_can_be_moved_when_the_one_that_went_on_with_it_is_gone(
    again: Bundle, bundle: Bundle, decoder: Decoder, tmp_path: Path
) -> None:
    engine = engine_of(again, tmp_path)
    engine.serve(try_model(bundle, decoder, 8), 0)
    engine.unload(again.manifest.name, 0)
    assert [model.digest for model in await engine.let_go_of_models()] == [again.manifest.digest]
    with pytest.raises(ModelRetired):
        await text_of(engine, session_id="kept", **GOES_ON)
    moved = await engine.moving.move(KEPT, bundle.manifest.name, skip_unknown=True)
    assert moved.model_digest == bundle.manifest.digest
    await engine.drain(0)


async def test_the_bundle_before_has_its_sessions_while_it_is_loaded(again: Bundle, tmp_path: Path) -> None:
    old = read_bundle(FOLDER / "bundle")
    engine = engine_of(old, tmp_path)
    engine.serve(try_model(again, open_decoder(again, kind=KIND), 4), 600)
    session = await engine.sessions.get(KEPT)
    assert engine.sessions.model_of(session).digest == old.manifest.digest
    assert engine.model("").digest == again.manifest.digest
    await engine.drain(0)


async def test_a_bundle_that_names_none_before_it_has_sessions_of_its_own_alone(again: Bundle, tmp_path: Path) -> None:
    path = shutil.copytree(again.path, tmp_path / "alone")
    change_manifest(path, lambda manifest: manifest.pop("continues"))
    engine = engine_of(read_bundle(path), tmp_path)
    with pytest.raises(SessionOfAnotherModel):
        await text_of(engine, session_id="kept", **GOES_ON)
    await engine.drain(0)
