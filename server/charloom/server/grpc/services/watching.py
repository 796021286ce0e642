"""WatchingService: which lines of logs are unlike those before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from charloom.engine.engine import Engine
from charloom.server.caller import current_caller
from charloom.server.grpc.services.turn import ClientTurn
from charloom.server.grpc.translation.watching import from_verdicts, to_lines, to_watch
from charloom.v1 import watching_pb2, watching_pb2_grpc


class WatchingService(watching_pb2_grpc.WatchingServiceServicer):
    """Watches."""

    def __init__(self, engine: Engine, turn: ClientTurn) -> None:
        self._engine = engine
        self._turn = turn

    async def Watch(
        self, requests: AsyncIterator[watching_pb2.WatchRequest], context: Any
    ) -> AsyncIterator[watching_pb2.WatchResponse]:
        """Judge lines as they come."""
        start = await self._turn.start(requests)
        watch = await self._engine.watching.begin(to_watch(start, current_caller().tenant))
        try:
            while (request := await self._turn.next(requests)) is not None:
                verdicts = await watch.read(to_lines(self._turn.field(request, "lines")))
                yield from_verdicts(verdicts, watch.silent(), start)
        finally:
            await watch.end()
