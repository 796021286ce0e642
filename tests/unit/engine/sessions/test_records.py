"""Records of a store: encrypted, bound to their session, readable while their key is there."""

from __future__ import annotations

import base64
import random
import sqlite3
from datetime import datetime, timezone
from pathlib import Path

import pytest

from charloom.engine.errors import StoreUnavailable
from charloom.engine.sessions.record import from_session
from charloom.engine.sessions.records import PLAIN, Records
from charloom.engine.sessions.sealing import new_keys
from charloom.engine.sessions.session import Key, Session
from charloom.engine.sessions.stores.sqlite import SqliteStore
from charloom.server.identity.sealing_keys import SealingKeys
from tests.unit.engine.stores import Place, made

OLD, NEW = new_keys()[0], new_keys()[0]


def new_session(session_id: str) -> Session:
    return made(Place(), session_id, "shop")


SESSION = new_session("one")


def test_an_encrypted_record_is_read_with_its_key_and_looks_like_nothing() -> None:
    records = Records([OLD])
    data = records.pack(SESSION)
    assert from_session(records.unpack(SESSION.key, data)) == from_session(SESSION)
    assert data != records.pack(SESSION)
    for word in (b"snapshot", b"tenant", SESSION.id.encode()):
        assert word in PLAIN.pack(SESSION)
        assert word not in data


def test_records_from_before_the_keys_and_with_older_keys_are_read() -> None:
    both = Records([NEW, OLD])
    for older in (PLAIN, Records([OLD]), Records([OLD], writes_plain=True)):
        assert from_session(both.unpack(SESSION.key, older.pack(SESSION))) == from_session(SESSION)
    assert Records([OLD], writes_plain=True).pack(SESSION) == PLAIN.pack(SESSION)
    with pytest.raises(StoreUnavailable):  # the newest key writes
        Records([OLD]).unpack(SESSION.key, both.pack(SESSION))


@pytest.mark.parametrize("records", [PLAIN, Records([NEW])])
def test_a_record_whose_key_is_gone_says_what_to_do(records: Records) -> None:
    with pytest.raises(StoreUnavailable, match="put that back into the file of --sealing-keys"):
        records.unpack(SESSION.key, Records([OLD]).pack(SESSION))


def test_a_record_of_another_session_or_tenant_is_not_read() -> None:
    records = Records([OLD])
    data = records.pack(SESSION)
    for key in (Key(SESSION.tenant, "two"), Key("other", SESSION.id), Key("", SESSION.tenant + SESSION.id)):
        with pytest.raises(StoreUnavailable, match="or is another session's"):
            records.unpack(key, data)


def test_damage_anywhere_is_noticed() -> None:
    records, chance = Records([OLD]), random.Random(1)
    data = records.pack(SESSION)
    for place in [*range(40), *(chance.randrange(len(data)) for _ in range(60))]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << chance.randrange(8)
        with pytest.raises(StoreUnavailable):
            records.unpack(SESSION.key, bytes(damaged))
    for length in range(0, len(data), 7):
        with pytest.raises(StoreUnavailable):
            records.unpack(SESSION.key, data[:length])


async def test_a_file_keeps_no_text_and_a_key_is_replaced_while_it_is_used(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.touch(mode=0o600)
    file.write_bytes(base64.b64encode(OLD) + b"\n")
    keys = SealingKeys(file)
    path = tmp_path / "sessions.db"
    store = SqliteStore(path, 10, lambda: datetime(2026, 1, 1, tzinfo=timezone.utc), records=Records(keys))
    try:
        await store.add([SESSION])
        file.write_bytes(base64.b64encode(NEW) + b"\n" + base64.b64encode(OLD) + b"\n")
        keys.look()
        await store.add([new_session("two")])
        for name in ("one", "two"):
            assert (await store.get(Key(SESSION.tenant, name))).id == name
    finally:
        await store.close()
    with sqlite3.connect(path) as connection:
        found = [bytes(data) for (data,) in connection.execute("SELECT record FROM records ORDER BY session")]
    connection.close()
    assert all(b"snapshot" not in data for data in found)
    assert Records([OLD]).unpack(SESSION.key, found[0]).id == "one"
    assert Records([NEW]).unpack(Key(SESSION.tenant, "two"), found[1]).id == "two"


def test_a_file_of_keys_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        SealingKeys(tmp_path / "none")
    file = tmp_path / "keys"
    file.write_bytes(base64.b64encode(OLD))
    file.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        SealingKeys(file)
