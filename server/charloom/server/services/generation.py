"""The three services of `charloom.v1`: each method is translation around one call of the engine.

Knows: the generated servicers. Does not know: how errors become statuses, how anything is computed.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

from charloom.engine.engine import Engine
from charloom.engine.errors import InvalidRequest
from charloom.engine.generation import Generation
from charloom.server.translation import (
    from_logprobs,
    from_model,
    from_result,
    from_session,
    to_request,
    to_time_to_live,
)
from charloom.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
)

T = TypeVar("T")
DEFAULT_PAGE, LARGEST_PAGE = 100, 1000


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Generates text."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        """Stream text, then the result."""
        generations = await self._generations(request.options, context)
        replies = [self._replies(generation, index) for index, generation in enumerate(generations)]
        async for reply in replies[0] if len(replies) == 1 else merged(replies):
            yield reply

    async def Complete(self, request: generation_pb2.CompleteRequest, context: Any) -> generation_pb2.CompleteResponse:
        """Gather the text, then answer."""
        generations = await self._generations(request.options, context)
        pieces = await asyncio.gather(*(generation.whole() for generation in generations))
        completions = []
        for generation, piece in zip(generations, pieces, strict=True):
            assert generation.result is not None
            completions.append(
                generation_pb2.Completion(
                    text=piece.text,
                    result=from_result(generation.result),
                    logprobs=from_logprobs(piece.logprobs, generation.vocabulary),
                )
            )
        return generation_pb2.CompleteResponse(completions=completions)

    async def _generations(self, options: generation_pb2.GenerationOptions, context: Any) -> Sequence[Generation]:
        asked = to_request(options)
        if asked.n == 1:
            generations: Sequence[Generation] = [await self._engine.generate(asked)]
        else:
            generations = await self._engine.continuations(asked)
        for generation in generations:
            context.add_done_callback(lambda _, generation=generation: generation.cancel())
        return generations

    @staticmethod
    async def _replies(generation: Generation, index: int) -> AsyncIterator[generation_pb2.GenerateResponse]:
        async for piece in generation:
            reply = generation_pb2.GenerateResponse(text=piece.text, position=piece.position, index=index)
            if piece.logprobs:
                reply.logprobs.extend(from_logprobs(piece.logprobs, generation.vocabulary))
            yield reply
        if generation.result is not None:  # it is None when the client has gone
            result = from_result(generation.result)
            yield generation_pb2.GenerateResponse(position=result.position, result=result, index=index)


async def merged(sources: Sequence[AsyncIterator[T]]) -> AsyncIterator[T]:
    """What several sources yield, as it comes; ends with the last of them, or with the first error."""
    waiting = {asyncio.ensure_future(anext(source)): source for source in sources}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                source = waiting.pop(task)
                try:
                    item = task.result()
                except StopAsyncIteration:
                    continue
                yield item
                waiting[asyncio.ensure_future(anext(source))] = source
    finally:
        for task in waiting:
            task.cancel()


class SessionService(sessions_pb2_grpc.SessionServiceServicer):
    """Manages sessions."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def CreateSession(
        self, request: sessions_pb2.CreateSessionRequest, context: Any
    ) -> sessions_pb2.CreateSessionResponse:
        """Make a session."""
        session = self._engine.create_session(
            model=request.model,
            session_id=request.session_id,
            seed=request.seed if request.HasField("seed") else None,
            time_to_live=to_time_to_live(request),
        )
        return sessions_pb2.CreateSessionResponse(session=from_session(session))

    async def GetSession(
        self, request: sessions_pb2.GetSessionRequest, context: Any
    ) -> sessions_pb2.GetSessionResponse:
        """Describe a session."""
        session = await self._engine.get_session(request.session_id)
        return sessions_pb2.GetSessionResponse(session=from_session(session))

    async def ListSessions(
        self, request: sessions_pb2.ListSessionsRequest, context: Any
    ) -> sessions_pb2.ListSessionsResponse:
        """List a page of sessions."""
        if request.page_size > LARGEST_PAGE:
            raise InvalidRequest("page_size", f"{request.page_size} is not allowed; up to {LARGEST_PAGE}")
        try:
            after = base64.b64decode(request.page_token, altchars=b"-_", validate=True).decode()
        except (binascii.Error, ValueError) as problem:
            raise InvalidRequest(
                "page_token", "this server did not give it; leave it out for the first page"
            ) from problem
        size = request.page_size or DEFAULT_PAGE
        sessions = self._engine.sessions.page(after, size + 1)
        more = len(sessions) > size
        return sessions_pb2.ListSessionsResponse(
            sessions=[from_session(session) for session in sessions[:size]],
            next_page_token=base64.urlsafe_b64encode(sessions[size - 1].id.encode()).decode() if more else "",
        )

    async def DeleteSession(
        self, request: sessions_pb2.DeleteSessionRequest, context: Any
    ) -> sessions_pb2.DeleteSessionResponse:
        """Forget a session."""
        session = await self._engine.delete_session(request.session_id)
        return sessions_pb2.DeleteSessionResponse(session=from_session(session))


class ModelService(models_pb2_grpc.ModelServiceServicer):
    """Describes the models."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def ListModels(self, request: models_pb2.ListModelsRequest, context: Any) -> models_pb2.ListModelsResponse:
        """List the models."""
        models = [from_model(model, self._engine.limits) for model in self._engine.models]
        return models_pb2.ListModelsResponse(models=models)

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Any) -> models_pb2.GetModelResponse:
        """Describe a model."""
        model = from_model(self._engine.model(request.name), self._engine.limits)
        return models_pb2.GetModelResponse(model=model)
