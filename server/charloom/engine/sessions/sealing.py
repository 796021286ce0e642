"""Encrypts states as tokens, which only servers with the right key can open, and which nobody can change unnoticed.

A token is a header (magic, version, key id, nonce) and a record encrypted with AES-256-GCM, which authenticates the
header too.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from charloom.engine.clock import from_microseconds, to_microseconds, utc_now
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import (
    SealedStateCorrupt,
    SealedStateExpired,
    SealedStateOfAnotherTenant,
    SealedStateVersion,
)
from charloom.engine.sessions import record

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_MAGIC, _VERSION, _LEARNING = b"CLST", 1, 2
"""Versions of tokens: of ordinary states, and of states that learn."""
_NONCE_BYTES = 12
_HEADER = struct.Struct(f"<4sB4s{_NONCE_BYTES}s")
KEY_BYTES = 32


class SealedState(NamedTuple):
    """The contents of a token."""

    snapshot: Snapshot
    model: str
    model_digest: str
    decoder: str
    """Kind and device of the decoder that made it."""


@dataclass(frozen=True)
class Sealer:
    """Seals with the first key, opens with any.

    Args:
        keys: of `KEY_BYTES` each, the newest first; the sequence may change at any time
        now: the clock
    """

    keys: Sequence[bytes]
    now: Callable[[], datetime] = utc_now

    def seal(self, state: SealedState, tenant: str, time_to_live: timedelta) -> tuple[bytes, datetime]:
        """Make a token for a tenant; returns it with its expiry."""
        key, expires = self.keys[0], self.now() + time_to_live
        fields = {
            "model": state.model,
            "digest": state.model_digest,
            "decoder": state.decoder,
            "tenant": tenant,
            "expires": to_microseconds(expires),
        }
        nonce = os.urandom(_NONCE_BYTES)
        version = _VERSION if state.snapshot.learnt is None else _LEARNING
        header = _HEADER.pack(_MAGIC, version, key_id(key), nonce)
        return header + _cipher(key).encrypt(nonce, record.from_snapshot(state.snapshot, fields), header), expires

    def open(self, token: bytes, tenant: str) -> SealedState:
        """Decrypt a token.

        Raises:
            SealedStateCorrupt, SealedStateVersion, SealedStateExpired, SealedStateOfAnotherTenant: as their names say.
        """
        from cryptography.exceptions import InvalidTag

        if len(token) < _HEADER.size or not token.startswith(_MAGIC):
            raise SealedStateCorrupt("it is no state of this kind, or not all of it")
        _, version, named, nonce = _HEADER.unpack_from(token)
        if version not in (_VERSION, _LEARNING):
            raise SealedStateVersion(version, (_VERSION, _LEARNING))
        key = next((key for key in self.keys if key_id(key) == named), None)
        if key is None:
            raise SealedStateCorrupt("this server lacks the key that it names")
        try:
            plain = _cipher(key).decrypt(nonce, token[_HEADER.size :], token[: _HEADER.size])
            snapshot, fields = record.to_snapshot(plain)
            model, digest, decoder, owner = (str(fields[name]) for name in ("model", "digest", "decoder", "tenant"))
            expires = from_microseconds(fields["expires"])
        except (InvalidTag, record.UnreadableRecord, KeyError, TypeError, ValueError, OverflowError):
            raise SealedStateCorrupt("it is not what was sealed") from None
        if owner != tenant:
            raise SealedStateOfAnotherTenant
        if expires <= self.now():
            raise SealedStateExpired(expires)
        return SealedState(snapshot, model, digest, decoder)


def new_keys() -> list[bytes]:
    """One new random key."""
    return [os.urandom(KEY_BYTES)]


def read_keys(path: Path) -> list[bytes]:
    """Read the keys in a file: one a line, the newest first, `KEY_BYTES` bytes each in base64; '#' begins a comment.

    Raises:
        ValueError: a line is no key, or there is none.
        OSError: the file cannot be read.
    """
    keys = []
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        try:
            key = base64.b64decode(text, validate=True)
        except ValueError:  # not in base64, or not even ASCII
            key = b""
        if len(key) != KEY_BYTES:
            raise ValueError(
                f"{path}, line {number}: not a key of {KEY_BYTES} bytes in base64; "
                f"make one with `head -c {KEY_BYTES} /dev/urandom | base64`"
            )
        keys.append(key)
    if not keys:
        raise ValueError(f"{path}: there is no key in it; make one with `head -c {KEY_BYTES} /dev/urandom | base64`")
    return keys


def key_id(key: bytes) -> bytes:
    """The id of a key, which reveals nothing of the key."""
    return hashlib.sha256(b"charloom key id" + key).digest()[:4]


@functools.lru_cache(maxsize=16)
def _cipher(key: bytes) -> AESGCM:
    # Not at the top: the import is slow, and a server that seals nothing does not need it.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)
