"""The asyncio client: the same surface as the blocking one, over the same requests, responses and errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from charloom.client import _requests, _responses, _values
from charloom.client._client import DEFAULT_TARGET, DEFAULT_TIMEOUT, PAGE_SIZE
from charloom.client._connection import AsyncConnection, ChannelOptions
from charloom.client._continuations import AsyncContinuations
from charloom.client._errors import CharloomError
from charloom.client._options import NOT_GIVEN, GenerateOptions, Timeout
from charloom.client._readiness import NOT_READY, POLL, Patience
from charloom.client._session import AsyncSession
from charloom.client._stream import AsyncTextStream
from charloom.client._types import Completion, HealthStatus, ModelInfo, SessionInfo
from charloom.v1 import models_pb2, sessions_pb2

if TYPE_CHECKING:
    from types import TracebackType

    import grpc
    from typing_extensions import Self, Unpack


class AsyncClient:
    """Talks to one server, or to several identical ones behind one name; the twin of `Client`.

    It belongs to the event loop of its first call. Arguments and errors are those of `Client`.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        credentials: grpc.ChannelCredentials | None = None,
        channel_options: ChannelOptions = (),
    ) -> None:
        self._connection = AsyncConnection(target, timeout, credentials, channel_options)

    def generate(
        self, prompt: str = "", *, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> AsyncTextStream:
        """Feed a prompt to a fresh state and stream the text that follows. Errors appear when the stream is read."""
        return self._connection.stream(_requests.generate_request(prompt, options), timeout)

    async def complete(
        self, prompt: str = "", *, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> Completion:
        """Feed a prompt to a fresh state and return the text that follows as a whole."""
        request = _requests.complete_request(prompt, options)
        return _responses.completion(
            await self._connection.call(self._connection.generation.Complete, request, timeout)
        )

    def continuations(
        self, prompt: str = "", *, n: int, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> AsyncContinuations:
        """Feed a prompt to a fresh state and stream `n` texts that follow, from 1 to 64; errors appear on reading.

        Number i has the seed of the call plus i. `generate` with one of these seeds gives that text again.
        """
        return self._connection.continuations(_requests.continuations_request(prompt, n, options), timeout)

    def session(
        self,
        *,
        model: str | None = None,
        id: str | None = None,
        seed: int | None = None,
        time_to_live: float | None = None,
        keep: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> AsyncSession:
        """Make a session with zero state, when it is entered or awaited; arguments as `Client.session`."""
        request = _requests.create_session_request(model, id, seed, time_to_live)

        async def create() -> SessionInfo:
            answer = await self._connection.call(self._connection.sessions.CreateSession, request, timeout)
            return _responses.session_info(answer.session)

        return AsyncSession(self._connection, create, keep=keep)

    def open_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> AsyncSession:
        """Go on with a session that exists, when it is entered or awaited. It is kept when the block ends."""
        return AsyncSession(self._connection, lambda: self.get_session(id, timeout=timeout), keep=True)

    async def get_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Describe a session. Does not renew its expiry."""
        request = sessions_pb2.GetSessionRequest(session_id=_values.text("id", id))
        answer = await self._connection.call(self._connection.sessions.GetSession, request, timeout)
        return _responses.session_info(answer.session)

    async def sessions(self, *, timeout: Timeout = NOT_GIVEN) -> AsyncIterator[SessionInfo]:
        """All sessions in the order of their ids, fetched page by page; the timeout is that of one page."""
        request = sessions_pb2.ListSessionsRequest(page_size=PAGE_SIZE)
        while True:
            page = await self._connection.call(self._connection.sessions.ListSessions, request, timeout)
            for session in page.sessions:
                yield _responses.session_info(session)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def delete_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Forget a session and its state; returns it as it was."""
        request = sessions_pb2.DeleteSessionRequest(session_id=_values.text("id", id))
        answer = await self._connection.call(self._connection.sessions.DeleteSession, request, timeout)
        return _responses.session_info(answer.session)

    async def models(self, *, timeout: Timeout = NOT_GIVEN) -> list[ModelInfo]:
        """All models that the server has loaded, the default one first."""
        request = models_pb2.ListModelsRequest()
        answer = await self._connection.call(self._connection.models.ListModels, request, timeout)
        return [_responses.model_info(model) for model in answer.models]

    async def model(self, name: str = "", *, timeout: Timeout = NOT_GIVEN) -> ModelInfo:
        """Describe one model; without a name the default one."""
        request = models_pb2.GetModelRequest(name=_values.text("name", name))
        answer = await self._connection.call(self._connection.models.GetModel, request, timeout)
        return _responses.model_info(answer.model)

    async def health(self, *, timeout: Timeout = NOT_GIVEN) -> HealthStatus:
        """What the server says about itself."""
        return await self._connection.health(timeout)

    async def is_serving(self, *, timeout: Timeout = NOT_GIVEN) -> bool:
        """Whether a server answers in time and takes calls."""
        try:
            return await self.health(timeout=timeout) is HealthStatus.SERVING
        except NOT_READY:
            return False

    async def wait_until_ready(self, timeout: float | None = 30.0) -> None:
        """Return as soon as the server takes calls.

        Raises:
            ConnectionFailed: if it does not within `timeout` seconds.

        """
        patience = Patience(self._connection.target, self._connection.seconds(timeout))
        while True:
            answer: HealthStatus | CharloomError
            try:
                answer = await self._connection.health(patience.left(), wait_for_ready=True)
            except NOT_READY as problem:
                answer = problem
            if patience.is_over(answer):
                return
            await asyncio.sleep(POLL)

    async def close(self) -> None:
        """Close the connection; calls that are running are cancelled."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
