"""What is written today for servers of an earlier version is, byte for byte, what that version wrote itself."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from charloom.engine.clock import from_microseconds
from charloom.engine.sessions import record, sealing
from charloom.engine.sessions.records import Records
from charloom.engine.sessions.sealing import Sealer, read_keys
from tests.unit.engine.test_written_before import FOLDER, an_hour_later

KEYS = read_keys(FOLDER / "sealing-keys")
TOKEN = (FOLDER / "session.token").read_bytes()


def plain(token: bytes) -> bytes:
    """What a sealed token holds."""
    size = sealing._HEADER.size
    nonce = sealing._HEADER.unpack_from(token)[-1]
    return sealing._cipher(KEYS[0]).decrypt(nonce, token[size:], token[:size])


def test_records_that_are_not_encrypted_are_those_of_0_1(tmp_path: Path) -> None:
    copy = shutil.copy(FOLDER / "sessions.sqlite", tmp_path)  # also who only reads it writes files beside it
    with closing(sqlite3.connect(copy)) as file:
        found = [bytes(row[0]) for row in file.execute("SELECT record FROM records")]
    stored = json.loads((FOLDER / "redis.json").read_text("utf-8"))
    found += [base64.b64decode(content["record"]) for name, (_, _, content) in stored.items() if ":session:" in name]
    assert len(found) == 4
    for data in found:
        assert Records(KEYS, writes_plain=True).pack(record.to_session(data)) == data


def test_tokens_are_those_of_0_1() -> None:
    expires = from_microseconds(record.to_snapshot(plain(TOKEN))[1]["expires"])
    state = Sealer(KEYS, an_hour_later).open(TOKEN, "")
    again, until = Sealer(KEYS, an_hour_later).seal(state, "", expires - an_hour_later())
    assert until == expires
    assert plain(again) == plain(TOKEN)
    assert again[:9] == TOKEN[:9]  # magic, version and the name of the key
