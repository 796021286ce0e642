"""ReadingService: what a model makes of a text, without changing a session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from charloom.engine.call_end import at_end_of_call
from charloom.engine.calls.reading import ScoredTexts
from charloom.engine.engine import Engine
from charloom.server.caller import current_caller
from charloom.server.grpc.message_size import MessageSize
from charloom.server.grpc.services.turn import AT_ONCE, ClientTurn
from charloom.server.grpc.translation.encoded import Answer, encoded
from charloom.server.grpc.translation.generation import to_request
from charloom.server.grpc.translation.reading import from_inspected, from_score, from_scores, to_inspection, to_reading
from charloom.v1 import reading_pb2, reading_pb2_grpc


class ReadingService(reading_pb2_grpc.ReadingServiceServicer):
    """Scores, peeks, observes and inspects."""

    def __init__(self, engine: Engine, turn: ClientTurn, size: MessageSize) -> None:
        self._engine = engine
        self._size = size
        self._turn = turn

    async def Score(self, request: reading_pb2.ScoreRequest, context: Any) -> Answer:
        """Tell how probable a text is."""
        most = self._size.logprobs(request.top_logprobs)
        asked = replace(to_reading(request, current_caller().tenant), text=request.text, most_tokens=most)
        scored, vocabulary = await self._engine.reading.score(asked)
        return await encoded(from_score(scored, vocabulary), scored.logprobs, vocabulary)

    async def ScoreMany(
        self, requests: AsyncIterator[reading_pb2.ScoreManyRequest], context: Any
    ) -> AsyncIterator[reading_pb2.ScoreManyResponse]:
        """Tell how probable many texts are."""
        start = await self._turn.start(requests)
        scores = await self._engine.reading.score_many(to_reading(start, current_caller().tenant))

        async def answer(request: reading_pb2.ScoreManyRequest) -> ScoredTexts:
            return await scores.read(self._turn.field(request, "texts").texts)

        async for found in self._turn.answers(requests, answer, AT_ONCE):
            if found.scored:
                yield from_scores(found.scored, scores.model.vocabulary)
            if found.refused is not None:
                raise found.refused

    async def Peek(self, request: reading_pb2.PeekRequest, context: Any) -> Answer:
        """Tell what would come next."""
        most = self._size.continuations(request.options, request.top)
        asked = to_request(request.options, current_caller().tenant, most_tokens=most)
        generation = await self._engine.generating.peek(asked, request.top)
        at_end_of_call(generation.cancel)
        piece = await generation.whole()
        assert generation.result is not None
        finish = generation.result.finish
        position = piece.position - finish.generated
        answer = reading_pb2.PeekResponse(text=piece.text, position=position, allowed_logprob=finish.allowed)
        return await encoded(answer, piece.logprobs, generation.vocabulary, "distributions")

    async def Observe(self, requests: AsyncIterator[reading_pb2.ObserveRequest], context: Any) -> AsyncIterator[Answer]:
        """Tell how surprising text is, as it comes."""
        start = await self._turn.start(requests)
        most = self._size.logprobs(start.top_logprobs)
        asked = replace(to_reading(start, current_caller().tenant), most_tokens=most)
        observation = await self._engine.reading.observe(asked)
        try:
            while (request := await self._turn.next(requests)) is not None:
                reading = await observation.read(self._turn.field(request, "text"))
                answer = reading_pb2.ObserveResponse(position=reading.position)
                yield await encoded(answer, reading.logprobs, observation.model.vocabulary)
        finally:
            await observation.end()

    async def Inspect(
        self, request: reading_pb2.InspectRequest, context: Any
    ) -> AsyncIterator[reading_pb2.InspectResponse]:
        """Show what each token of a text does inside the network."""
        inspection = await self._engine.inspections.inspect(to_inspection(request, current_caller().tenant))
        async for token in inspection.tokens:
            yield from_inspected(token, inspection.layers, inspection.model.bundle)
