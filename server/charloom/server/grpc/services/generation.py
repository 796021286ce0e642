"""GenerationService: text, as a stream or at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from charloom.engine.calls.generation import Continuation, TextDelta
from charloom.engine.engine import Engine
from charloom.server.admission import Admission
from charloom.server.caller import current_caller
from charloom.server.continuations import begin_continuations
from charloom.server.grpc.caller import arrival_of
from charloom.server.grpc.message_size import MessageSize
from charloom.server.grpc.services.many_calls import ManyCalls, Turns
from charloom.server.grpc.translation.encoded import Answer, encoded, encoded_item, encoded_parts
from charloom.server.grpc.translation.generation import from_delta, from_result, to_request
from charloom.server.merged import merged
from charloom.server.settings import ServerSettings
from charloom.v1 import generation_pb2, generation_pb2_grpc


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Generates text, statelessly or as a session's next part."""

    def __init__(self, engine: Engine, size: MessageSize, admission: Admission, settings: ServerSettings) -> None:
        self._engine = engine
        self._size = size
        self._admission = admission
        self._settings = settings
        self._turns = Turns()

    async def Generate(self, request: generation_pb2.GenerateRequest, context: Any) -> AsyncIterator[Answer]:
        """Stream the text of each continuation, then its result."""
        async for reply in await self._answers(request):
            yield reply

    async def GenerateMany(
        self, requests: AsyncIterator[generation_pb2.GenerateManyRequest], context: Any
    ) -> AsyncIterator[Answer]:
        """Stream the answers of all calls that the client begins on this stream."""
        admission, settings = self._admission, self._settings
        arrival = arrival_of(context, admission)
        calls = ManyCalls(
            admission,
            arrival,
            self._answers,
            self._turns,
            self._engine.draining,
            settings.idle_seconds,
            settings.max_streams,
            self._engine.budget,
        )
        async with contextlib.aclosing(calls.messages(requests)) as messages:
            async for message in messages:
                yield message

    async def _answers(self, request: generation_pb2.GenerateRequest) -> AsyncGenerator[Answer, None]:
        resumed = request.HasField("resume_position")
        asked = to_request(
            request.options,
            current_caller().tenant,
            call_id=request.call_id,
            resume_position=request.resume_position if resumed else None,
            model_digest=request.model_digest if resumed else "",
        )
        generations = await begin_continuations(self._engine, asked)
        replies = [_replies(generation, index) for index, generation in enumerate(generations)]
        return replies[0] if len(replies) == 1 else merged(replies)

    async def Complete(self, request: generation_pb2.CompleteRequest, context: Any) -> Answer:
        """Answer with all continuations once they are complete."""
        options = request.options
        most = self._size.continuations(options, options.top_logprobs if options.logprobs else None)
        asked = to_request(options, current_caller().tenant, most_tokens=most)
        generations = await begin_continuations(self._engine, asked)
        pieces = await asyncio.gather(*(generation.whole() for generation in generations))
        answer: list[bytes] = []
        for generation in generations:
            piece = pieces.pop(0)  # frees each piece once it is in the answer
            assert generation.result is not None
            completion = generation_pb2.Completion(text=piece.text, result=from_result(generation.result))
            answer += encoded_item(await encoded_parts(completion, piece.logprobs, generation.vocabulary))
        return b"".join(answer)


async def _replies(generation: Continuation, index: int) -> AsyncGenerator[Answer, None]:
    """The messages of continuation number `index`: the first has the model's digest, the last its result."""
    digest = generation.model.digest
    async for delta in generation:
        result = generation.result
        reply = from_delta(delta, index, result, digest)
        digest = ""
        yield await encoded(reply, delta.logprobs, generation.vocabulary) if delta.logprobs else reply
        if result is not None:
            return
    if (result := generation.result) is not None:  # it is None when the client has gone
        nothing = TextDelta("", result.finish.snapshot.position)
        yield from_delta(nothing, index, result, digest)
