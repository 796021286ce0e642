"""Texts and states of an engine's sessions, to be compared."""

from __future__ import annotations

import numpy as np

from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.engine import Engine
from charloom.engine.sessions.session import Session


async def text_of(engine: Engine, session: Session | None, length: int, **options: object) -> str:
    request = GenerationRequest(session_id=session.id if session else "", max_tokens=length, **options)  # type: ignore[arg-type]
    return (await (await engine.generating.generate(request)).whole()).text


async def now(engine: Engine, session: Session) -> Session:
    return await engine.sessions.get(session.key)


def same(one: Snapshot, other: Snapshot) -> bool:
    return np.array_equal(one.state, other.state) and (one.pending, one.position, one.seed) == (
        other.pending,
        other.position,
        other.seed,
    )
