"""StatusService: what the server does, and has done."""

from __future__ import annotations

import contextlib
from typing import Any

from charloom.engine.engine import Engine
from charloom.engine.errors import StoreUnavailable
from charloom.server.grpc.translation.status import from_engine
from charloom.v1 import status_pb2, status_pb2_grpc


class StatusService(status_pb2_grpc.StatusServiceServicer):
    """Tells the totals of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def GetStatus(self, request: status_pb2.GetStatusRequest, context: Any) -> status_pb2.GetStatusResponse:
        """Tell them as they are now; also where the session store does not answer."""
        kept: int | None = None
        with contextlib.suppress(StoreUnavailable):
            kept = await self._engine.sessions.count()
        return from_engine(self._engine, kept)
