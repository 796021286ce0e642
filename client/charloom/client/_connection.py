"""A channel, its stubs and what goes with each call, blocking and asyncio. Knows no options and no sessions."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio

from charloom.client import _responses, _values
from charloom.client._continuations import AsyncContinuations, Continuations
from charloom.client._conversation import AsyncConversation, Conversation
from charloom.client._duplex import AsyncDuplex, Duplex
from charloom.client._errors import cancelled, from_rpc_error
from charloom.client._observation import AsyncObserver, Observer
from charloom.client._options import NotGiven, Timeout
from charloom.client._reading import AsyncCall, Call
from charloom.client._resuming import AsyncResumingCall, ResumingCall
from charloom.client._resumption import Resumption
from charloom.client._stream import AsyncTextStream, TextStream
from charloom.client._transcript import OnResult
from charloom.v1 import (
    conversation_pb2,
    conversation_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    models_pb2_grpc,
    reading_pb2,
    reading_pb2_grpc,
    sessions_pb2_grpc,
)

if TYPE_CHECKING:
    from charloom.client._types import HealthStatus

ChannelOptions = Sequence[tuple[str, Any]]

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

_TENANT, _SESSION = "charloom-tenant", "charloom-session"
_HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_CLOSED = "this client is closed; make a new one"

# Reading twice does no harm. A call that changes something is not repeated: the first try may have had its effect. Only
# a stream of text is, by what it says of itself; see `Resumption`.
_READS = [
    {"service": "charloom.v1.ModelService", "method": "ListModels"},
    {"service": "charloom.v1.ModelService", "method": "GetModel"},
    {"service": "charloom.v1.SessionService", "method": "GetSession"},
    {"service": "charloom.v1.SessionService", "method": "ListSessions"},
    {"service": "charloom.v1.SessionService", "method": "ExportSession"},
    {"service": "charloom.v1.ReadingService", "method": "Score"},
    {"service": "charloom.v1.ReadingService", "method": "Peek"},
    {"service": "charloom.v1.ReadingService", "method": "Inspect"},
]
_RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_DEFAULT_OPTIONS: dict[str, Any] = {
    "grpc.service_config": json.dumps({"methodConfig": [{"name": _READS, "retryPolicy": _RETRY}]}),
    # gRPC's defaults wait up to two minutes before they look for a server that has come back.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 2000,
}


class _Settings:
    """What both kinds of connection are told."""

    def __init__(
        self,
        target: str,
        timeout: float | None,
        tenant: str | None,
        credentials: grpc.ChannelCredentials | None,
        channel_options: ChannelOptions,
    ) -> None:
        self.target = _values.text("target", target)
        self._timeout = _values.deadline(timeout)
        self._metadata = () if tenant is None else ((_TENANT, _values.printable("tenant", tenant)),)
        self._credentials = credentials
        self._options = tuple({**_DEFAULT_OPTIONS, **dict(channel_options)}.items())
        self.closed = False

    def seconds(self, timeout: Timeout) -> float | None:
        """The deadline of a call: its own timeout, or else the client's."""
        return self._timeout if isinstance(timeout, NotGiven) else _values.deadline(timeout)

    def metadata(self, request: Any) -> tuple[tuple[str, str], ...]:
        """What goes with a request: whose it is, and for proxies that keep a session with one server, which session."""
        session = getattr(getattr(request, "options", request), "session_id", "")
        # One that is no session's id is for the server to refuse.
        sticky = ((_SESSION, session),) if session.isascii() and session.isprintable() and session else ()
        return (*self._metadata, *sticky)

    def require_open(self) -> None:
        if self.closed:
            raise RuntimeError(_CLOSED)


