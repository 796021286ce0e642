"""What earlier versions wrote is read, and its text goes on as it would have gone on then."""

from __future__ import annotations

import base64
import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from charloom.bundle import DecoderKind, read_bundle
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.engine import Engine
from charloom.engine.limits import Limits
from charloom.engine.sessions.sealing import Sealer, read_keys
from charloom.engine.sessions.session import Key
from charloom.engine.sessions.stores.redis import RedisStore
from charloom.engine.sessions.stores.sqlite import SqliteStore
from charloom.engine.sessions.stores.store import Store
from charloom.training.checkpoint import load_trained, read_checkpoint
from charloom.training.evaluate import tail_loss
from charloom.training.run_directory import load_validation
from tests.unit.engine.redis_server import RedisServer

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "written-by-0.1"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text("utf-8"))
PROMPT = "The value "


def an_hour_later() -> datetime:
    """Sessions and tokens expire; these are read an hour after they were written."""
    return datetime.fromisoformat(EXPECTED["written"]) + timedelta(hours=1)


def engine_of(kind: DecoderKind, store: Store | None = None) -> Engine:
    bundle = read_bundle(FOLDER / "bundle")
    decoder = open_decoder(bundle, kind=kind, device="cpu")
    sealer = Sealer(read_keys(FOLDER / "sealing-keys"), an_hour_later)
    return Engine([(bundle, decoder)], Limits(rewind_tokens=64), store, sealer)


async def text_of(engine: Engine, **asked: Any) -> str:
    return (await (await engine.generating.generate(GenerationRequest(**asked))).whole()).text


@pytest.mark.parametrize("kind", list(DecoderKind))
async def test_a_bundle_gives_the_text_that_it_gave(kind: DecoderKind) -> None:
    engine, told = engine_of(kind), EXPECTED[kind.value]
    greedy = await text_of(engine, prompt=PROMPT, max_tokens=120, sampling=Sampling(temperature=0.0))
    shaped = Sampling(temperature=0.8, top_k=20, repetition_penalty=1.1)
    sampled = await text_of(engine, prompt=PROMPT, max_tokens=120, seed=7, sampling=shaped)
    assert (greedy, sampled) == (told["greedy"], told["generate"])
    await engine.drain(0)


async def goes_on(store: Store) -> None:
    engine = engine_of(DecoderKind.ONNX_INT8, store)
    for id, seed in (("kept", 11), ("copy", 3)):
        session = await engine.sessions.get(Key("", id))
        assert (session.snapshot.position, session.snapshot.seed) == (EXPECTED["position"], seed)
    asked = {"session_id": "kept", "max_tokens": 80, "sampling": Sampling(temperature=0.7)}
    assert await text_of(engine, **asked) == EXPECTED["next"]
    again = await engine.sessions.rewind(Key("", "kept"), EXPECTED["position"], None, None)
    assert again.snapshot.position == EXPECTED["position"]
    assert await text_of(engine, **asked) == EXPECTED["next"]
    await engine.drain(0)
    await store.close()


async def test_a_sqlite_file_is_read_and_its_sessions_go_on(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "sessions.sqlite", tmp_path)
    await goes_on(SqliteStore(tmp_path / "sessions.sqlite", 100, an_hour_later))


async def test_redis_records_are_read_and_their_sessions_go_on(doomed_redis: RedisServer) -> None:
    put_back(doomed_redis.url, json.loads((FOLDER / "redis.json").read_text("utf-8")))
    await goes_on(RedisStore(doomed_redis.url, 100, an_hour_later))


def put_back(url: str, keys: dict[str, Any]) -> None:
    decoded = base64.b64decode
    with redis.Redis.from_url(url) as client:
        for key, (kind, milliseconds, content) in keys.items():
            if kind == "hash":
                client.hset(key, mapping={name: decoded(value) for name, value in content.items()})
            elif kind == "zset":
                client.zadd(key, {decoded(member): score for member, score in content})
            else:
                client.set(key, decoded(content))
            if milliseconds > 0:
                client.pexpire(key, milliseconds)


async def test_a_sealed_token_is_opened_and_goes_on() -> None:
    engine = engine_of(DecoderKind.ONNX_INT8)
    token = (FOLDER / "session.token").read_bytes()
    assert await text_of(engine, state=token, max_tokens=80, sampling=Sampling(temperature=0.7)) == EXPECTED["next"]
    await engine.drain(0)


def test_a_checkpoint_is_read_and_has_the_loss_that_it_had(tmp_path: Path) -> None:
    run = shutil.copytree(FOLDER / "run", tmp_path / "run")
    assert read_checkpoint(run / "last.safetensors").facts["step"] > 0
    trained = load_trained(run)
    told = json.loads((run / "losses.json").read_text("utf-8"))
    assert tail_loss(trained.model, load_validation(run)) == pytest.approx(told["losses"]["tail"], abs=1e-3)
