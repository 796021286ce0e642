"""The Open Inference Protocol, for clients of Triton and KServe."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc

from charloom import inference
from charloom.engine.call_end import CallEnd
from charloom.engine.errors import EngineError
from charloom.engine.telemetry import CallRecord, current_call
from charloom.server.admission import Admission
from charloom.server.codes import OK
from charloom.server.grpc.caller import arrival_of
from charloom.server.grpc.errors import failure_of
from charloom.server.grpc.services.turn import ClientTurn
from charloom.server.grpc.translation.inference import from_model, from_piece, to_inference
from charloom.server.identity.scopes import METHODS
from charloom.server.inference.inference import EXTENSIONS, Inference
from charloom.server.telemetry.calls import tell_deadline

MOST_AT_ONCE = 64
"""Most requests of one stream that run at the same time; further ones are read when one has ended."""
METHOD = f"{inference.SERVICE.full_name}/ModelInfer"
"""Their method in records: each request counts as a call of its own."""
FINAL = "triton_final_response"
"""The parameter that is true in the last response to a request of a stream."""


class InferenceService:
    """Serves the models by the protocol.

    Args:
        answers: answers requests, for all transports
        turn: waits for the requests of a stream
        admission: lets each request of a stream in
    """

    def __init__(self, answers: Inference, turn: ClientTurn, admission: Admission) -> None:
        self._answers = answers
        self._turn = turn
        self._admission = admission

    def handler(self) -> grpc.GenericRpcHandler:
        """The handler of its methods; there are no stubs, because its messages are in a pool of their own."""
        handlers = {}
        for name, method in inference.SERVICE.methods_by_name.items():
            read = getattr(inference, method.input_type.name).FromString
            write = getattr(inference, method.output_type.name).SerializeToString
            make = (
                grpc.stream_stream_rpc_method_handler
                if method.client_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            handlers[name] = make(getattr(self, name), read, write)
        return grpc.method_handlers_generic_handler(inference.SERVICE.full_name, handlers)

    async def ServerLive(self, request: Any, context: Any) -> Any:
        """Whether the server runs: it does."""
        return inference.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        """Whether it takes calls."""
        return inference.ServerReadyResponse(ready=self._answers.ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        """Whether a model takes calls."""
        try:
            model = self._answers.model(request.name, request.version)
        except EngineError:
            return inference.ModelReadyResponse(ready=False)
        return inference.ModelReadyResponse(ready=self._answers.model_ready(model))

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        """Describe the server."""
        version = importlib.metadata.version("charloom")
        return inference.ServerMetadataResponse(name="charloom", version=version, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        """Describe a model."""
        return from_model(self._answers.model(request.name, request.version))

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        """List the models, including those that drain."""
        response = inference.RepositoryIndexResponse()
        for listed in self._answers.index(ready=request.ready):
            response.models.add(**vars(listed))
        return response

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Answer with the whole text."""
        return from_piece(await self._answers.whole(to_inference(request)), request)

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answer requests as they come. Those of one sequence are answered one after another, all others at once."""
        stream = _Stream(self._answers, self._admission, context)
        reading = asyncio.ensure_future(stream.read(requests, self._turn))
        try:
            while (response := await stream.next(reading)) is not None:
                yield response
        finally:
            reading.cancel()
            stream.close()


class _Stream:
    """The requests of a ModelStreamInfer that run, and their responses."""

    def __init__(self, answers: Inference, admission: Admission, context: Any) -> None:
        self._answers = answers
        self._admission = admission
        self._context = context
        self._arrival = arrival_of(context, admission)
        self._responses: asyncio.Queue[Any] = asyncio.Queue(1)
        """Short, so that a client that does not read holds up its own requests."""
        self._places = asyncio.Semaphore(MOST_AT_ONCE)
        self._running: set[asyncio.Task[None]] = set()
        self._last: dict[str, asyncio.Task[None]] = {}
        """By sequence: the task of the request that came last."""

    async def read(self, requests: AsyncIterator[Any], turn: ClientTurn) -> None:
        """Begin the requests, until there are no more.

        Raises:
            Draining: no request is running, and the server stops.
            ClientIdle: no request is running, and the client sends nothing.
        """
        while True:
            await self._places.acquire()
            coming: asyncio.Future[Any] = asyncio.ensure_future(anext(requests, None))
            try:
                while self._running and not coming.done():
                    await asyncio.wait([coming, *self._running], return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    await turn.wait(coming)
                request = coming.result()
            finally:
                coming.cancel()
            if request is None:
                break
            self._begin(request)
        await asyncio.gather(*self._running)

    async def next(self, reading: asyncio.Future[None]) -> Any | None:
        """Return the next response; None if no more will come.

        Raises:
            as `read`.
        """
        response: asyncio.Future[Any] = asyncio.ensure_future(self._responses.get())
        try:
            await asyncio.wait([response, reading], return_when=asyncio.FIRST_COMPLETED)
            if response.done():
                return response.result()
        finally:
            response.cancel()
        reading.result()
        return None if self._responses.empty() else self._responses.get_nowait()

    def close(self) -> None:
        """End all requests that still run: the client has gone, or has all responses."""
        for task in self._running:
            task.cancel()

    def _begin(self, request: Any) -> None:
        sequence = _sequence_of(request)
        task = asyncio.ensure_future(self._answer(request, self._last.get(sequence)))
        self._running.add(task)
        if sequence:
            self._last[sequence] = task

        def over(done: asyncio.Task[None]) -> None:
            self._running.discard(done)
            self._places.release()
            if self._last.get(sequence) is done:
                del self._last[sequence]

        task.add_done_callback(over)

    async def _answer(self, request: Any, before: asyncio.Task[None] | None) -> None:
        """Answer a request, once the one before it has ended."""
        if before is not None:
            await asyncio.wait([before])
        end = CallEnd()
        try:
            self._let_in(request, end)
            async for piece in self._answers.pieces(to_inference(request)):
                response = from_piece(piece, request)
                response.parameters[FINAL].bool_param = piece.final
                await self._responses.put(inference.ModelStreamInferResponse(infer_response=response))
            current_call().code = OK
        except Exception as problem:
            await self._responses.put(_failed(request, failure_of(problem).message))
        finally:
            end.come()

    def _let_in(self, request: Any, end: CallEnd) -> None:
        """Begin the call for one request; its resources are released when it ends, not when the stream ends."""

        def begun(record: CallRecord) -> None:
            end.add(lambda: tell_deadline(record, self._context.time_remaining()))

        arrival = replace(self._arrival, request_ids=(request.id,) if request.id else ())
        self._admission.begin(METHOD, METHODS[METHOD], arrival, end.add, begun)


def _sequence_of(request: Any) -> str:
    """The sequence that a request names; empty if it names none."""
    if "sequence_id" not in request.parameters:
        return ""
    named = request.parameters["sequence_id"]
    kind = named.WhichOneof("parameter_choice")
    return str(getattr(named, kind) or "") if kind else ""


def _failed(request: Any, problem: str) -> Any:
    """The response that names a request and its error."""
    response = inference.ModelStreamInferResponse(error_message=problem)
    response.infer_response.id = request.id
    response.infer_response.model_name = request.model_name
    response.infer_response.parameters[FINAL].bool_param = True
    return response