class Connection(_Settings):
    """A blocking channel."""

    def __init__(
        self,
        target: str,
        timeout: float | None,
        tenant: str | None,
        credentials: grpc.ChannelCredentials | None,
        channel_options: ChannelOptions,
    ) -> None:
        super().__init__(target, timeout, tenant, credentials, channel_options)
        if credentials is None:
            self._channel = grpc.insecure_channel(self.target, self._options)
        else:
            self._channel = grpc.secure_channel(self.target, credentials, self._options)
        self.generation = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self.sessions = sessions_pb2_grpc.SessionServiceStub(self._channel)
        self.models = models_pb2_grpc.ModelServiceStub(self._channel)
        self.reading = reading_pb2_grpc.ReadingServiceStub(self._channel)
        self._conversation = conversation_pb2_grpc.ConversationServiceStub(self._channel)
        self._check: grpc.UnaryUnaryMultiCallable[bytes, HealthStatus] = self._channel.unary_unary(
            _HEALTH_CHECK, response_deserializer=_responses.health_status
        )

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout: Timeout,
        *,
        wait_for_ready: bool = False,
    ) -> _Response:
        """Make a call with one answer."""
        self.require_open()
        # Through a future, because only that can be cancelled when Ctrl-C interrupts the wait.
        future = method.future(
            request, timeout=self.seconds(timeout), metadata=self.metadata(request), wait_for_ready=wait_for_ready
        )
        try:
            return future.result()
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.target) from error
        except BaseException:
            future.cancel()
            raise

    def gather(
        self,
        method: grpc.UnaryStreamMultiCallable[_Request, _Response],
        request: _Request,
        timeout: Timeout,
    ) -> list[_Response]:
        """Make a call with several answers and wait for all of them."""
        self.require_open()
        call = method(request, timeout=self.seconds(timeout), metadata=self.metadata(request))
        try:
            return list(call)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.target) from error
        except BaseException:
            call.cancel()
            raise

    def stream(
        self,
        request: generation_pb2.GenerateRequest,
        timeout: Timeout,
        on_result: OnResult | None = None,
        *,
        resume: bool,
    ) -> TextStream:
        """Begin a generation."""
        self.require_open()
        resumption = Resumption(request, self.seconds(timeout), self.target, enabled=resume)
        call = ResumingCall(self._generate, resumption, lambda: self.closed)
        return TextStream(call, self.target, on_result)

    def continuations(
        self,
        request: generation_pb2.GenerateRequest,
        timeout: Timeout,
        on_result: OnResult | None = None,
    ) -> Continuations:
        """Begin as many generations from one state as the request asks for."""
        self.require_open()
        call = self._generate(request, self.seconds(timeout))
        return Continuations(call, self.target, request.options.n, on_result)

    def _generate(self, request: generation_pb2.GenerateRequest, seconds: float | None) -> Call:
        return self.generation.Generate(request, timeout=seconds, metadata=self.metadata(request))

    def observe(self, start: reading_pb2.ObserveRequest, timeout: Timeout) -> Observer:
        """Begin an observation."""
        self.require_open()
        seconds = self.seconds(timeout)

        def observe(requests: Iterator[reading_pb2.ObserveRequest]) -> Any:
            return self.reading.Observe(requests, timeout=seconds, metadata=self._metadata)

        return Observer(Duplex(observe, start, self.target))

    def converse(
        self, start: conversation_pb2.ConverseRequest, timeout: Timeout, on_result: OnResult | None = None
    ) -> Conversation:
        """Begin a conversation."""
        self.require_open()
        seconds = self.seconds(timeout)

        def converse(requests: Iterator[conversation_pb2.ConverseRequest]) -> Any:
            return self._conversation.Converse(requests, timeout=seconds, metadata=self._metadata)

        return Conversation(Duplex(converse, start, self.target), on_result)

    def health(self, timeout: Timeout, *, wait_for_ready: bool = False) -> HealthStatus:
        """Ask the server for the health of the whole of it."""
        return self.call(self._check, b"", timeout, wait_for_ready=wait_for_ready)

    def close(self) -> None:
        """Close the channel and cancel its calls."""
        self.closed = True
        self._channel.close()


