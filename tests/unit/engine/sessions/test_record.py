from __future__ import annotations

import json
import math
import random
import struct
import zlib
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.sessions.record import UnreadableRecord, from_session, from_snapshot, to_session, to_snapshot
from charloom.engine.sessions.session import Call, History, Origin, Session

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
moments = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(timezone.utc))
unsigned = st.integers(0, 2**64 - 1)


@st.composite
def snapshots(
    draw: st.DrawFn, layers: int | None = None, hidden: int | None = None, adaptive: bool | None = None
) -> Snapshot:
    shape = (draw(st.integers(1, 3)), layers or draw(st.integers(1, 3)), hidden or draw(st.integers(1, 9)))
    floats = st.floats(width=32, allow_nan=True, allow_infinity=True)
    state = draw(st.one_of(st.just(np.zeros(shape, np.float32)), arrays.arrays(np.float32, shape, elements=floats)))
    pending = tuple(draw(st.lists(st.integers(0, 2**31), min_size=1, max_size=4)))
    counts = draw(st.integers(0, 2**63)), draw(unsigned)
    learnt = None
    if draw(st.booleans()) if adaptive is None else adaptive:
        learnt = draw(st.one_of(st.just(np.zeros(7, np.float32)), arrays.arrays(np.float32, 7, elements=floats)))
    return Snapshot(state, pending, *counts, draw(st.binary(max_size=3)), learnt)


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    alike = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.booleans())
    checkpoints = draw(st.lists(snapshots(*alike), min_size=1, max_size=3))
    return Session(
        id=draw(texts),
        tenant=draw(texts),
        model=draw(texts),
        model_digest=draw(texts),
        snapshot=draw(snapshots(*alike)),
        history=History(tuple(checkpoints), draw(st.binary(max_size=40)), draw(st.sampled_from(["<u1", "<u2", "<u4"]))),
        version=draw(unsigned),
        created=draw(moments),
        updated=draw(moments),
        time_to_live=timedelta(microseconds=draw(st.integers(1, 10**15))),
        expires=draw(moments),
        origin=draw(st.none() | st.builds(Origin, texts, unsigned)),
        call=draw(st.none() | st.builds(Call, texts, unsigned, unsigned)),
    )


def parts(snapshot: Snapshot) -> tuple[object, ...]:
    """What can be compared; arrays bit for bit, but for the sign of one that is nothing but zeros."""
    learnt = np.zeros(0, np.float32) if snapshot.learnt is None else snapshot.learnt
    state, learnt = (array if array.any() else np.abs(array) for array in (snapshot.state, learnt))
    told = snapshot.pending, snapshot.position, snapshot.seed, snapshot.tail, snapshot.learnt is None
    return state.shape, state.tobytes(), learnt.tobytes(), *told


def all_parts(session: Session) -> tuple[object, ...]:
    history = session.history
    return (
        *(session.key, session.model, session.model_digest, session.version, session.origin, session.call),
        *(session.created, session.updated, session.expires, session.time_to_live),
        *(parts(session.snapshot), [*map(parts, history.checkpoints)], history.tokens, history.kind),
    )


@given(sessions())
def test_a_session_comes_back_as_it_was(session: Session) -> None:
    again = to_session(from_session(session))
    assert all_parts(again) == all_parts(session)
    assert type(again.origin) is type(session.origin)
    assert type(again.call) is type(session.call)


@given(snapshots(), st.dictionaries(st.text(min_size=1).filter(lambda name: name != "snapshot"), texts))
def test_a_snapshot_comes_back_as_it_was(snapshot: Snapshot, fields: dict[str, str]) -> None:
    again, other = to_snapshot(from_snapshot(snapshot, fields))
    assert parts(again) == parts(snapshot)
    assert other == fields


@given(sessions())
def test_a_record_that_was_cut_off_is_none(session: Session) -> None:
    data = from_session(session)
    for length in {0, 1, 7, 8, 9, len(data) // 2, len(data) - 1}:
        with pytest.raises(UnreadableRecord):
            to_session(data[:length])


def one(size: int = 6) -> Session:
    moment = datetime(2026, 1, 1, tzinfo=timezone.utc)
    state = np.arange(2 * 2 * size, dtype=np.float32).reshape(2, 2, size)
    snapshot = Snapshot(state, (3, 4), 12, 5, b"\xe2\x82")
    history = History((Snapshot(np.zeros_like(state), (0,), 0, 5), snapshot), bytes(range(12)), "<u1")
    call = Call("call", 7, 2**63)
    return Session(
        *("id", "tenant", "model", "digest", snapshot, history, 3, moment, moment, timedelta(hours=1), moment),
        *(Origin("other", 1), call),
    )


def test_a_record_of_which_any_bit_flipped_is_none() -> None:
    data = from_session(one())
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UnreadableRecord):
            to_session(bytes(damaged))


def test_a_record_that_was_overwritten_is_none() -> None:
    data, chance = from_session(one()), random.Random(1)
    for _ in range(5000):
        damaged = bytearray(data)
        for _ in range(chance.choice([1, 2, 3, 10])):
            damaged[chance.randrange(len(data))] = chance.choice(b'0123456789{}[]",:-.eEntf\x00\xff')
        if damaged != data:
            with pytest.raises(UnreadableRecord):
                to_session(bytes(damaged))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_record(data: bytes) -> None:
    for read in (to_session, to_snapshot):
        with pytest.raises(UnreadableRecord):
            read(data)


