"""StatusService: what the server does, and has done, in all its processes."""

from __future__ import annotations

import contextlib
from typing import Any

from charloom.engine.errors import StoreUnavailable
from charloom.server.grpc.translation.status import from_engine, together
from charloom.server.runtime import Runtime
from charloom.v1 import status_pb2, status_pb2_grpc

STATUS = "status"
"""The question of a process to all."""


class StatusService(status_pb2_grpc.StatusServiceServicer):
    """Tells the totals of the engines of all processes."""

    def __init__(self, runtime: Runtime) -> None:
        self._engine = runtime.engine
        self._group = runtime.group
        self._group.answer_with(STATUS, self._own)

    async def GetStatus(self, request: status_pb2.GetStatusRequest, context: Any) -> status_pb2.GetStatusResponse:
        """Tell them as they are now; also where the session store does not answer."""
        return together([status_pb2.GetStatusResponse.FromString(said) for said in await self._group.ask_all(STATUS)])

    async def _own(self) -> bytes:
        kept: int | None = None
        with contextlib.suppress(StoreUnavailable):
            kept = await self._engine.sessions.count()
        return from_engine(self._engine, kept).SerializeToString()
