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
"""The second version has what a session has learnt behind a state. It is written only where there is such, so that
servers that do not know of it read all else."""
_HEADER = struct.Struct("<3sBII")
_MOST_NUMBERS = 2**26
"""Of a state. One of zeros takes no room in a record, so that only this bounds it."""
_KINDS = ("<u1", "<u2", "<u4")
"""Of tokens."""

# What reading a damaged record may come to.
_UNREADABLE = (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError, struct.error)


class UnreadableRecord(ValueError):
    """Bytes that are not a record, or of another version."""


def from_snapshot(snapshot: Snapshot, fields: dict[str, Any]) -> bytes:
    """A snapshot, with some more fields beside it, as bytes."""
    arrays: list[bytes] = []
    return _record({"snapshot": _snapshot_fields(snapshot, arrays), **fields}, arrays, _version(snapshot))


def to_snapshot(data: bytes) -> tuple[Snapshot, dict[str, Any]]:
    """The snapshot and the other fields.

    Raises:
        UnreadableRecord: these bytes are none.
    """
    try:
        fields, arrays = _parts(data)
        return _snapshot(fields.pop("snapshot"), arrays), fields
    except _UNREADABLE as problem:
        raise UnreadableRecord(f"not a snapshot: {problem}") from problem


def from_session(session: Session) -> bytes:
    """A session as bytes."""
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
    """The session.

    Raises:
        UnreadableRecord: these bytes are none.
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
    """What follows the fields, one array after another."""

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
    # The length is not in the sum: a wrong one does not make JSON of the fields, or not with all their arrays.
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
    """A number as all that a session counts, from 0 to 2**64 - 1."""
    if type(value) is not int or not 0 <= value < 2**64:
        raise ValueError(f"{str(value)[:40]!r} is not a number that counts something")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is not a text")
    return value
