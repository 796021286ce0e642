"""A session as a local object, asyncio."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from charloom.client import _conversation_requests, _reading_requests, _requests, _responses, _session_requests, _values
from charloom.client._connection import AsyncConnection
from charloom.client._continuations import AsyncContinuations
from charloom.client._conversation import AsyncConversation
from charloom.client._errors import CharloomError, NotFound
from charloom.client._inspection_types import Inspection
from charloom.client._observation import AsyncObserver
from charloom.client._options import NOT_GIVEN, GenerateOptions, Timeout, UnknownCharacters
from charloom.client._session_types import DeletionReceipt, SealedState, SessionInfo
from charloom.client._stream import AsyncTextStream
from charloom.client._sync.session import CLEANUP_TIMEOUT
from charloom.client._text_types import Peek, Score
from charloom.client._types import Completion, Result
from charloom.v1 import sessions_pb2

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack


class Opened(NamedTuple):
    """A session that was made, or found, on the server."""

    info: SessionInfo
    restored_exactly: bool | None = None


class AsyncSession:
    """A session on the server: each call goes on where the last one ended; the twin of `Session`.

    Made by `AsyncClient.session`, `open_session`, `import_session` and `blend`, and by `fork`, and opened by
    `async with` or by `await`:

        async with client.session() as session: ...
        session = await client.session(keep=True)
    """

    def __init__(
        self,
        connection: AsyncConnection,
        source: Opened | Callable[[], Coroutine[Any, Any, Opened]],
        *,
        keep: bool,
    ) -> None:
        self._connection = connection
        self._source = source
        self._known: SessionInfo | None = None
        self._restored_exactly: bool | None = None
        if isinstance(source, Opened):
            self._known, self._restored_exactly = source
        self._keep = keep
        self._deleted = False
        self._running: weakref.WeakSet[AsyncTextStream | AsyncContinuations | AsyncConversation | AsyncObserver]
        self._running = weakref.WeakSet()

    @property
    def id(self) -> str:
        """Identifies the session on its server."""
        return self.info.id

    @property
    def info(self) -> SessionInfo:
        """The session after the last call that told of it; `refresh` asks the server."""
        if self._known is None:
            raise RuntimeError("this session is not open yet; use `async with session:` or `await session`")
        return self._known

    @property
    def restored_exactly(self) -> bool | None:
        """Whether text goes on bit for bit as where the imported state was exported; `None` without an import."""
        return self._restored_exactly

    def generate(
        self,
        prompt: str = "",
        *,
        resume: bool = True,
        timeout: Timeout = NOT_GIVEN,
        **options: Unpack[GenerateOptions],
    ) -> AsyncTextStream:
        """Feed a prompt and stream the text that follows; as `AsyncClient.generate`, from the session's state."""
        request = _requests.resumable_request(prompt, options, self.id)
        stream = self._connection.stream(request, timeout, self._take, resume=_values.flag("resume", resume))
        self._running.add(stream)
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
        self._running.add(continuations)
        return continuations

    def converse(
        self, prompt: str = "", *, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> AsyncConversation:
        """Read a prompt and wait to be told when to generate, what else to read, and how; as `AsyncClient.converse`."""
        start = _conversation_requests.start(prompt, options, self.id)
        conversation = self._connection.converse(start, timeout, self._take)
        self._running.add(conversation)
        return conversation

    async def feed(
        self,
        text: str,
        *,
        unknown_characters: UnknownCharacters | None = None,
        expected_position: int | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> SessionInfo:
        """Read a text without generating any. In two parts it is the same as in one."""
        request = _session_requests.feed_session_request(
            self.id, text, unknown_characters=unknown_characters, expected_position=expected_position
        )
        answer = await self._connection.call(self._connection.sessions.FeedSession, request, timeout)
        return self._learn(answer.session)

    async def score(
        self,
        text: str,
        *,
        unknown_characters: UnknownCharacters | None = None,
        top_logprobs: int = 0,
        timeout: Timeout = NOT_GIVEN,
    ) -> Score:
        """How probable a text is from here on; as `AsyncClient.score`. The session stays as it is."""
        request = _reading_requests.score_request(text, None, unknown_characters, top_logprobs, self.id)
        return _responses.score(await self._connection.call(self._connection.reading.Score, request, timeout))

    async def peek(
        self, prompt: str = "", *, top: int = 0, timeout: Timeout = NOT_GIVEN, **options: Unpack[GenerateOptions]
    ) -> Peek:
        """What would come next, after a prompt if there is one; as `AsyncClient.peek`. The session stays as it is."""
        request = _reading_requests.peek_request(prompt, top, options, self.id)
        return _responses.peek(await self._connection.call(self._connection.reading.Peek, request, timeout))

    async def inspect(
        self,
        text: str,
        *,
        unknown_characters: UnknownCharacters | None = None,
        layers: Sequence[int] | None = None,
        top_next: int = 0,
        distributions: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> Inspection:
        """What happens in the network while it reads a text; as `AsyncClient.inspect`. The session stays as it is."""
        request = _reading_requests.inspect_request(
            text, None, unknown_characters, layers, top_next, distributions, self.id
        )
        return _responses.inspection(await self._connection.gather(self._connection.reading.Inspect, request, timeout))

    def observe(
        self,
        *,
        unknown_characters: UnknownCharacters | None = None,
        top_logprobs: int = 0,
        timeout: Timeout = NOT_GIVEN,
    ) -> AsyncObserver:
        """Read text as it comes and tell how surprising it is; as `AsyncClient.observe`. The session goes on."""
        start = _reading_requests.observe_start(None, unknown_characters, top_logprobs, self.id)
        observer = self._connection.observe(start, timeout)
        self._running.add(observer)
        return observer

    async def rewind(
        self,
        position: int,
        *,
        seed: int | None = None,
        expected_position: int | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> SessionInfo:
        """Put the session back to an earlier position; what came after it is forgotten.

        Without a `seed` the same options give the same text again from there.

        Raises:
            PositionNotKept: the position lies in the future, or before `info.earliest_position`.

        """
        request = _session_requests.rewind_session_request(
            self.id, position, seed=seed, expected_position=expected_position
        )
        answer = await self._connection.call(self._connection.sessions.RewindSession, request, timeout)
        return self._learn(answer.session)

    def fork(
        self,
        *,
        position: int | None = None,
        seed: int | None = None,
        id: str | None = None,
        time_to_live: float | None = None,
        keep: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> AsyncSession:
        """Make a session that goes on from where this one stands, when it is entered or awaited. This one stays.

        Args:
            position: where to take it instead, as for `rewind`.
            seed: of its random numbers; default is the server's draw.
            id: default is the server's choice.
            time_to_live: seconds that it is kept without use; default is that of this one.
            keep: leave it on the server when its `with` block ends.
            timeout: of this call alone, in seconds.

        """
        request = _session_requests.fork_session_request(
            self.id, position=position, seed=seed, id=id, time_to_live=time_to_live
        )

        async def make() -> Opened:
            answer = await self._connection.call(self._connection.sessions.ForkSession, request, timeout)
            (info,) = _responses.forks(answer, 1)
            return Opened(info)

        return AsyncSession(self._connection, make, keep=keep)

    async def forks(
        self,
        count: int,
        *,
        position: int | None = None,
        seed: int | None = None,
        ids: Sequence[str] | None = None,
        time_to_live: float | None = None,
        keep: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> list[AsyncSession]:
        """Make several sessions as `fork` does, in one call and open. Number i has the seed `seed` + i."""
        request = _session_requests.fork_sessions_request(
            self.id, count, position=position, seed=seed, ids=ids, time_to_live=time_to_live
        )
        answer = await self._connection.call(self._connection.sessions.ForkSession, request, timeout)
        infos = _responses.forks(answer, request.count)
        return [AsyncSession(self._connection, Opened(info), keep=keep) for info in infos]

    async def renew(self, time_to_live: float | None = None, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Put the expiry off, and set how many seconds the session is kept without use; default is as before."""
        request = _session_requests.update_session_request(self.id, time_to_live)
        answer = await self._connection.call(self._connection.sessions.UpdateSession, request, timeout)
        return self._learn(answer.session)

    async def export(self, time_to_live: float | None = None, *, timeout: Timeout = NOT_GIVEN) -> SealedState:
        """Give out the state, encrypted, for any server with the same key and model. The session stays as it is.

        It can be used for `time_to_live` seconds; default is the server's for sessions.
        """
        request = _session_requests.export_session_request(self.id, time_to_live)
        answer = await self._connection.call(self._connection.sessions.ExportSession, request, timeout)
        return _responses.sealed_state(answer)

    async def refresh(self, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Ask the server for the session as it is now. Does not renew its expiry."""
        request = _session_requests.get_session_request(self.id)
        answer = await self._connection.call(self._connection.sessions.GetSession, request, timeout)
        return self._learn(answer.session)

    async def delete(self, *, timeout: Timeout = NOT_GIVEN) -> DeletionReceipt:
        """Forget the session, its state and all that it could go back to."""
        request = _session_requests.delete_session_request(self.id)
        answer = await self._connection.call(self._connection.sessions.DeleteSession, request, timeout)
        self._deleted = True
        self._learn(answer.session)
        return _responses.deletion_receipt(answer)

    def _learn(self, session: sessions_pb2.Session) -> SessionInfo:
        self._known = _responses.session_info(session)
        return self._known

    def _take(self, result: Result) -> None:
        self._known = result.session or self._known

    async def _open(self) -> Self:
        if self._known is None and not isinstance(self._source, Opened):
            self._known, self._restored_exactly = await self._source()
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._open().__await__()

    async def __aenter__(self) -> Self:
        return await self._open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in self._running:
            running.cancel()
        if self._keep or self._deleted or self._connection.closed:
            return
        try:
            await self.delete(timeout=CLEANUP_TIMEOUT)
        except NotFound:
            pass
        except CharloomError:
            if error is None:
                raise
