"""Sealed tokens whose key is right and whose fields are not."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import SealedStateCorrupt, SealedStateVersion
from charloom.engine.sessions import record, sealing
from charloom.engine.sessions.sealing import SealedState, Sealer, new_keys

FIELDS = {"model": "m", "digest": "d", "decoder": "k", "tenant": "shop", "expires": 2**52}
SNAPSHOT = Snapshot(np.ones((2, 1, 4), np.float32), (0,), 3, 5)


def token(key: bytes, fields: dict[str, Any]) -> bytes:
    nonce = os.urandom(sealing._NONCE_BYTES)
    header = sealing._HEADER.pack(sealing._MAGIC, sealing._VERSION, sealing.key_id(key), nonce)
    return header + sealing._cipher(key).encrypt(nonce, record.from_snapshot(SNAPSHOT, fields), header)


def test_the_fields_of_a_token_are_read() -> None:
    keys = new_keys()
    assert Sealer(keys).open(token(keys[0], FIELDS), "shop").model_digest == "d"


@pytest.mark.parametrize("change", [*({name: None} for name in FIELDS), {"expires": "x"}, {"expires": 10**400}])
def test_a_field_that_is_missing_or_of_another_kind_makes_no_state(change: dict[str, Any]) -> None:
    keys = new_keys()
    fields = {name: value for name, value in {**FIELDS, **change}.items() if value is not None}
    with pytest.raises(SealedStateCorrupt):
        Sealer(keys).open(token(keys[0], fields), "shop")


def test_a_state_that_learns_is_sealed_as_another_version() -> None:
    """A server from before says that it does not know it."""
    sealer = Sealer(new_keys())
    for learnt, version in ((None, 1), (np.arange(5, dtype=np.float32), 2)):
        state = SealedState(replace(SNAPSHOT, learnt=learnt), "m", "d", "k")
        sealed, _ = sealer.seal(state, "shop", timedelta(hours=1))
        assert sealed[4] == version
        found = sealer.open(sealed, "shop").snapshot.learnt
        assert (found is None) if learnt is None else np.array_equal(found, learnt)
    unknown = bytearray(sealed)
    unknown[4] = 3
    with pytest.raises(SealedStateVersion, match=r"has version 3, this server opens versions 1 and 2$"):
        sealer.open(bytes(unknown), "shop")
