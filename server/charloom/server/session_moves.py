"""Moves sessions to other models, for all transports; each move is written to the audit log before it begins."""

from __future__ import annotations

from charloom.engine.errors import shown
from charloom.engine.sessions.session import Key, Session
from charloom.server.runtime import Runtime


async def move_session(
    runtime: Runtime, key: Key, model: str, *, skip_unknown: bool, expected_position: int | None
) -> Session:
    """Move a session; arguments, answer and errors are those of `Moving.move`.

    Raises:
        AuditLogUnavailable: nothing was done.
    """
    await runtime.engine.sessions.get(key)  # a request for a session that does not exist is not audited
    async with runtime.audit.act_of_call("move-session", f"session {shown(key.id)}", of=key.tenant) as more:
        session = await runtime.engine.moving.move(
            key, model, skip_unknown=skip_unknown, expected_position=expected_position
        )
        more |= {"model": session.model, "digest": session.model_digest}
    return session
