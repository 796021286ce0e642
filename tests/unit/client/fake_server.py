"""A server with canned answers, which remembers what it was asked.

Knows: charloom.v1 and grpc. Does not know: the SDK under test, nor how a real server works.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2, message, timestamp_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from charloom.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
)

PIECES = ("Once ", "upon", " a time")
TEXT = "".join(PIECES)

Answer = Callable[[Any, grpc.ServicerContext], Any]


def session(id: str = "s1", position: int = 0, version: int = 0) -> sessions_pb2.Session:
    return sessions_pb2.Session(
        id=id,
        model="small",
        model_digest="d1",
        position=position,
        version=version,
        seed=2**64 - 1,
        create_time=timestamp_pb2.Timestamp(seconds=1_700_000_000),
        update_time=timestamp_pb2.Timestamp(seconds=1_700_000_001, nanos=500_000_000),
        expire_time=timestamp_pb2.Timestamp(seconds=1_700_000_601),
        time_to_live=duration_pb2.Duration(seconds=600, nanos=250_000_000),
    )


def result(session_id: str = "", seed: int = 42) -> generation_pb2.GenerationResult:
    return generation_pb2.GenerationResult(
        finish_reason=generation_pb2.FINISH_REASON_LENGTH,
        usage=generation_pb2.Usage(prompt_tokens=3, completion_tokens=len(TEXT)),
        timings=generation_pb2.Timings(
            queued=duration_pb2.Duration(nanos=500_000),
            first_token=duration_pb2.Duration(nanos=2_000_000),
            total=duration_pb2.Duration(seconds=2),
        ),
        seed=seed,
        sampling=generation_pb2.Sampling(
            temperature=0.8,
            top_k=0,
            top_p=0.95,
            min_p=0.05,
            repetition_penalty=1.1,
            presence_penalty=0,
            frequency_penalty=0.3,
            logit_bias=[generation_pb2.LogitBias(characters="xyz", bias=-0.7)],
            forbidden_characters="q",
        ),
        max_tokens=len(TEXT),
        model="small",
        model_digest="d1",
        position=3 + len(TEXT),
        session=session(session_id, position=3 + len(TEXT), version=1) if session_id else None,
    )


def model(name: str = "small") -> models_pb2.Model:
    return models_pb2.Model(
        name=name,
        digest="d1",
        unit=models_pb2.UNIT_CHARACTER,
        vocabulary_size=3,
        symbols=["\n", "a", "é"],
        cell="lstm",
        layers=2,
        hidden_size=512,
        parameters=3_300_000,
        decoder="onnx-int8",
        device="cpu",
        state_bytes=8192,
        max_tokens=100_000,
        max_prompt_characters=10_000,
        batch_invariance=models_pb2.BATCH_INVARIANCE_HOLDS,
        validation=[
            models_pb2.Validation(protocol="tail", decoder="checkpoint", nats_per_token=1.4),
            models_pb2.Validation(protocol="tail", decoder="onnx-int8", nats_per_token=1.402),
            models_pb2.Validation(protocol="windows-256", decoder="checkpoint", nats_per_token=1.45),
        ],
    )


def logprobs(text: str, options: generation_pb2.GenerationOptions) -> list[generation_pb2.TokenLogprob]:
    """Of each character of a text, if the options ask for them: a half for each, and half of that for the next one."""

    def alternative(character: str, rank: int) -> generation_pb2.Alternative:
        return generation_pb2.Alternative(symbol=character.encode(), logprob=rank * math.log(0.5))

    def top(character: str) -> list[generation_pb2.Alternative]:
        return [alternative(chr(ord(character) + rank), rank + 1) for rank in range(options.top_logprobs)]

    asked = text if options.logprobs else ""
    return [generation_pb2.TokenLogprob(chosen=alternative(one, 1), top=top(one)) for one in asked]


def stream(request: generation_pb2.GenerateRequest, context: grpc.ServicerContext) -> Iterator[Any]:
    """The usual answer of Generate: some text, then a result without text."""
    options = request.options
    position = 3
    for piece in PIECES:
        position += len(piece)
        yield generation_pb2.GenerateResponse(text=piece, position=position, logprobs=logprobs(piece, options))
    yield generation_pb2.GenerateResponse(position=position, result=result(options.session_id))


def continuation(index: int) -> tuple[str, ...]:
    """The pieces of one of several continuations."""
    return (f"{index}: ", *PIECES[index:])


def several(request: generation_pb2.GenerateRequest, context: grpc.ServicerContext) -> Iterator[Any]:
    """An answer of Generate with `n` continuations: a piece of each in turn, the last one first, then the results."""
    options = request.options
    sources = {index: iter(continuation(index)) for index in reversed(range(options.n))}
    while sources:
        for index, source in list(sources.items()):
            piece = next(source, None)
            if piece is None:
                del sources[index]
                # Several leave the session alone, so their results have none.
                ending = result(options.session_id if options.n == 1 else "", seed=(options.seed or 42) + index)
                yield generation_pb2.GenerateResponse(position=19, index=index, result=ending)
            else:
                yield generation_pb2.GenerateResponse(
                    text=piece, position=19, index=index, logprobs=logprobs(piece, options)
                )


def complete(request: generation_pb2.CompleteRequest, context: grpc.ServicerContext) -> generation_pb2.CompleteResponse:
    """The usual answer of Complete."""
    completion = generation_pb2.Completion(
        text=TEXT, result=result(request.options.session_id), logprobs=logprobs(TEXT, request.options)
    )
    return generation_pb2.CompleteResponse(completions=[completion])


def error_info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="charloom", metadata=metadata)


def abort(context: grpc.ServicerContext, code: grpc.StatusCode, text: str, *details: message.Message) -> NoReturn:
    packed = [any_pb2.Any() for _ in details]
    for one, detail in zip(packed, details, strict=True):
        one.Pack(detail)
    status = status_pb2.Status(code=code.value[0], message=text, details=packed)
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status raises")


def failing(code: grpc.StatusCode, text: str, *details: message.Message) -> Answer:
    """An answer that fails with this status."""

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        abort(context, code, text, *details)

    return answer


class FakeServer:
    """Answers each method with `answers[method]`, and notes the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.remaining: dict[str, float | None] = {}
        self.ended = threading.Event()
        self.answers: dict[str, Answer] = {
            "Generate": lambda request, context: (several if request.options.HasField("n") else stream)(
                request, context
            ),
            "Complete": complete,
            "CreateSession": lambda request, _: sessions_pb2.CreateSessionResponse(
                session=session(request.session_id or "drawn")
            ),
            "GetSession": lambda request, _: sessions_pb2.GetSessionResponse(session=session(request.session_id)),
            "ListSessions": lambda _, __: sessions_pb2.ListSessionsResponse(sessions=[session()]),
            "DeleteSession": lambda request, _: sessions_pb2.DeleteSessionResponse(session=session(request.session_id)),
            "ListModels": lambda _, __: models_pb2.ListModelsResponse(models=[model(), model("other")]),
            "GetModel": lambda request, _: models_pb2.GetModelResponse(model=model(request.name or "small")),
            "Check": lambda _, __: health_pb2.HealthCheckResponse(status="SERVING"),
        }
        self._server = grpc.server(ThreadPoolExecutor(8))
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(_Generation(self), self._server)
        sessions_pb2_grpc.add_SessionServiceServicer_to_server(_Sessions(self), self._server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(_Models(self), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(_Health(self), self._server)
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.calls.append((method, request))
        self.remaining[method] = context.time_remaining()
        return self.answers[method](request, context)

    def asked(self, method: str) -> list[Any]:
        """The requests of one method, in order."""
        return [request for name, request in self.calls if name == method]

    def answer_and_wait(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """An answer of Generate that sends one piece and then nothing until the call ends; sets `ended` then."""
        context.add_callback(self.ended.set)
        yield generation_pb2.GenerateResponse(text=PIECES[0], position=8)
        self.ended.wait(30)

    def stop(self) -> None:
        self.ended.set()
        self._server.stop(None).wait()


class _Generation(generation_pb2_grpc.GenerationServiceServicer):
    def __init__(self, fake: FakeServer) -> None:
        self._fake = fake

    def Generate(self, request: Any, context: grpc.ServicerContext) -> Any:
        yield from self._fake.answer("Generate", request, context)

    def Complete(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._fake.answer("Complete", request, context)


class _Sessions(sessions_pb2_grpc.SessionServiceServicer):
    def __init__(self, fake: FakeServer) -> None:
        self._fake = fake

    def CreateSession(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._fake.answer("CreateSession", request, context)

    def GetSession(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._fake.answer("GetSession", request, context)

    def ListSessions(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._fake.answer("ListSessions", request, context)

    def DeleteSession(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._fake.answer("DeleteSession", request, context)


class _Models(models_pb2_grpc.ModelServiceServicer):
    def __init__(self, fake: FakeServer) -> None:
        self._fake = fake

    def ListModels(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._fake.answer("ListModels", request, context)

    def GetModel(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._fake.answer("GetModel", request, context)


class _Health(health_pb2_grpc.HealthServicer):
    def __init__(self, fake: FakeServer) -> None:
        self._fake = fake

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._fake.answer("Check", request, context)
