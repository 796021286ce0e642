"""SuggestingService: which texts are probable after a state, without changing a session."""

from __future__ import annotations

from typing import Any

from charloom.engine.engine import Engine
from charloom.server.caller import current_caller
from charloom.server.grpc.translation.suggesting import from_ranking, from_suggestions, to_start, to_suggestion
from charloom.v1 import suggesting_pb2, suggesting_pb2_grpc


class SuggestingService(suggesting_pb2_grpc.SuggestingServiceServicer):
    """Ranks and suggests."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Rank(self, request: suggesting_pb2.RankRequest, context: Any) -> suggesting_pb2.RankResponse:
        """Tell how probable each of some texts is."""
        start = to_start(request.start, current_caller().tenant)
        return from_ranking(await self._engine.suggesting.rank(start, request.candidates))

    async def Suggest(self, request: suggesting_pb2.SuggestRequest, context: Any) -> suggesting_pb2.SuggestResponse:
        """Find the most probable texts."""
        asked = to_suggestion(request, current_caller().tenant)
        return from_suggestions(await self._engine.suggesting.suggest(asked), asked.width)
