"""WatchingService: which lines of logs are unlike those before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from charloom.engine.engine import Engine
from charloom.engine.errors import InvalidRequest
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
        first = await self._turn.next(requests)
        if first is None or not first.HasField("start"):
            raise InvalidRequest("start", "the first message has to carry it")
        watch = await self._engine.watching.begin(to_watch(first.start, current_caller().tenant))
        try:
            while (request := await self._turn.next(requests)) is not None:
                if not request.HasField("lines"):
                    raise InvalidRequest("lines", "each message but the first has to carry them")
                verdicts = await watch.read(to_lines(request.lines))
                yield from_verdicts(verdicts, watch.silent(), first.start)
        finally:
            await watch.end()
