"""What reads bytes that others wrote, each as one function of bytes, to be fuzzed and for the tests to replay.

A function raises nothing for bytes that the reader refuses with its own kind of error, in one line. Where a check value
would hide the rest of the reader, the function makes it fit: whoever writes a file can do that too.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from charloom.bundle import (
    MANIFEST_FILE,
    VOCABULARY_FILE,
    BundleError,
    Manifest,
    Unit,
    read_bundle,
    read_vocabulary,
    vocabulary_of,
    write_vocabulary,
)
from charloom.engine.decoding.onnx_file import check_whole
from charloom.engine.errors import (
    SealedStateCorrupt,
    SealedStateExpired,
    SealedStateOfAnotherTenant,
    SealedStateVersion,
    StoreUnavailable,
)
from charloom.engine.sessions import record, sealing
from charloom.engine.sessions.records import Records
from charloom.engine.sessions.sealing import Sealer
from charloom.engine.sessions.session import Key

KEY = bytes(range(sealing.KEY_BYTES))
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
SEALER = Sealer([KEY], lambda: NOW)
WRITTEN = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "written-by-0.1"
BETWEEN = b"\x00"
"""Between the two parts of an input that has two; no JSON text has it."""
LONGEST_LINE = 1000


def read_a_bundle(data: bytes) -> None:
    """A manifest and a vocabulary; hash and digest are made to fit."""
    manifest, _, symbols = data.partition(BETWEEN)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / VOCABULARY_FILE).write_bytes(symbols)
        (folder / MANIFEST_FILE).write_bytes(_fitting(manifest, symbols))
        try:
            bundle = read_bundle(folder)
        except BundleError as problem:
            line = str(problem)
            if "\n" in line or len(line) > LONGEST_LINE:
                raise AssertionError(f"no short line: {line[:2000]!r}") from problem
            return
        vocabulary = bundle.vocabulary
        vocabulary.decode(range(min(vocabulary.size, 100)))
        write_vocabulary(folder / VOCABULARY_FILE, vocabulary)
        if read_vocabulary(folder / VOCABULARY_FILE).to_json() != vocabulary.to_json():
            raise AssertionError("it is another vocabulary once it was written again")


def read_a_graph(data: bytes) -> None:
    """An ONNX file, which may not have its numbers elsewhere."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            check_whole(Path(file.name))
        except ValueError:
            return
    try:
        model = ModelProto.FromString(data)
    except DecodeError:
        return
    for tensor in _tensors(model):
        if tensor.external_data or tensor.data_location != TensorProto.DEFAULT:
            raise AssertionError(f"the tensor {tensor.name!r} has its numbers elsewhere")


def read_a_token(data: bytes) -> None:
    """A sealed token as it is, and the same bytes as fields and arrays, sealed."""
    nonce = bytes(12)
    header = sealing._HEADER.pack(sealing._MAGIC, sealing._VERSION, sealing.key_id(KEY), nonce)
    for token in (data, header + sealing._cipher(KEY).encrypt(nonce, _as_record(data), header)):
        try:
            state = SEALER.open(token, "shop")
        except (SealedStateCorrupt, SealedStateExpired, SealedStateOfAnotherTenant, SealedStateVersion):
            continue
        again, _ = SEALER.seal(state, "shop", timedelta(days=1))
        if SEALER.open(again, "shop")[1:] != state[1:]:
            raise AssertionError("it is another state once it was sealed again")


def read_a_record(data: bytes) -> None:
    """A session's record as it is, and the same bytes as fields and arrays."""
    records = Records([KEY], writes_plain=True)
    for content in (data, _as_record(data)):
        try:
            session = records.unpack(Key("shop", "one"), content)
        except StoreUnavailable:
            continue
        again = records.pack(session)
        if records.pack(records.unpack(Key("shop", "one"), again)) != again:
            raise AssertionError("it is another session once it was written again")


PARSERS: dict[str, Callable[[bytes], None]] = {
    "bundle": read_a_bundle,
    "graph": read_a_graph,
    "token": read_a_token,
    "record": read_a_record,
}


def seeds(name: str) -> Iterator[bytes]:
    """Well-formed inputs to begin with."""
    if name == "bundle":
        manifest = json.loads((WRITTEN / "bundle" / MANIFEST_FILE).read_text("utf-8"))
        for unit in Unit:
            vocabulary = vocabulary_of("a b a\n", unit)
            facts = {"unit": unit.value, "vocabulary_size": vocabulary.size, "start_token": vocabulary.start_token}
            parts = {**manifest, **facts, "files": {}, "training": {}}, vocabulary.to_json()
            yield BETWEEN.join(json.dumps(part).encode() for part in parts)
    elif name == "graph":
        yield from _graphs()
    else:
        snapshot, fields = record.to_snapshot(_plain((WRITTEN / "session.token").read_bytes()))
        if name == "token":
            fields |= {"tenant": "shop", "expires": 2**52}
            content = record.from_snapshot(snapshot, fields)
        else:
            stored = json.loads((WRITTEN / "redis.json").read_text("utf-8"))
            content = binascii.a2b_base64(next(c["record"] for key, (_, _, c) in stored.items() if ":session:" in key))
        _, _, length, _ = record._HEADER.unpack_from(content)
        body = content[record._HEADER.size :]
        yield body[:length] + BETWEEN + body[length:]


def _graphs() -> Iterator[bytes]:
    """Models that have their numbers themselves, in a graph within a graph, and one that has not."""
    number = numpy_helper.from_array(np.ones(1, np.float32), "n")
    body = helper.make_graph([helper.make_node("Constant", [], ["c"], value=number)], "b", [], [])
    nodes = [helper.make_node("If", ["n"], ["c"], then_branch=body), NodeProto(op_type="Identity")]
    yield helper.make_model(helper.make_graph(nodes, "g", [], [], [number])).SerializeToString()
    elsewhere = TensorProto(name="n", data_location=TensorProto.EXTERNAL)
    elsewhere.external_data.add(key="location", value="file")
    yield helper.make_model(helper.make_graph([], "g", [], [], [elsewhere])).SerializeToString()


def _fitting(manifest: bytes, vocabulary: bytes) -> bytes:
    """A manifest that names this vocabulary, and has the digest of its fields; as it was where it is none."""
    try:
        content = json.loads(manifest)
        content["files"][VOCABULARY_FILE] = {
            "bytes": len(vocabulary),
            "sha256": hashlib.sha256(vocabulary).hexdigest(),
        }
        content["digest"] = Manifest.model_validate(content).computed_digest()
        return json.dumps(content).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        return manifest


def _as_record(data: bytes) -> bytes:
    fields, _, arrays = data.partition(BETWEEN)
    header = record._HEADER.pack(record._MAGIC, record._VERSION, len(fields), binascii.crc32(fields + arrays))
    return header + fields + arrays


def _plain(token: bytes) -> bytes:
    (key,) = sealing.read_keys(WRITTEN / "sealing-keys")
    size = sealing._HEADER.size
    return sealing._cipher(key).decrypt(sealing._HEADER.unpack_from(token)[-1], token[size:], token[:size])


def _tensors(message: Message) -> Iterator[TensorProto]:
    if isinstance(message, TensorProto):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from _tensors(part)
