"""ClassificationService: labels for texts, whole or as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from charloom.engine.calls.classification import LabelledTexts
from charloom.engine.engine import Engine
from charloom.engine.errors import InvalidRequest
from charloom.server.grpc.message_size import MessageSize
from charloom.server.grpc.services.turn import AT_ONCE, ClientTurn
from charloom.server.grpc.translation.classification import from_labelled
from charloom.v1 import classification_pb2, classification_pb2_grpc


class ClassificationService(classification_pb2_grpc.ClassificationServiceServicer):
    """Gives texts labels."""

    def __init__(self, engine: Engine, turn: ClientTurn, size: MessageSize) -> None:
        self._classifying = engine.classifying
        self._turn = turn
        self._size = size

    async def Classify(
        self, request: classification_pb2.ClassifyRequest, context: Any
    ) -> classification_pb2.ClassifyResponse:
        """Give a text a label."""
        found, model = await self._classifying.classify(request.text, request.model)
        return classification_pb2.ClassifyResponse(
            labelled=from_labelled(found), model=model.name, model_digest=model.digest
        )

    async def ClassifyStream(
        self, requests: AsyncIterator[classification_pb2.ClassifyStreamRequest], context: Any
    ) -> AsyncIterator[classification_pb2.ClassifyStreamResponse]:
        """Tell the label of a text as it comes."""
        start = await self._turn.start(requests)
        text = await self._classifying.begin(start.model)
        try:
            while (request := await self._turn.next(requests)) is not None:
                found = await text.read(self._turn.field(request, "text"))
                yield classification_pb2.ClassifyStreamResponse(labelled=from_labelled(found))
        finally:
            self._classifying.given(text.latest, text.model)

    async def ClassifyMany(
        self, requests: AsyncIterator[classification_pb2.ClassifyManyRequest], context: Any
    ) -> AsyncIterator[classification_pb2.ClassifyManyResponse]:
        """Give many texts labels."""
        start = await self._turn.start(requests)
        many = await self._classifying.many(start.model)
        most = self._size.labelled(many.model.bundle)

        async def answer(request: classification_pb2.ClassifyManyRequest) -> LabelledTexts:
            texts = self._turn.field(request, "texts").texts
            if len(texts) > most:
                raise InvalidRequest(
                    "texts", f"the answer to {len(texts)} could be too large with the labels of this model; give {most}"
                )
            return await many.read(texts)

        async for found in self._turn.answers(requests, answer, AT_ONCE):
            if found.labelled:
                yield classification_pb2.ClassifyManyResponse(labelled=map(from_labelled, found.labelled))
            if found.refused is not None:
                raise found.refused
