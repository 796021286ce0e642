"""SessionService: sessions as values."""

from __future__ import annotations

from typing import Any

from charloom.engine.sessions.session import Key
from charloom.server.caller import current_caller
from charloom.server.grpc.translation.sessions import (
    from_page,
    from_session,
    to_feeding,
    to_last_id,
    to_page_size,
)
from charloom.server.grpc.translation.text import to_skip_unknown
from charloom.server.grpc.translation.times import from_time, to_time_to_live
from charloom.server.runtime import Runtime
from charloom.server.session_moves import move_session
from charloom.v1 import sessions_pb2, sessions_pb2_grpc


class SessionService(sessions_pb2_grpc.SessionServiceServicer):
    """Makes, changes, copies, moves, seals and deletes sessions."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._engine = runtime.engine
        self._sessions = runtime.engine.sessions

    async def CreateSession(
        self, request: sessions_pb2.CreateSessionRequest, context: Any
    ) -> sessions_pb2.CreateSessionResponse:
        """Make a session."""
        session = await self._sessions.create(
            tenant=current_caller().tenant,
            model=request.model,
            session_id=request.session_id,
            seed=request.seed if request.HasField("seed") else None,
            time_to_live=to_time_to_live(request),
            adaptive=request.adaptive,
        )
        return sessions_pb2.CreateSessionResponse(session=from_session(session))

    async def GetSession(
        self, request: sessions_pb2.GetSessionRequest, context: Any
    ) -> sessions_pb2.GetSessionResponse:
        """Describe a session."""
        session = await self._sessions.get(Key(current_caller().tenant, request.session_id))
        return sessions_pb2.GetSessionResponse(session=from_session(session))

    async def ListSessions(
        self, request: sessions_pb2.ListSessionsRequest, context: Any
    ) -> sessions_pb2.ListSessionsResponse:
        """List a page of sessions."""
        size = to_page_size(request.page_size)
        found = await self._sessions.page(current_caller().tenant, to_last_id(request.page_token), size + 1)
        return from_page(found[:size], more=len(found) > size)

    async def UpdateSession(
        self, request: sessions_pb2.UpdateSessionRequest, context: Any
    ) -> sessions_pb2.UpdateSessionResponse:
        """Renew a session's expiry."""
        session = await self._sessions.renew(Key(current_caller().tenant, request.session_id), to_time_to_live(request))
        return sessions_pb2.UpdateSessionResponse(session=from_session(session))

    async def DeleteSession(
        self, request: sessions_pb2.DeleteSessionRequest, context: Any
    ) -> sessions_pb2.DeleteSessionResponse:
        """Delete a session, and all that it could go back to."""
        session, time = await self._sessions.delete(Key(current_caller().tenant, request.session_id))
        return sessions_pb2.DeleteSessionResponse(session=from_session(session), delete_time=from_time(time))

    async def FeedSession(
        self, request: sessions_pb2.FeedSessionRequest, context: Any
    ) -> sessions_pb2.FeedSessionResponse:
        """Let a session read a text, without generating."""
        expected = request.expected_position if request.HasField("expected_position") else None
        session = await self._engine.reading.feed(to_feeding(request, current_caller().tenant), expected)
        return sessions_pb2.FeedSessionResponse(session=from_session(session))

    async def RewindSession(
        self, request: sessions_pb2.RewindSessionRequest, context: Any
    ) -> sessions_pb2.RewindSessionResponse:
        """Put a session back to an earlier position."""
        session = await self._sessions.rewind(
            Key(current_caller().tenant, request.session_id),
            request.position,
            request.seed if request.HasField("seed") else None,
            request.expected_position if request.HasField("expected_position") else None,
        )
        return sessions_pb2.RewindSessionResponse(session=from_session(session))

    async def MoveSession(
        self, request: sessions_pb2.MoveSessionRequest, context: Any
    ) -> sessions_pb2.MoveSessionResponse:
        """Move a session to another model."""
        session = await move_session(
            self._runtime,
            Key(current_caller().tenant, request.session_id),
            request.model,
            skip_unknown=to_skip_unknown(request.unknown_characters),
            expected_position=request.expected_position if request.HasField("expected_position") else None,
        )
        return sessions_pb2.MoveSessionResponse(session=from_session(session))

    async def ForkSession(
        self, request: sessions_pb2.ForkSessionRequest, context: Any
    ) -> sessions_pb2.ForkSessionResponse:
        """Make sessions that go on from a position of this one."""
        sessions = await self._sessions.fork(
            Key(current_caller().tenant, request.session_id),
            position=request.position if request.HasField("position") else None,
            count=request.count if request.HasField("count") else 1,
            seed=request.seed if request.HasField("seed") else None,
            ids=request.new_session_ids,
            time_to_live=to_time_to_live(request),
        )
        return sessions_pb2.ForkSessionResponse(sessions=[from_session(session) for session in sessions])

    async def BlendSessions(
        self, request: sessions_pb2.BlendSessionsRequest, context: Any
    ) -> sessions_pb2.BlendSessionsResponse:
        """Make a session whose state is the weighted mean of others."""
        tenant = current_caller().tenant
        session = await self._engine.reading.blend(
            [(Key(tenant, source.session_id), source.weight) for source in request.sources],
            Key(tenant, request.session_id),
            request.seed if request.HasField("seed") else None,
            to_time_to_live(request),
        )
        return sessions_pb2.BlendSessionsResponse(session=from_session(session))

    async def ExportSession(
        self, request: sessions_pb2.ExportSessionRequest, context: Any
    ) -> sessions_pb2.ExportSessionResponse:
        """Seal a session's state into a token."""
        key = Key(current_caller().tenant, request.session_id)
        state, expires = await self._sessions.export(key, to_time_to_live(request))
        return sessions_pb2.ExportSessionResponse(state=state, expire_time=from_time(expires))

    async def ImportSession(
        self, request: sessions_pb2.ImportSessionRequest, context: Any
    ) -> sessions_pb2.ImportSessionResponse:
        """Make a session of a sealed token."""
        key = Key(current_caller().tenant, request.session_id)
        session, exact = await self._sessions.import_(request.state, key, to_time_to_live(request))
        return sessions_pb2.ImportSessionResponse(session=from_session(session), exact=exact)
