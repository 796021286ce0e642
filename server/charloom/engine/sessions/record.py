"""Snapshots and sessions as bytes.

A record is a header (magic, version, length of the fields, checksum), the fields as JSON, then the arrays as they are
in memory, little-endian. Nothing in it is executed when it is read.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from datetime import timedelta
from typing import Any

import numpy as np

from charloom.controls.adaptation import LARGEST_STATE
from charloom.engine.clock import from_microseconds, to_microseconds
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.sessions.session import Call, History, Origin, Session

_MAGIC, _VERSION, _LEARNING = b"CLR", 1, 2
"""The second version has the learnt array of a session after each state. It is written only for sessions that learn, so
that servers that do not know it can read all others."""
_HEADER = struct.Struct("<3sBII")
_MOST_NUMBERS = 2**26
"""Most numbers of a state. A zero state takes no room in a record, so the record's length does not bound it."""
_KINDS = ("<u1", "<u2", "<u4")
"""Types of tokens, as NumPy names them."""

# Errors that reading a damaged record may raise.
_UNREADABLE = (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError, struct.error)


class UnreadableRecord(ValueError):
    """The bytes are no record, or one of an unknown version."""


def from_snapshot(snapshot: Snapshot, fields: dict[str, Any]) -> bytes:
    """Serialize a snapshot, together with some further JSON fields."""
    arrays: list[bytes] = []
    return _record({"snapshot": _snapshot_fields(snapshot, arrays), **fields}, arrays, _version(snapshot))


def to_snapshot(data: bytes) -> tuple[Snapshot, dict[str, Any]]:
    """Read a snapshot and the further fields.

    Raises:
        UnreadableRecord: the bytes are no snapshot.
    """
    try:
        fields, arrays = _parts(data)
        return _snapshot(fields.pop("snapshot"), arrays), fields
    except _UNREADABLE as problem:
        raise UnreadableRecord(f"not a snapshot: {problem}") from problem


def from_session(session: Session) -> bytes:
    """Serialize a session."""
    arrays: list[bytes] = []
    history = session.history
    fields = {
        "id": session.id,
        "tenant": session.tenant,
        "model": session.model,
        "digest": session.model_digest,
        "version": session.version,
        "times": [to_microseconds(time) for time in (session.created, session.updated, session.expires)],
        "time_to_live": session.time_to_live // timedelta(microseconds=1),
        "origin": session.origin,
        "call": session.call,
        "snapshot": _snapshot_fields(session.snapshot, arrays),
        "checkpoints": [_snapshot_fields(checkpoint, arrays) for checkpoint in history.checkpoints],
        "tokens": [history.kind, len(history.tokens)],
    }
    if session.notes:
        fields["notes"] = len(session.notes)
    return _record(fields, [*arrays, history.tokens, session.notes], _version(session.snapshot))


def to_session(data: bytes) -> Session:
    """Read a session.

    Raises:
        UnreadableRecord: the bytes are no session.
    """
    try:
        fields, arrays = _parts(data)
        snapshot = _snapshot(fields["snapshot"], arrays)
        checkpoints = tuple(_snapshot(one, arrays) for one in fields["checkpoints"])
        kind, count = fields["tokens"]
        if kind not in _KINDS:
            raise ValueError("its tokens have another form")
        created, updated, expires = map(from_microseconds, fields["times"])
        return Session(
            id=_text(fields["id"]),
            tenant=_text(fields["tenant"]),
            model=_text(fields["model"]),
            model_digest=_text(fields["digest"]),
            snapshot=snapshot,
            history=History(checkpoints, arrays.take(_whole(count)), kind),
            version=_whole(fields["version"]),
            created=created,
            updated=updated,
            time_to_live=timedelta(microseconds=fields["time_to_live"]),
            expires=expires,
            origin=None if fields["origin"] is None else _origin(*fields["origin"]),
            call=None if fields["call"] is None else _call(*fields["call"]),
            notes=arrays.take(_whole(fields.get("notes", 0))),
        )
    except _UNREADABLE as problem:
        raise UnreadableRecord(f"not a session: {problem}") from problem


class _Arrays:
    """Reads the arrays after the fields, one after another."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        start, self._at = self._at, self._at + count
        if not 0 <= start <= self._at <= len(self._data):
            raise ValueError("it ends too early")
        return self._data[start : self._at]


def _version(snapshot: Snapshot) -> int:
    return _VERSION if snapshot.learnt is None else _LEARNING


def _record(fields: dict[str, Any], arrays: list[bytes], version: int) -> bytes:
    text = json.dumps(fields, separators=(",", ":")).encode()
    body = b"".join([text, *arrays])
    return _HEADER.pack(_MAGIC, version, len(text), zlib.crc32(body)) + body


def _parts(data: bytes) -> tuple[dict[str, Any], _Arrays]:
    magic, version, length, checksum = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("it is something else")
    if version not in (_VERSION, _LEARNING):
        raise ValueError(f"it has version {version}, this server reads {_VERSION} and {_LEARNING}")
    body = data[_HEADER.size :]
    # The checksum does not cover the length; with a wrong one, the JSON or the arrays cannot be read.
    if zlib.crc32(body) != checksum or length > len(body):
        raise ValueError("it was damaged")
    fields = json.loads(body[:length])
    if not isinstance(fields, dict):
        raise TypeError("its fields are not an object")
    return fields, _Arrays(body[length:])


def _snapshot_fields(snapshot: Snapshot, arrays: list[bytes]) -> dict[str, Any]:
    zero = not snapshot.state.any()
    if not zero:
        arrays.append(snapshot.state.astype("<f4").tobytes())
    fields = {
        "shape": snapshot.state.shape,
        "zero": zero,
        "pending": snapshot.pending,
        "position": snapshot.position,
        "seed": snapshot.seed,
        "tail": snapshot.tail.hex(),
    }
    if snapshot.learnt is not None:
        something = bool(snapshot.learnt.any())
        fields["learnt"] = [len(snapshot.learnt), something]
        if something:
            arrays.append(snapshot.learnt.astype("<f4").tobytes())
    return fields


def _snapshot(fields: dict[str, Any], arrays: _Arrays) -> Snapshot:
    count, layers, hidden = shape = tuple(map(_whole, fields["shape"]))
    if min(shape) < 1 or math.prod(shape) > _MOST_NUMBERS:
        raise ValueError("its state has another form")
    if fields["zero"]:
        state = np.zeros(shape, np.float32)
    else:
        state = np.frombuffer(arrays.take(4 * count * layers * hidden), "<f4").reshape(shape)
    learnt = None
    if "learnt" in fields:
        size, something = fields["learnt"]
        if not 1 <= _whole(size) <= LARGEST_STATE:
            raise ValueError("what it has learnt has another form")
        learnt = np.frombuffer(arrays.take(4 * size), "<f4") if something else np.zeros(size, np.float32)
    pending = tuple(_whole(token) for token in fields["pending"])
    position, seed = _whole(fields["position"]), _whole(fields["seed"])
    return Snapshot(state, pending, position, seed, bytes.fromhex(fields["tail"]), learnt)


def _origin(id: Any, version: Any) -> Origin:
    return Origin(_text(id), _whole(version))


def _call(id: Any, *numbers: Any) -> Call:
    return Call(_text(id), *map(_whole, numbers))


def _whole(value: Any) -> int:
    """Check that a value is an integer from 0 to 2**64 - 1, as all numbers of a session."""
    if type(value) is not int or not 0 <= value < 2**64:
        raise ValueError(f"{str(value)[:40]!r} is not a number that counts something")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is not a text")
    return value
