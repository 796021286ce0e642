"""Moves sessions to other models for whoever calls, however the call arrives; the audit log has it first."""

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
    await runtime.engine.sessions.get(key)  # whoever asks for sessions that are not there adds nothing to the audit log
    async with runtime.audit.act_of_call("move-session", f"session {shown(key.id)}", of=key.tenant) as more:
        session = await runtime.engine.moving.move(
            key, model, skip_unknown=skip_unknown, expected_position=expected_position
        )
        more |= {"model": session.model, "digest": session.model_digest}
    return session
