"""A blocking channel, its stubs, and how calls of each kind are made on it."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import Message

from charloom.client import _model_responses
from charloom.client._access import Access
from charloom.client._connection import HEALTH_CHECK, BaseConnection, CallContext, ChannelOptions
from charloom.client._options import Timeout
from charloom.client._resumption import Resumption
from charloom.client._shared_stream import LARGEST
from charloom.client._sync.duplex import Duplex
from charloom.client._sync.reading import Call
from charloom.client._sync.resuming import ResumingCall
from charloom.client._sync.shared_stream import SharedStreams
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
    from charloom.client._model_types import HealthStatus

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Asked = TypeVar("_Asked", bound=Message)


class Connection(BaseConnection):
    """The channel is made at once and may be used by any thread; the child of a fork makes a new one on first use."""

    def __init__(
        self,
        target: str,
        timeout: float | None,
        access: Access,
        channel_options: ChannelOptions,
        *,
        shared_stream: bool = False,
    ) -> None:
        super().__init__(target, timeout, access, channel_options, shared_stream=shared_stream)
        self._shared = SharedStreams(self._generate_many)
        self._lock = threading.Lock()
        self._of_parents: list[grpc.Channel | None] = []
        """Channels of parent processes: kept, because freeing one might wait for threads that this process lacks."""
        self._made: grpc.Channel | None = self._make()
        _connections.add(self)

    def _make(self) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(self.target, self._options)
        return grpc.secure_channel(self.target, self._credentials, self._options)

    @property
    def _channel(self) -> grpc.Channel:
        self.require_open()
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def forget_parent(self) -> None:
        """Drop the parent's channel, in the child of a fork, before it has other threads.

        gRPC makes that channel usable again only if no call ran at the fork, or with GRPC_ENABLE_FORK_SUPPORT=1.
        """
        self._lock = threading.Lock()
        self._of_parents.append(self._made)
        self._made = None
        for name, value in vars(Connection).items():
            if isinstance(value, functools.cached_property):
                self.__dict__.pop(name, None)
        self._shared.forget_parent()

    @functools.cached_property
    def generation(self) -> generation_pb2_grpc.GenerationServiceStub:
        """Stub of the generation service."""
        return generation_pb2_grpc.GenerationServiceStub(self._channel)

    @functools.cached_property
    def sessions(self) -> sessions_pb2_grpc.SessionServiceStub:
        """Stub of the session service."""
        return sessions_pb2_grpc.SessionServiceStub(self._channel)

    @functools.cached_property
    def models(self) -> models_pb2_grpc.ModelServiceStub:
        """Stub of the model service."""
        return models_pb2_grpc.ModelServiceStub(self._channel)

    @functools.cached_property
    def tenants(self) -> tenants_pb2_grpc.TenantServiceStub:
        """Stub of the tenant service."""
        return tenants_pb2_grpc.TenantServiceStub(self._channel)

    @functools.cached_property
    def status(self) -> status_pb2_grpc.StatusServiceStub:
        """Stub of the status service."""
        return status_pb2_grpc.StatusServiceStub(self._channel)

    @functools.cached_property
    def reading(self) -> reading_pb2_grpc.ReadingServiceStub:
        """Stub of the reading service."""
        return reading_pb2_grpc.ReadingServiceStub(self._channel)

    @functools.cached_property
    def suggesting(self) -> suggesting_pb2_grpc.SuggestingServiceStub:
        """Stub of the suggesting service."""
        return suggesting_pb2_grpc.SuggestingServiceStub(self._channel)

    @functools.cached_property
    def classification(self) -> classification_pb2_grpc.ClassificationServiceStub:
        """Stub of the classification service."""
        return classification_pb2_grpc.ClassificationServiceStub(self._channel)

    @functools.cached_property
    def conversation(self) -> conversation_pb2_grpc.ConversationServiceStub:
        """Stub of the conversation service."""
        return conversation_pb2_grpc.ConversationServiceStub(self._channel)

    @functools.cached_property
    def watching(self) -> watching_pb2_grpc.WatchingServiceStub:
        """Stub of the watching service."""
        return watching_pb2_grpc.WatchingServiceStub(self._channel)

    @functools.cached_property
    def _check(self) -> grpc.UnaryUnaryMultiCallable[bytes, HealthStatus]:
        return self._channel.unary_unary(HEALTH_CHECK, response_deserializer=_model_responses.health_status)

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
        context = self.new_call(request)
        # Through a future, because only that can be cancelled when Ctrl-C interrupts the wait.
        future = method.future(
            request, timeout=self.seconds(timeout), metadata=context.metadata, wait_for_ready=wait_for_ready
        )
        try:
            return future.result()
        except grpc.RpcError as error:
            raise context.failure(error) from error
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
        return list(self.stream(method, request, timeout))

    def stream(
        self,
        method: grpc.UnaryStreamMultiCallable[_Request, _Response],
        request: _Request,
        timeout: Timeout,
    ) -> Iterator[_Response]:
        """Make a call with several answers; closing the iterator early cancels it."""
        self.require_open()
        context = self.new_call(request)
        call = method(request, timeout=self.seconds(timeout), metadata=context.metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            raise context.failure(error) from error
        finally:
            call.cancel()

    def generate(self, context: CallContext, request: generation_pb2.GenerateRequest, timeout: Timeout) -> Call:
        """Make a call of Generate."""
        self.require_open()
        return self._generate(context, request, self.seconds(timeout))

    def generate_resuming(
        self, context: CallContext, request: generation_pb2.GenerateRequest, timeout: Timeout, *, resume: bool
    ) -> ResumingCall:
        """Make a call of Generate; with `resume`, it is made again where it breaks off."""
        self.require_open()
        resumption = Resumption(request, self.seconds(timeout), context, enabled=resume)
        return ResumingCall(functools.partial(self._generate, context), resumption, context)

    def _generate(self, context: CallContext, request: generation_pb2.GenerateRequest, seconds: float | None) -> Call:
        if self.shares_stream and request.ByteSize() <= LARGEST:
            return self._shared.generate(request, seconds, context)
        return self.generation.Generate(request, timeout=seconds, metadata=context.metadata)

    def _generate_many(
        self, first: generation_pb2.GenerateManyRequest
    ) -> Duplex[generation_pb2.GenerateManyRequest, generation_pb2.GenerateManyResponse]:
        return self.duplex(self.generation.GenerateMany, first, None)

    def duplex(
        self, method: grpc.StreamStreamMultiCallable[_Asked, _Response], start: _Asked, timeout: Timeout
    ) -> Duplex[_Asked, _Response]:
        """Begin a bidirectional stream; `start` is the first message."""
        self.require_open()
        context, seconds = self.new_call(start), self.seconds(timeout)

        def begin(requests: Iterator[_Asked]) -> Any:
            return method(requests, timeout=seconds, metadata=context.metadata)

        return Duplex(begin, start, context)

    def health(self, timeout: Timeout, *, wait_for_ready: bool = False) -> HealthStatus:
        """Ask for the health of the whole server, not of one service."""
        return self.call(self._check, b"", timeout, wait_for_ready=wait_for_ready)

    def close(self) -> None:
        """Close the channel and cancel its calls."""
        self.closed = True
        if self._made is not None:
            self._made.close()


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _forget_parent() -> None:
    for connection in list(_connections):
        connection.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
