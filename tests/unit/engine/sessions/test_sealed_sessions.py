"""Sessions as sealed states, the keys that seal them, and the files of these."""

from __future__ import annotations

import asyncio
import base64
import re
from datetime import timedelta
from pathlib import Path

import pytest

from charloom.bundle import Bundle, DecoderKind
from charloom.engine import errors
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.engine.engine import Engine
from charloom.engine.sessions.sealing import Sealer, new_keys, read_keys
from charloom.engine.sessions.session import Key
from tests.unit.engine.sessions.texts import text_of


async def test_a_sealed_state_goes_on_as_the_session(engine: Engine, bundle: Bundle, decoder: Decoder) -> None:
    session = await engine.sessions.create(seed=16)
    await text_of(engine, session, 50)
    token, _ = await engine.sessions.export(session.key, None)
    imported, exact = await engine.sessions.import_(token, Key("", "copy"), None)
    assert exact
    stateless = GenerationRequest(state=token, max_tokens=40, return_state=True)
    generation = await engine.generating.generate(stateless)
    text = (await generation.whole()).text
    assert generation.result is not None
    further = GenerationRequest(state=generation.result.state, max_tokens=40)
    text += (await (await engine.generating.generate(further)).whole()).text
    assert text == await text_of(engine, session, 80) == await text_of(engine, imported, 80)
    assert len(token) < imported.snapshot.state.nbytes + 400


async def test_a_state_of_another_kind_of_decoder_is_not_restored_exactly(bundle: Bundle) -> None:
    keys = new_keys()
    kinds = (DecoderKind.ONNX_INT8, DecoderKind.ONNX_FP32)
    one, other = (Engine([(bundle, open_decoder(bundle, kind=kind))], sealer=Sealer(keys)) for kind in kinds)
    session = await one.sessions.create(seed=16)
    await text_of(one, session, 20)
    token, _ = await one.sessions.export(session.key, None)
    for engine, expected in ((one, True), (other, False)):
        _, exact = await engine.sessions.import_(token, Key("", "copy"), None)
        assert exact is expected
    for engine in (one, other):
        await engine.drain(0)


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


@pytest.mark.parametrize("line", ["ä" * 44, b"\xff" * 44, "é # ours"])
def test_a_line_that_is_not_even_ascii_is_named(tmp_path: Path, line: str | bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"# ours\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(ValueError, match=re.escape(f"{file}, line 2: not a key of 32 bytes in base64")):
        read_keys(file)


def test_a_comment_beside_a_key_may_have_any_characters(tmp_path: Path) -> None:
    file, key = tmp_path / "keys", new_keys()[0]
    file.write_bytes(b"# M\xfcller\n" + base64.b64encode(key) + " # für später\n".encode())
    assert read_keys(file) == [key]


@pytest.mark.parametrize("text", ["", "# none\n", "short\n", base64.b64encode(bytes(31)).decode(), "not base64!"])
def test_files_without_keys_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ValueError, match="urandom"):
        read_keys(file)
