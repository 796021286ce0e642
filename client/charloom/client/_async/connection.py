"""A channel of grpc.aio, its stubs, and how calls of each kind are made on it."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from charloom.client import _model_responses
from charloom.client._async.duplex import AsyncDuplex
from charloom.client._async.event_loop import is_cancelled, require_running
from charloom.client._async.reading import AsyncCall
from charloom.client._async.resuming import AsyncResumingCall
from charloom.client._async.shared_stream import AsyncSharedStreams
from charloom.client._connection import HEALTH_CHECK, BaseConnection, CallContext
from charloom.client._options import Timeout
from charloom.client._resumption import Resumption
from charloom.client._shared_stream import LARGEST
from charloom.client._statuses import cancelled
from charloom.v1 import (
    classification_pb2_grpc,
    conversation_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    models_pb2_grpc,
    reading_pb2_grpc,
    sessions_pb2_grpc,
    status_pb2_grpc,
    suggesting_pb2_grpc,
    tenants_pb2_grpc,
    watching_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from charloom.client._model_types import HealthStatus

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Asked = TypeVar("_Asked", bound=Message)


class AsyncConnection(BaseConnection):
    """The channel is made at the first call, because it belongs to the event loop that runs then."""

    _made: grpc.aio.Channel | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    def require_open(self) -> None:
        """Refuse a call if the client was closed, or if no event loop runs or another one than that of the channel."""
        super().require_open()
        require_running(self._loop or asyncio.get_running_loop())

    @property
    def _channel(self) -> grpc.aio.Channel:
        # Each time, because a stub that is made on a closed channel brings down the process (grpcio 1.85).
        self.require_open()
        if self._made is None:
            self._loop = asyncio.get_running_loop()
            if self._credentials is None:
                self._made = grpc.aio.insecure_channel(self.target, self._options)
            else:
                self._made = grpc.aio.secure_channel(self.target, self._credentials, self._options)
        return self._made

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
    def tenants(self) -> tenants_pb2_grpc.TenantServiceAsyncStub:
        """Stub of the tenant service."""
        return tenants_pb2_grpc.TenantServiceStub(self._channel)

    @functools.cached_property
    def status(self) -> status_pb2_grpc.StatusServiceAsyncStub:
        """Stub of the status service."""
        return status_pb2_grpc.StatusServiceStub(self._channel)

    @functools.cached_property
    def reading(self) -> reading_pb2_grpc.ReadingServiceAsyncStub:
        """Stub of the reading service."""
        return reading_pb2_grpc.ReadingServiceStub(self._channel)

    @functools.cached_property
    def suggesting(self) -> suggesting_pb2_grpc.SuggestingServiceAsyncStub:
        """Stub of the suggesting service."""
        return suggesting_pb2_grpc.SuggestingServiceStub(self._channel)

    @functools.cached_property
    def classification(self) -> classification_pb2_grpc.ClassificationServiceAsyncStub:
        """Stub of the classification service."""
        return classification_pb2_grpc.ClassificationServiceStub(self._channel)

    @functools.cached_property
    def conversation(self) -> conversation_pb2_grpc.ConversationServiceAsyncStub:
        """Stub of the conversation service."""
        return conversation_pb2_grpc.ConversationServiceStub(self._channel)

    @functools.cached_property
    def watching(self) -> watching_pb2_grpc.WatchingServiceAsyncStub:
        """Stub of the watching service."""
        return watching_pb2_grpc.WatchingServiceStub(self._channel)

    @functools.cached_property
    def _check(self) -> grpc.aio.UnaryUnaryMultiCallable[bytes, HealthStatus]:
        return self._channel.unary_unary(HEALTH_CHECK, response_deserializer=_model_responses.health_status)

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
        context = self.new_call(request)
        try:
            return await method(
                request, timeout=self.seconds(timeout), metadata=context.metadata, wait_for_ready=wait_for_ready
            )
        except grpc.RpcError as error:
            raise context.failure(error) from error
        except asyncio.CancelledError:
            # Closing the channel looks the same to the waiting task as being cancelled itself.
            if self.closed and not is_cancelled():
                raise cancelled(context.request_id) from None
            raise

    async def gather(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[_Request, _Response],
        request: _Request,
        timeout: Timeout,
    ) -> list[_Response]:
        """Make a call with several answers and wait for all of them."""
        return [answer async for answer in self.stream(method, request, timeout)]

    async def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[_Request, _Response],
        request: _Request,
        timeout: Timeout,
    ) -> AsyncIterator[_Response]:
        """Make a call with several answers; closing the iterator early cancels it."""
        self.require_open()
        context = self.new_call(request)
        call = method(request, timeout=self.seconds(timeout), metadata=context.metadata)
        try:
            async for answer in call:
                yield answer
        except grpc.RpcError as error:
            raise context.failure(error) from error
        except asyncio.CancelledError:
            if self.closed and not is_cancelled():
                raise cancelled(context.request_id) from None
            raise
        finally:
            call.cancel()

    def generate(self, context: CallContext, request: generation_pb2.GenerateRequest, timeout: Timeout) -> AsyncCall:
        """Make a call of Generate."""
        self.require_open()
        return self._generate(context, request, self.seconds(timeout))

    def generate_resuming(
        self, context: CallContext, request: generation_pb2.GenerateRequest, timeout: Timeout, *, resume: bool
    ) -> AsyncResumingCall:
        """Make a call of Generate; with `resume`, it is made again where it breaks off."""
        self.require_open()
        resumption = Resumption(request, self.seconds(timeout), context, enabled=resume)
        return AsyncResumingCall(functools.partial(self._generate, context), resumption, context)

    def _generate(
        self, context: CallContext, request: generation_pb2.GenerateRequest, seconds: float | None
    ) -> AsyncCall:
        if self.shares_stream and request.ByteSize() <= LARGEST:
            return self._shared.generate(request, seconds, context)
        return self.generation.Generate(request, timeout=seconds, metadata=context.metadata)

    @functools.cached_property
    def _shared(self) -> AsyncSharedStreams:
        return AsyncSharedStreams(self._generate_many)

    def _generate_many(
        self, first: generation_pb2.GenerateManyRequest
    ) -> AsyncDuplex[generation_pb2.GenerateManyRequest, generation_pb2.GenerateManyResponse]:
        return self.duplex(self.generation.GenerateMany, first, None)

    def duplex(
        self, method: grpc.aio.StreamStreamMultiCallable[_Asked, _Response], start: _Asked, timeout: Timeout
    ) -> AsyncDuplex[_Asked, _Response]:
        """Begin a bidirectional stream; `start` is the first message."""
        self.require_open()
        context = self.new_call(start)
        call = method(timeout=self.seconds(timeout), metadata=context.metadata)
        return AsyncDuplex(call, start, context)

    async def health(self, timeout: Timeout, *, wait_for_ready: bool = False) -> HealthStatus:
        """Ask for the health of the whole server, not of one service."""
        return await self.call(self._check, b"", timeout, wait_for_ready=wait_for_ready)

    async def close(self) -> None:
        """Close the channel and cancel its calls."""
        self.closed = True
        if self._made is not None:
            await self._made.close()
            await self._shared.wait_until_over()
