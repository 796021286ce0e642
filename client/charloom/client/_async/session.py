"""A session as a local object, over asyncio."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from charloom.client import _session_requests, _session_responses
from charloom.client._async.calls import AsyncCalls, AsyncRunning
from charloom.client._async.connection import AsyncConnection
from charloom.client._async.observation import AsyncObserver
from charloom.client._async.opening import AsyncOpening, AsyncSource
from charloom.client._connection import CLEANUP_TIMEOUT
from charloom.client._errors import CharloomError, NotFound
from charloom.client._generation_types import Result
from charloom.client._inspection_types import Inspection
from charloom.client._options import NOT_GIVEN, Timeout, UnknownCharacters
from charloom.client._session_types import DeletionReceipt, Opened, SealedState, SessionInfo
from charloom.client._text_types import Score
from charloom.v1 import generation_pb2

if TYPE_CHECKING:
    from types import TracebackType


class AsyncSession(AsyncOpening, AsyncCalls):
    """A session on the server: each call continues where the last one ended.

    Made by `AsyncClient.session`, `open_session`, `import_session` and `blend`, and by `fork`. As a context manager it
    ends calls that are still running and, unless `keep` is set, deletes the session from the server.
    It is opened by `async with` or by `await`:

        async with client.session() as session:
            ...
        session = await client.session(keep=True)
    """

    def __init__(self, connection: AsyncConnection, source: AsyncSource, *, keep: bool) -> None:
        AsyncCalls.__init__(self, connection)
        AsyncOpening.__init__(self, source)
        self._keep = keep
        self._deleted = False
        # No WeakSet: a WeakKeyDictionary copies its references in one step, whatever other threads begin meanwhile.
        self._running: weakref.WeakKeyDictionary[AsyncRunning, None] = weakref.WeakKeyDictionary()

    @property
    def id(self) -> str:
        """Identifies the session on its server."""
        return self.info.id if self._new is None else self._new.id

    @property
    def restored_exactly(self) -> bool | None:
        """Whether the text continues bit for bit as on the server that exported the state; `None` without an import."""
        return self._restored_exactly

    async def feed(
        self,
        text: str,
        *,
        unknown_characters: UnknownCharacters | None = None,
        expected_position: int | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> SessionInfo:
        """Read a text without generating any. Feeding it in two parts gives the same state as in one."""
        request = _session_requests.feed_session_request(
            self.id, text, unknown_characters=unknown_characters, expected_position=expected_position
        )
        answer = await self._connection.call(self._connection.sessions.FeedSession, request, timeout)
        return self._know(_session_responses.session_info(answer.session))

    async def score(
        self,
        text: str,
        *,
        unknown_characters: UnknownCharacters | None = None,
        top_logprobs: int = 0,
        timeout: Timeout = NOT_GIVEN,
    ) -> Score:
        """Compute how probable a text is from here on, like `AsyncClient.score`. The session does not change."""
        return await self._score(text, None, unknown_characters, top_logprobs, timeout)

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
        """Return the network's gates and states for a text, like `AsyncClient.inspect`. The session does not change."""
        return await self._inspect(text, None, unknown_characters, layers, top_next, distributions, timeout)

    def observe(
        self,
        *,
        unknown_characters: UnknownCharacters | None = None,
        top_logprobs: int = 0,
        timeout: Timeout = NOT_GIVEN,
    ) -> AsyncObserver:
        """Read text piece by piece and report how surprising it is, like `AsyncClient.observe`.

        The session moves on by the text.
        """
        return self._observe(None, unknown_characters, top_logprobs, timeout)

    async def rewind(
        self,
        position: int,
        *,
        seed: int | None = None,
        expected_position: int | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> SessionInfo:
        """Take the session back to an earlier position, and forget the text after it.

        Without a `seed`, the same options give the same text again from there.

        Raises:
            PositionNotKept: the position is after the session's own, or before `info.earliest_position`.

        """
        request = _session_requests.rewind_session_request(
            self.id, position, seed=seed, expected_position=expected_position
        )
        answer = await self._connection.call(self._connection.sessions.RewindSession, request, timeout)
        return self._know(_session_responses.session_info(answer.session))

    async def move(
        self,
        model: str | None = None,
        *,
        unknown_characters: UnknownCharacters | None = None,
        expected_position: int | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> SessionInfo:
        """Move the session to another model, or to the present version of its own.

        That model reads the session's text from the zero state: all of it if `info.earliest_position` is 0, else the
        part that is kept. Positions are counted from 0 again.

        Args:
            model: name of the model; default is the session's own, or the server's first one if that is gone.
            unknown_characters: what to do with characters that the model lacks; default is "reject".
            expected_position: fail unless the session is at this position.
            timeout: of this call alone, in seconds.

        """
        request = _session_requests.move_session_request(
            self.id, model, unknown_characters=unknown_characters, expected_position=expected_position
        )
        answer = await self._connection.call(self._connection.sessions.MoveSession, request, timeout)
        return self._know(_session_responses.session_info(answer.session))

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
        """Make a session that starts from the state of this one, when entered or awaited. This one does not change.

        Args:
            position: an earlier position to start from instead, as for `rewind`.
            seed: seed of its random numbers; default is one that the server draws.
            id: default is the server's choice.
            time_to_live: seconds that it is kept without use; default is that of this one.
            keep: leave it on the server when its `with` block ends.
            timeout: of this call alone, in seconds.

        """
        request = _session_requests.fork_session_request(
            self.id, position=position, seed=seed, id=id, time_to_live=time_to_live
        )

        async def make() -> Opened:
            (info,) = await self._fork(request, 1, timeout)
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
        """Make several sessions like `fork`, in one call and open. Session i has the seed `seed` + i."""
        request = _session_requests.fork_sessions_request(
            self.id, count, position=position, seed=seed, ids=ids, time_to_live=time_to_live
        )
        infos = await self._fork(request, request.count, timeout)
        return [AsyncSession(self._connection, Opened(info), keep=keep) for info in infos]

    async def renew(self, time_to_live: float | None = None, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Extend the expiry, and set how many seconds the session is kept without use; default is as before."""
        request = _session_requests.update_session_request(self.id, time_to_live)
        answer = await self._connection.call(self._connection.sessions.UpdateSession, request, timeout)
        return self._know(_session_responses.session_info(answer.session))

    async def export(self, time_to_live: float | None = None, *, timeout: Timeout = NOT_GIVEN) -> SealedState:
        """Export the state, encrypted, for any server with the same key and model. The session does not change.

        The exported state can be used for `time_to_live` seconds; default is the server's time to live for sessions.
        """
        request = _session_requests.export_session_request(self.id, time_to_live)
        answer = await self._connection.call(self._connection.sessions.ExportSession, request, timeout)
        return _session_responses.sealed_state(answer)

    async def refresh(self, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Ask the server for the session as it is now. Does not extend its expiry."""
        return self._know(await self._get(self.id, timeout))

    async def delete(self, *, timeout: Timeout = NOT_GIVEN) -> DeletionReceipt:
        """Delete the session, its state and the history that it could be rewound to."""
        receipt = await self._delete(self.id, timeout)
        self._deleted = True
        self._know(receipt.session)
        return receipt

    @property
    def _session_id(self) -> str:
        return self.id

    def _make_first(self, options: generation_pb2.GenerationOptions) -> None:
        if self._known is None and self._new is not None:
            _session_requests.make_first(options, self._new)

    def _started(self, running: AsyncRunning) -> None:
        self._running[running] = None

    def _learn(self, result: Result) -> None:
        if result.session is not None:
            self._know(result.session)

    def _know(self, info: SessionInfo) -> SessionInfo:
        self._known = info
        return info

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reference in self._running.keyrefs():
            if (running := reference()) is not None:
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