HEADER = struct.Struct("<3sBII")
"""Magic, version, length of the fields, checksum of all that follows."""


def parts_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The fields of a record and its arrays."""
    length = HEADER.unpack_from(data)[2]
    return json.loads(data[HEADER.size :][:length]), data[HEADER.size + length :]


def record_of(text: bytes, arrays: bytes = b"") -> bytes:
    """A record whose checksum is right, whatever it says."""
    return HEADER.pack(b"CLR", 1, len(text), zlib.crc32(text + arrays)) + text + arrays


def with_fields(change: str, value: object) -> bytes:
    """A record of which one field is something else."""
    fields, arrays = parts_of(from_session(one()))
    place: Any = fields
    *path, last = change.split(".")
    for step in path:
        place = place[int(step) if isinstance(place, list) else step]
    place[int(last) if isinstance(place, list) else last] = value
    return record_of(json.dumps(fields).encode(), arrays)


CHANGES = [
    *("id", "tenant", "model", "digest", "version", "origin", "call", "times", "times.0", "time_to_live"),
    *("snapshot", "snapshot.shape", "snapshot.shape.2", "snapshot.zero", "snapshot.pending", "snapshot.pending.0"),
    *("snapshot.position", "snapshot.seed", "snapshot.tail", "checkpoints", "checkpoints.0", "checkpoints.0.shape"),
    *("checkpoints.0.shape.1", "tokens", "tokens.0", "tokens.1"),
]
VALUES: list[Any] = [
    *(None, True, -1, 0, 1.5, math.inf, math.nan, 10**30, 2**62, "", "x", "<u3"),
    *([], [1], [[]], [10**400], {}, {"x": 1}),
]


FORM = {
    *("times", "snapshot", "snapshot.shape", "snapshot.shape.2", "checkpoints.0", "checkpoints.0.shape"),
    *("checkpoints.0.shape.1", "tokens"),
}
"""Fields that say how the others and the arrays are to be read."""


@pytest.mark.parametrize("change", CHANGES)
def test_a_field_of_another_kind_spoils_the_record_or_itself_alone(change: str) -> None:
    whole = by_field(one())
    for value in VALUES:
        try:
            session = to_session(with_fields(change, value))
        except UnreadableRecord:
            continue
        assert change not in FORM, f"read with {value!r}"
        assert by_field(to_session(from_session(session))) == by_field(session)
        field = change.split(".")[0]
        if field not in ("snapshot", "checkpoints"):  # they also say which arrays there are
            assert {**by_field(session), field: None} == {**whole, field: None}


def by_field(session: Session) -> dict[str, object]:
    return {
        "id": session.id,
        "tenant": session.tenant,
        "model": session.model,
        "digest": session.model_digest,
        "version": session.version,
        "origin": session.origin,
        "call": session.call,
        "times": (session.created, session.updated, session.expires),
        "time_to_live": session.time_to_live,
        "snapshot": parts(session.snapshot),
        "checkpoints": [*map(parts, session.history.checkpoints)],
        "tokens": (session.history.kind, session.history.tokens),
    }


def test_a_state_of_zeros_without_end_is_no_state() -> None:
    zeros = Snapshot(np.zeros((2, 2, 8), np.float32), (0,), 0, 5)
    fields, arrays = parts_of(from_snapshot(zeros, {}))
    fields["snapshot"]["shape"] = [2**20, 2**20, 2**20]
    with pytest.raises(UnreadableRecord, match="another form"):
        to_snapshot(record_of(json.dumps(fields).encode(), arrays))


def test_deep_fields_are_no_record() -> None:
    with pytest.raises(UnreadableRecord):
        to_session(record_of(b"[" * 100_000))


def test_another_version_says_which() -> None:
    data = bytearray(from_session(one()))
    data[3] = 9
    with pytest.raises(UnreadableRecord, match="it has version 9, this server reads 1 and 2"):
        to_session(bytes(data))


def test_zeros_take_no_room() -> None:
    session = one(1000)
    zeros = Snapshot(np.zeros((2, 2, 1000), np.float32), (0,), 0, 5)
    assert len(from_snapshot(zeros, {})) < 200
    # Two of three states are written as they are.
    assert 2 * 16_000 < len(from_session(session)) < 2 * 16_000 + 1000


def test_what_a_session_has_learnt_is_another_version_which_earlier_servers_refuse() -> None:
    """They would take it for tokens."""
    snapshot = Snapshot(np.ones((2, 1, 4), np.float32), (0,), 3, 5)
    learnt = replace(snapshot, learnt=np.arange(9, dtype=np.float32))
    assert (from_snapshot(snapshot, {})[3], from_snapshot(learnt, {})[3]) == (1, 2)
    before, changed = one(), replace(one(), snapshot=learnt)
    assert (from_session(before)[3], from_session(changed)[3]) == (1, 2)
    again, _ = to_snapshot(from_snapshot(learnt, {}))
    assert parts(again) == parts(learnt)


@pytest.mark.parametrize("size", [0, -1, 2**14 + 1, 2**40, True, None])
def test_what_has_learnt_more_than_any_session_can_is_no_state(size: object) -> None:
    snapshot = Snapshot(np.ones((2, 1, 4), np.float32), (0,), 3, 5, learnt=np.zeros(9, np.float32))
    fields, arrays = parts_of(from_snapshot(snapshot, {}))
    fields["snapshot"]["learnt"] = [size, False]
    with pytest.raises(UnreadableRecord):
        to_snapshot(record_of(json.dumps(fields).encode(), arrays))