class AsyncConnection(_Settings):
    """An asyncio channel. It is made at the first call, because it belongs to the event loop that runs then."""

    @functools.cached_property
    def _channel(self) -> grpc.aio.Channel:
        self.require_open()
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.target, self._options)
        return grpc.aio.secure_channel(self.target, self._credentials, self._options)

    @functools.cached_property
    def generation(self) -> generation_pb2_grpc.GenerationServiceAsyncStub:
        """Stub of the generation service."""
        return generation_pb2_grpc.GenerationServiceStub(self._channel)

    @functools.cached_property
    def sessions(self) -> sessions_pb2_grpc.SessionServiceAsyncStub:
        """Stub of the session service."""
        return sessions_pb2_grpc.SessionServiceStub(self._channel)

    @functools.cached_property
    def models(self) -> models_pb2_grpc.ModelServiceAsyncStub:
        """Stub of the model service."""
        return models_pb2_grpc.ModelServiceStub(self._channel)

    @functools.cached_property
    def reading(self) -> reading_pb2_grpc.ReadingServiceAsyncStub:
        """Stub of the reading service."""
        return reading_pb2_grpc.ReadingServiceStub(self._channel)

    @functools.cached_property
    def _conversation(self) -> conversation_pb2_grpc.ConversationServiceAsyncStub:
        return conversation_pb2_grpc.ConversationServiceStub(self._channel)

    @functools.cached_property
    def _check(self) -> grpc.aio.UnaryUnaryMultiCallable[bytes, HealthStatus]:
        return self._channel.unary_unary(_HEALTH_CHECK, response_deserializer=_responses.health_status)

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout: Timeout,
        *,
        wait_for_ready: bool = False,
    ) -> _Response:
        """Make a call with one answer."""
        self.require_open()
        try:
            return await method(
                request, timeout=self.seconds(timeout), metadata=self.metadata(request), wait_for_ready=wait_for_ready
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.target) from error
        except asyncio.CancelledError:
            # Closing the channel looks the same to the waiting task as being cancelled itself.
            if self.closed:
                raise cancelled() from None
            raise

    async def gather(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[_Request, _Response],
        request: _Request,
        timeout: Timeout,
    ) -> list[_Response]:
        """Make a call with several answers and wait for all of them."""
        self.require_open()
        call = method(request, timeout=self.seconds(timeout), metadata=self.metadata(request))
        try:
            return [answer async for answer in call]
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.target) from error
        except asyncio.CancelledError:
            if self.closed:
                raise cancelled() from None
            call.cancel()
            raise

    def stream(
        self,
        request: generation_pb2.GenerateRequest,
        timeout: Timeout,
        on_result: OnResult | None = None,
        *,
        resume: bool,
    ) -> AsyncTextStream:
        """Begin a generation."""
        self.require_open()
        asyncio.get_running_loop()
        resumption = Resumption(request, self.seconds(timeout), self.target, enabled=resume)
        call = AsyncResumingCall(self._generate, resumption, lambda: self.closed)
        return AsyncTextStream(call, self.target, on_result, lambda: self.closed)

    def continuations(
        self,
        request: generation_pb2.GenerateRequest,
        timeout: Timeout,
        on_result: OnResult | None = None,
    ) -> AsyncContinuations:
        """Begin as many generations from one state as the request asks for."""
        self.require_open()
        asyncio.get_running_loop()
        call = self._generate(request, self.seconds(timeout))
        return AsyncContinuations(call, self.target, request.options.n, on_result, lambda: self.closed)

    def _generate(self, request: generation_pb2.GenerateRequest, seconds: float | None) -> AsyncCall:
        return self.generation.Generate(request, timeout=seconds, metadata=self.metadata(request))

    def observe(self, start: reading_pb2.ObserveRequest, timeout: Timeout) -> AsyncObserver:
        """Begin an observation."""
        self.require_open()
        asyncio.get_running_loop()
        call = self.reading.Observe(timeout=self.seconds(timeout), metadata=self._metadata)
        duplex = AsyncDuplex(call, start, reading_pb2.ObserveResponse, self.target, lambda: self.closed)
        return AsyncObserver(duplex)

    def converse(
        self, start: conversation_pb2.ConverseRequest, timeout: Timeout, on_result: OnResult | None = None
    ) -> AsyncConversation:
        """Begin a conversation."""
        self.require_open()
        asyncio.get_running_loop()
        call = self._conversation.Converse(timeout=self.seconds(timeout), metadata=self._metadata)
        duplex = AsyncDuplex(call, start, conversation_pb2.ConverseResponse, self.target, lambda: self.closed)
        return AsyncConversation(duplex, on_result)

    async def health(self, timeout: Timeout, *, wait_for_ready: bool = False) -> HealthStatus:
        """Ask the server for the health of the whole of it."""
        return await self.call(self._check, b"", timeout, wait_for_ready=wait_for_ready)

    async def close(self) -> None:
        """Close the channel and cancel its calls."""
        self.closed = True
        if "_channel" in self.__dict__:
            await self._channel.close()
