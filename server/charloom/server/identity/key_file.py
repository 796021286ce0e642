"""The key file: hashes of keys, names of client certificates, and limits of tenants."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import hmac
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    model_validator,
)
from typing_extensions import Self

from charloom.engine.errors import InvalidRequest
from charloom.engine.quotas import HIGHEST_RATE, LOWEST_RATE, Quota
from charloom.engine.sessions.checks import require_id
from charloom.server.identity.replacement import replacement_of
from charloom.server.identity.scopes import Scope
from charloom.server.identity.secret_files import require_secret

PREFIX = "charloom"
"""Keys begin with it, so that scanners for leaked secrets know them."""
SECRET_BYTES, ID_BYTES = 32, 4
FORM = re.compile(f"{PREFIX}_[0-9a-f]{{{2 * ID_BYTES}}}_[0-9a-f]{{{2 * SECRET_BYTES}}}")
"""What all keys look like."""

_NOTHING = "0" * 64


class KeyFileProblem(ValueError):
    """The file cannot be used. The message names it."""


def _as_tenant(name: str) -> str:
    try:
        require_id("tenant", name)
    except InvalidRequest as problem:
        raise ValueError(problem.problem) from None
    return name


Tenant = Annotated[str, AfterValidator(_as_tenant)]
Scopes = Annotated[tuple[Scope, ...], Field(min_length=1)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: Tenant
    """The tenant whose sessions are used."""
    scopes: Scopes


class Key(_Entry):
    """A key, without its secret."""

    id: Annotated[str, Field(pattern=f"^[0-9a-f]{{{2 * ID_BYTES}}}$")]
    """The part of the key that is no secret."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$", repr=False)]
    """SHA-256 of the whole key, in hexadecimal. No slow hash is needed: the key has 256 random bits."""
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None

    def state(self, now: datetime) -> str:
        """One word: "active", "expired" or "revoked"."""
        if self.revoked is not None and now >= self.revoked:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "active"


class Certificate(_Entry):
    """A name in client certificates, with its tenant and scopes."""

    name: Annotated[str, Field(min_length=1, max_length=512)]
    """A subject alternative name: a host, a URI or an address."""


class TenantLimits(BaseModel):
    """The limits of a tenant; those that are not there are the server's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: Tenant
    sessions: Annotated[StrictInt, Field(ge=1)] | None = None
    session_bytes: Annotated[StrictInt, Field(ge=1)] | None = None
    calls: Annotated[StrictInt, Field(ge=1)] | None = None
    tokens_per_second: Annotated[float, Field(ge=LOWEST_RATE, le=HIGHEST_RATE, strict=True)] | None = None
    prompt_characters: Annotated[StrictInt, Field(ge=1)] | None = None

    def over(self, default: Quota) -> Quota:
        """These limits, and of the others those of `default`."""
        return replace(default, **self.model_dump(exclude={"tenant"}, exclude_none=True))


class KeyFile(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    keys: tuple[Key, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    limits: tuple[TenantLimits, ...] = ()

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        for what, names in (
            ("keys with the id", [key.id for key in self.keys]),
            ("certificates with the name", [one.name for one in self.certificates]),
            ("sets of limits of the tenant", [one.tenant for one in self.limits]),
        ):
            twice = next((name for name, times in Counter(names).items() if times > 1), None)
            if twice is not None:
                raise ValueError(f"there are two {what} {twice}; remove one")
        return self

    @functools.cached_property
    def _keys(self) -> Mapping[str, Key]:
        return {key.id: key for key in self.keys}

    @functools.cached_property
    def _certificates(self) -> Mapping[str, Certificate]:
        return {one.name: one for one in self.certificates}

    @functools.cached_property
    def _limits(self) -> Mapping[str, TenantLimits]:
        return {one.tenant: one for one in self.limits}

    def limits_of(self, tenant: str) -> TenantLimits | None:
        """The limits of a tenant; None where it has none of its own."""
        return self._limits.get(tenant)

    def key(self, text: str) -> Key | None:
        """Find the key with this text, whatever its state; the comparison takes constant time."""
        known = self._keys.get(text.removeprefix(f"{PREFIX}_").partition("_")[0])
        found = hmac.compare_digest(hashed(text), _NOTHING if known is None else known.sha256)
        return known if found else None

    def certificate(self, name: str) -> Certificate | None:
        """Find the entry of a name in a client certificate."""
        return self._certificates.get(name)


def hashed(text: str) -> str:
    """The hash of a key, which is all that is stored of it."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def read_key_file(path: Path) -> KeyFile:
    """What the file holds.

    Raises:
        KeyFileProblem: it cannot be read, everybody can read it, or something in it is wrong.
    """
    try:
        path.stat()
    except FileNotFoundError:
        raise KeyFileProblem(f"there is no file {path}; charloom keys create makes it, with a first key") from None
    except OSError as problem:  # a folder that may not be looked into, for example
        raise KeyFileProblem(f"cannot read {path}: {problem.strerror}") from problem
    require_secret(path, KeyFileProblem)
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise KeyFileProblem(f"cannot read {path}: {problem.strerror}") from problem
    try:
        return KeyFile.model_validate_json(content)
    except ValidationError as problem:
        first = problem.errors(include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise KeyFileProblem(f"{path} is no file of keys: {place + ': ' if place else ''}{said}") from None


def made(tenant: str, scopes: Sequence[Scope], now: datetime, expires: datetime | None) -> tuple[str, Key]:
    """Make a new key; returns its text, which is stored nowhere, and its entry for the file."""
    key_id = secrets.token_hex(ID_BYTES)
    text = f"{PREFIX}_{key_id}_{secrets.token_hex(SECRET_BYTES)}"
    key = Key(id=key_id, sha256=hashed(text), tenant=tenant, scopes=tuple(scopes), created=now, expires=expires)
    return text, key


class KeyFileEditor:
    """Changes the file, by one process at a time; a reader sees the old file or the new one.

    Args:
        path: the file
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.content = KeyFile()
        """Content of the file; assign to it to change the file."""

    @contextmanager
    def editing(self, *, create: bool = False) -> Iterator[KeyFileEditor]:
        """Read the file; at the end of the context write it, unless it failed.

        Raises:
            KeyFileProblem: it cannot be used, or it is not there and is not to be made (`create`).
            OSError: it cannot be written.
        """
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            self.content = KeyFile() if create and not self._path.exists() else read_key_file(self._path)
            before = self.content
            yield self
            if self.content is not before:
                self._write()
                os.fsync(folder)
        finally:
            os.close(folder)

    def _write(self) -> None:
        with replacement_of(self._path) as file:
            if self._path.exists():  # keeps the permission of a group that may read it
                status = self._path.stat()
                os.fchmod(file.fileno(), status.st_mode & 0o777)
                os.fchown(file.fileno(), -1, status.st_gid)
            # Servers of version 0.1 cannot read a file with `limits`, but any other.
            without = set() if self.content.limits else {"limits"}
            content = self.content.model_dump_json(indent=1, exclude_none=True, exclude=without) + "\n"
            file.write(content.encode())


def utc_now() -> datetime:
    """The time, in whole seconds."""
    return datetime.now(timezone.utc).replace(microsecond=0)
