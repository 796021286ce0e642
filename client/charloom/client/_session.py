"""A session as a local object, blocking and asyncio."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from charloom.client import _requests, _responses
from charloom.client._connection import AsyncConnection, Connection
from charloom.client._continuations import AsyncContinuations, Continuations
from charloom.client._errors import CharloomError, NotFound
from charloom.client._options import NOT_GIVEN, GenerateOptions, Timeout
from charloom.client._stream import AsyncTextStream, TextStream
from charloom.client._types import Completion, Result, SessionInfo
from charloom.v1 import sessions_pb2

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

# Cleaning up must not keep a program from ending: the server forgets the session later anyway.
_CLEANUP_TIMEOUT = 5.0


class Session:
    """A session on the server: each call goes on where the last one ended.

    Made by `Client.session` and `Client.open_session`. As a context manager it ends what is still running and, unless
    it is to be kept, deletes the session from the server.
    """

    def __init__(self, connection: Connection, info: SessionInfo, *, keep: bool) -> None:
        self._connection = connection
        self._info = info
        self._keep = keep
        self._deleted = False
        self._streams: weakref.WeakSet[TextStream | Continuations] = weakref.WeakSet()

    @property
    def id(self) -> str:
        """Identifies the session on its server."""
        return self._info.id

    @property
    def info(self) -> SessionInfo:
        """The session after the last call that ended; `refresh` asks the server."""
        return self._info

    def generate(
        self, prompt: str = "", *, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> TextStream:
        """Feed a prompt and stream the text that follows; as `Client.generate`, from the session's state."""
        request = _requests.generate_request(prompt, options, self.id)
        stream = self._connection.stream(request, timeout, self._take)
        self._streams.add(stream)
        return stream

    def complete(
        self, prompt: str = "", *, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> Completion:
        """Feed a prompt and return the text that follows as a whole."""
        request = _requests.complete_request(prompt, options, self.id)
        answer = self._connection.call(self._connection.generation.Complete, request, timeout)
        completion = _responses.completion(answer)
        self._take(completion.result)
        return completion

    def continuations(
        self, prompt: str = "", *, n: int, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> Continuations:
        """Feed a prompt and stream `n` texts that follow, from 1 to 64; as `Client.continuations`.

        More than one leave the session as it was: the same call with the seed of the one you like, without `n`, goes on
        with it. `n=1` goes on at once, as `generate` does.
        """
        request = _requests.continuations_request(prompt, n, options, self.id)
        continuations = self._connection.continuations(request, timeout, self._take)
        self._streams.add(continuations)
        return continuations

    def refresh(self, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Ask the server for the session as it is now. Does not renew its expiry."""
        request = sessions_pb2.GetSessionRequest(session_id=self.id)
        answer = self._connection.call(self._connection.sessions.GetSession, request, timeout)
        self._info = _responses.session_info(answer.session)
        return self._info

    def delete(self, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Forget the session and its state; returns it as it was."""
        request = sessions_pb2.DeleteSessionRequest(session_id=self.id)
        answer = self._connection.call(self._connection.sessions.DeleteSession, request, timeout)
        self._deleted = True
        self._info = _responses.session_info(answer.session)
        return self._info

    def _take(self, result: Result) -> None:
        self._info = result.session or self._info

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._streams:
            stream.cancel()
        if self._keep or self._deleted or self._connection.closed:
            return
        try:
            self.delete(timeout=_CLEANUP_TIMEOUT)
        except NotFound:
            pass
        except CharloomError:
            if error is None:
                raise


class AsyncSession:
    """A session on the server: each call goes on where the last one ended; the twin of `Session`.

    Made by `AsyncClient.session` and `AsyncClient.open_session`, and opened by `async with` or by `await`:

        async with client.session() as session: ...
        session = await client.session(keep=True)
    """

    def __init__(
        self,
        connection: AsyncConnection,
        fetch: Callable[[], Coroutine[Any, Any, SessionInfo]],
        *,
        keep: bool,
    ) -> None:
        self._connection = connection
        self._fetch = fetch
        self._known: SessionInfo | None = None
        self._keep = keep
        self._deleted = False
        self._streams: weakref.WeakSet[AsyncTextStream | AsyncContinuations] = weakref.WeakSet()

    @property
    def id(self) -> str:
        """Identifies the session on its server."""
        return self.info.id

    @property
    def info(self) -> SessionInfo:
        """The session after the last call that ended; `refresh` asks the server."""
        if self._known is None:
            raise RuntimeError("this session is not open yet; use `async with session:` or `await session`")
        return self._known

    def generate(
        self, prompt: str = "", *, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> AsyncTextStream:
        """Feed a prompt and stream the text that follows; as `AsyncClient.generate`, from the session's state."""
        request = _requests.generate_request(prompt, options, self.id)
        stream = self._connection.stream(request, timeout, self._take)
        self._streams.add(stream)
        return stream

    async def complete(
        self, prompt: str = "", *, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> Completion:
        """Feed a prompt and return the text that follows as a whole."""
        request = _requests.complete_request(prompt, options, self.id)
        answer = await self._connection.call(self._connection.generation.Complete, request, timeout)
        completion = _responses.completion(answer)
        self._take(completion.result)
        return completion

    def continuations(
        self, prompt: str = "", *, n: int, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> AsyncContinuations:
        """Feed a prompt and stream `n` texts that follow, from 1 to 64; as `AsyncClient.continuations`.

        More than one leave the session as it was: the same call with the seed of the one you like, without `n`, goes on
        with it. `n=1` goes on at once, as `generate` does.
        """
        request = _requests.continuations_request(prompt, n, options, self.id)
        continuations = self._connection.continuations(request, timeout, self._take)
        self._streams.add(continuations)
        return continuations

    async def refresh(self, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Ask the server for the session as it is now. Does not renew its expiry."""
        request = sessions_pb2.GetSessionRequest(session_id=self.id)
        answer = await self._connection.call(self._connection.sessions.GetSession, request, timeout)
        self._known = _responses.session_info(answer.session)
        return self._known

    async def delete(self, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Forget the session and its state; returns it as it was."""
        request = sessions_pb2.DeleteSessionRequest(session_id=self.id)
        answer = await self._connection.call(self._connection.sessions.DeleteSession, request, timeout)
        self._deleted = True
        self._known = _responses.session_info(answer.session)
        return self._known

    def _take(self, result: Result) -> None:
        self._known = result.session or self._known

    async def _open(self) -> Self:
        if self._known is None:
            self._known = await self._fetch()
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._open().__await__()

    async def __aenter__(self) -> Self:
        return await self._open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._streams:
            stream.cancel()
        if self._keep or self._deleted or self._connection.closed:
            return
        try:
            await self.delete(timeout=_CLEANUP_TIMEOUT)
        except NotFound:
            pass
        except CharloomError:
            if error is None:
                raise
