"""Descriptions and states of sessions: plain frozen values that know neither gRPC nor protobuf."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a session comes from."""

    session_id: str | None
    """The session that it was forked from; `None` for one that was blended or imported."""

    position: int
    """The position that it began at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionInfo:
    """A session as the server described it last."""

    id: str
    """Identifies the session on its server."""

    model: str
    """Name of its model."""

    model_digest: str
    """Digest of its model."""

    position: int
    """Tokens fed and generated since the state was zero."""

    version: int
    """Counts the changes of the session, from 0."""

    seed: int
    """Seed of its random numbers."""

    create_time: datetime
    """When it was made, in UTC."""

    update_time: datetime
    """When it was last changed, in UTC."""

    expire_time: datetime
    """When it will be forgotten unless it is used, in UTC."""

    time_to_live: float
    """Every use puts `expire_time` this many seconds into the future."""

    earliest_position: int
    """The earliest position that it can be taken back to, or forked at."""

    origin: Origin | None
    """Where it comes from; `None` if it began from the zero state."""

    adaptive: bool
    """Whether it learns from its text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeletionReceipt:
    """What was forgotten, and when."""

    session: SessionInfo
    """The session as it was."""

    deleted: datetime
    """When it was forgotten, in UTC."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedState:
    """A session's state, encrypted: any server with the same key and model can continue from it."""

    state: bytes = field(repr=False)
    """The encrypted bytes, for `import_session` and the option `state`."""

    expires: datetime
    """When it can no longer be used, in UTC."""


class Opened(NamedTuple):
    """The server's answer when a session is opened."""

    info: SessionInfo
    restored_exactly: bool | None = None
    """Whether the text continues bit for bit as on the server that exported the state; `None` without an import."""


NOT_MADE = "this session is not known yet: it is made by the first text that it generates, and told of at its end"
"""Error for reading `info` of a session that its first generation has not made yet."""


class NewSession(NamedTuple):
    """A session that its first generation makes."""

    id: str
    model: str | None
    seed: int | None
    time_to_live: float | None
    adaptive: bool
