"""A server with canned answers, which remembers what it was asked."""

from __future__ import annotations

import asyncio
import functools
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import message, timestamp_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from charloom.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    conversation_pb2,
    conversation_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    reading_pb2,
    reading_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
    suggesting_pb2,
    suggesting_pb2_grpc,
    watching_pb2,
    watching_pb2_grpc,
)
from tests.unit.client.fake_answers import (
    PIECES,
    Answer,
    classify_many,
    classify_stream,
    converse,
    forks,
    inspect,
    labelled,
    model,
    observe,
    peek,
    rank,
    score,
    score_many,
    session,
    several,
    stream,
    watch,
)
from tests.unit.client.fake_many_calls import many_calls

SERVICES = {
    generation_pb2: (generation_pb2_grpc, "GenerationService"),
    sessions_pb2: (sessions_pb2_grpc, "SessionService"),
    reading_pb2: (reading_pb2_grpc, "ReadingService"),
    classification_pb2: (classification_pb2_grpc, "ClassificationService"),
    suggesting_pb2: (suggesting_pb2_grpc, "SuggestingService"),
    conversation_pb2: (conversation_pb2_grpc, "ConversationService"),
    models_pb2: (models_pb2_grpc, "ModelService"),
    watching_pb2: (watching_pb2_grpc, "WatchingService"),
    health_pb2: (health_pb2_grpc, "Health"),
}


class FakeServer:
    """Answers each method with `answers[method]`, and notes the calls."""

    def __init__(self, address: str = "127.0.0.1:0", options: Sequence[tuple[str, int]] = ()) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.remaining: dict[str, float | None] = {}
        self.headers: dict[str, dict[str, Any]] = {}
        self.ended = threading.Event()
        self.answers: dict[str, Answer] = {
            "Generate": lambda request, context: (several if request.options.HasField("n") else stream)(
                request, context
            ),
            "GenerateMany": many_calls(functools.partial(self.answer, "Generate")),
            "CreateSession": lambda request, _: sessions_pb2.CreateSessionResponse(
                session=session(request.session_id or "drawn")
            ),
            "GetSession": lambda request, _: sessions_pb2.GetSessionResponse(session=session(request.session_id)),
            "ListSessions": lambda _, __: sessions_pb2.ListSessionsResponse(sessions=[session()]),
            "UpdateSession": lambda request, _: sessions_pb2.UpdateSessionResponse(
                session=session(request.session_id, version=2)
            ),
            "DeleteSession": lambda request, _: sessions_pb2.DeleteSessionResponse(
                session=session(request.session_id), delete_time=timestamp_pb2.Timestamp(seconds=1_700_000_002)
            ),
            "FeedSession": lambda request, _: sessions_pb2.FeedSessionResponse(
                session=session(request.session_id, position=len(request.text), version=1)
            ),
            "RewindSession": lambda request, _: sessions_pb2.RewindSessionResponse(
                session=session(request.session_id, position=request.position, version=2)
            ),
            "MoveSession": lambda request, _: sessions_pb2.MoveSessionResponse(
                session=session(request.session_id, model=request.model or "small", version=2)
            ),
            "ForkSession": forks,
            "BlendSessions": lambda request, _: sessions_pb2.BlendSessionsResponse(
                session=session(request.session_id or "blend", position=5)
            ),
            "ExportSession": lambda request, _: sessions_pb2.ExportSessionResponse(
                state=b"\x00sealed\xff", expire_time=timestamp_pb2.Timestamp(seconds=1_700_000_600)
            ),
            "ImportSession": lambda request, _: sessions_pb2.ImportSessionResponse(
                session=session(request.session_id or "imported", position=5), exact=True
            ),
            "Score": score,
            "ScoreMany": score_many,
            "Peek": peek,
            "Observe": observe,
            "Inspect": inspect,
            "Rank": rank,
            "Classify": lambda request, _: classification_pb2.ClassifyResponse(labelled=labelled(request.text)),
            "ClassifyStream": classify_stream,
            "ClassifyMany": classify_many,
            "Suggest": lambda *_: suggesting_pb2.SuggestResponse(
                suggestions=[
                    suggesting_pb2.Suggestion(text="ello", tokens=4, logprob=math.log(0.5), ended=True),
                    suggesting_pb2.Suggestion(text="i there", tokens=7, logprob=math.log(0.25)),
                ],
                beam=16,
                exact=True,
                position=7,
            ),
            "Converse": converse,
            "Watch": watch,
            "ListModels": lambda _, __: models_pb2.ListModelsResponse(models=[model(), model("other")]),
            "GetModel": lambda request, _: models_pb2.GetModelResponse(model=model(request.name or "small")),
            "Check": lambda _, __: health_pb2.HealthCheckResponse(status="SERVING"),
        }
        self._server = grpc.server(ThreadPoolExecutor(8), options=list(options))
        for messages, (stubs, service) in SERVICES.items():
            add: Any = getattr(stubs, f"add_{service}Servicer_to_server")
            add(_servicer(self, messages.DESCRIPTOR.services_by_name[service]), self._server)
        port = self._server.add_insecure_port(address)
        self.target = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        self._server.start()

    def answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        if isinstance(request, message.Message):
            self.calls.append((method, request))
        else:
            request = self._noted(method, request)
        self.remaining[method] = context.time_remaining()
        self.headers[method] = dict(context.invocation_metadata())
        return self.answers[method](request, context)

    def _noted(self, method: str, requests: Iterator[Any]) -> Iterator[Any]:
        for request in requests:
            self.calls.append((method, request))
            yield request

    def asked(self, method: str) -> list[Any]:
        """The requests of one method, in order; of a stream, each of its messages."""
        return [request for name, request in self.calls if name == method]

    async def reached(self, method: str) -> None:
        """Wait until a call has come."""
        for _ in range(3000):
            if self.asked(method):
                break
            await asyncio.sleep(0.01)
        assert self.asked(method)

    def note_end(self, context: grpc.ServicerContext) -> None:
        """Have `ended` set when the call ends, or has ended."""
        if not context.add_callback(self.ended.set):
            self.ended.set()

    def answer_and_wait(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """An answer of Generate that sends one piece and then nothing until the call ends; sets `ended` then."""
        self.note_end(context)
        yield generation_pb2.GenerateResponse(text=PIECES[0], position=8)
        self.ended.wait(120)

    def stop(self) -> None:
        self.ended.set()
        self._server.stop(None).wait()


def _servicer(fake: FakeServer, service: Any) -> Any:
    """Hands every call of a service on to the fake."""

    def one(name: str) -> Any:
        return lambda _, request, context: fake.answer(name, request, context)

    def many(name: str) -> Any:
        def answer(_: Any, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            yield from fake.answer(name, request, context)

        return answer

    behaviours = {method.name: (many if method.server_streaming else one)(method.name) for method in service.methods}
    behaviours.setdefault("Watch", None)
    return type(service.name, (), behaviours)()
