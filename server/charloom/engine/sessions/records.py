"""The records that a store keeps of sessions, one each, encrypted where there are keys.

An encrypted record is a header (magic, version, key id, salt, nonce) and the record, encrypted with AES-256-GCM. Each
record has a key of its own: HMAC-SHA-256 of its salt under the key that the header names. So one key can write a
practically unlimited number of records. The header, the tenant and the session's id are authenticated too: a record
that was moved to another session is refused.
"""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from charloom.engine.errors import StoreUnavailable, shown
from charloom.engine.sessions import record
from charloom.engine.sessions.sealing import key_id
from charloom.engine.sessions.session import Key, Session

_MAGIC, _VERSION = b"CLX", 1
_SALT_BYTES, _NONCE_BYTES = 16, 12
_HEADER = struct.Struct(f"<3sB4s{_SALT_BYTES}s{_NONCE_BYTES}s")


class Unreadable(NamedTuple):
    """Placeholder for a session whose record cannot be read."""

    id: str
    problem: str


class Records:
    """Writes and reads the records of a store.

    Args:
        keys: of `KEY_BYTES` each, the newest first, which encrypts; the sequence may change at any time. Empty: records
            are not encrypted.
        writes_plain: write unencrypted records, and use the keys only to read
    """

    def __init__(self, keys: Sequence[bytes] = (), *, writes_plain: bool = False) -> None:
        self._keys = keys
        self._writes_plain = writes_plain

    def pack(self, session: Session) -> bytes:
        """The record of a session."""
        plain = record.from_session(session)
        if self._writes_plain or not self._keys:
            return plain
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        key, salt, nonce = self._keys[0], os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
        header = _HEADER.pack(_MAGIC, _VERSION, key_id(key), salt, nonce)
        return header + AESGCM(_own_key(key, salt)).encrypt(nonce, plain, _bound_to(header, session.key))

    def unpack(self, key: Key, data: bytes) -> Session:
        """Read a session's record, encrypted or not.

        Raises:
            StoreUnavailable: the record is damaged, belongs to another session, or needs a missing key.
        """
        found = self.read(key, data)
        if isinstance(found, Unreadable):
            raise StoreUnavailable(found.problem)
        return found

    def read(self, key: Key, data: bytes) -> Session | Unreadable:
        """Read a session's record like `unpack`, but return the problem instead of raising."""
        try:
            return record.to_session(self._decrypted(key, data) if data[: len(_MAGIC)] == _MAGIC else data)
        except record.UnreadableRecord as problem:
            return Unreadable(key.id, f"the record of session {shown(key.id)} cannot be read: {problem}")

    def _decrypted(self, whose: Key, data: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if len(data) < _HEADER.size:
            raise record.UnreadableRecord("it was damaged")
        _, version, named, salt, nonce = _HEADER.unpack_from(data)
        if version != _VERSION:
            raise record.UnreadableRecord(f"it has version {version}, this server reads {_VERSION}")
        key = next((key for key in self._keys if key_id(key) == named), None)
        if key is None:
            raise record.UnreadableRecord(
                "it is encrypted with a key that this server lacks; put that back into the file of --sealing-keys"
            )
        header, body = data[: _HEADER.size], data[_HEADER.size :]
        try:
            return AESGCM(_own_key(key, salt)).decrypt(nonce, body, _bound_to(header, whose))
        except InvalidTag:
            raise record.UnreadableRecord("it was damaged, or is another session's") from None


PLAIN = Records()
"""Records without encryption."""


def _own_key(key: bytes, salt: bytes) -> bytes:
    return hmac.digest(key, b"charloom session record" + salt, "sha256")


def _bound_to(header: bytes, whose: Key) -> bytes:
    return header + f"{len(whose.tenant)}:{whose.tenant}:{whose.id}".encode()
