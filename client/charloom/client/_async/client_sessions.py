"""How a client makes, finds and deletes sessions, over asyncio."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping

from charloom.client import _session_requests, _session_responses, _unheeded, _values
from charloom.client._async.calls import AsyncCalls
from charloom.client._async.session import AsyncSession
from charloom.client._connection import CLEANUP_TIMEOUT, PAGE_SIZE
from charloom.client._errors import (
    Cancelled,
    CharloomError,
    ConnectionFailed,
    DeadlineExceeded,
    InternalError,
    InvalidValue,
    Unavailable,
    Unimplemented,
)
from charloom.client._options import NOT_GIVEN, Timeout, UnknownCharacters
from charloom.client._session_requests import SessionOrId
from charloom.client._session_types import DeletionReceipt, Opened, SessionInfo
from charloom.client._tenant_types import KeptSession
from charloom.v1 import sessions_pb2

_UNCERTAIN = (ConnectionFailed, DeadlineExceeded, Unavailable, Cancelled, InternalError)
"""Errors after which the call may have been carried out all the same; after any other, it was refused."""


class AsyncClientSessions(AsyncCalls):
    """The calls of `AsyncClient` that make, find and delete sessions."""

    def session(
        self,
        *,
        model: str | None = None,
        id: str | None = None,
        seed: int | None = None,
        time_to_live: float | None = None,
        start: str | None = None,
        keep: bool = False,
        at_first_text: bool = False,
        adaptive: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> AsyncSession:
        """Make a session with zero state, or with that of another one, when it is entered or awaited.

        Args:
            model: name of the model; default is the server's first one.
            id: up to 64 letters, digits, '.', '_', '-'; default is the server's choice.
            seed: seed of its random numbers; default is one that the server draws.
            time_to_live: seconds that it is kept without use; default is the server's, or that of `start`.
            start: id of a session to start from, for example one that `prime` made; that session does not change. The
                new one has its model.
            keep: leave it on the server when the `with` block ends.
            at_first_text: let the first generation (`generate`, `complete`, `converse`) make the session, instead of a
                separate call, so that the first text arrives a round trip earlier. `info` is not known until that
                generation has ended; every other call before it raises `NotFound`.
            adaptive: let it learn from its text as it reads and writes it. A session with `start` learns if the session
                that it starts from does.
            timeout: of this call alone, in seconds; no effect with `at_first_text`.

        Raises:
            Unimplemented: `adaptive` was given, and the server is too old for it; no session is left there.

        """
        if at_first_text:
            if start is not None:
                raise InvalidValue(
                    "at_first_text", "a session that starts from another one is made at once; leave it out"
                )
            return AsyncSession(
                self._connection, _session_requests.new_session(model, id, seed, time_to_live, adaptive), keep=keep
            )
        if start is not None:
            fork_request = _session_requests.start_request(start, model, id, seed, time_to_live, adaptive)

            async def fork() -> Opened:
                (info,) = await self._fork(fork_request, 1, timeout)
                return Opened(info)

            return AsyncSession(self._connection, fork, keep=keep)
        request = _session_requests.create_session_request(model, id, seed, time_to_live, adaptive)

        async def create() -> Opened:
            answer = await self._connection.call(self._connection.sessions.CreateSession, request, timeout)
            info = _session_responses.session_info(answer.session)
            if adaptive:
                try:
                    _unheeded.require_adaptive(info)
                except Unimplemented:
                    with contextlib.suppress(CharloomError):
                        await self._delete(info.id, CLEANUP_TIMEOUT)
                    raise
            return Opened(info)

        return AsyncSession(self._connection, create, keep=keep)

    async def prime(
        self,
        id: str,
        text: str,
        *,
        model: str | None = None,
        time_to_live: float | None = None,
        adaptive: bool = False,
        unknown_characters: UnknownCharacters | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> SessionInfo:
        """Make a session with this id that has read a text, for other sessions to start from: `session(start=id)`.

        It is kept on the server. Two calls make it, each with this timeout; if one of them fails or is cancelled, the
        session is deleted again, which may take some seconds more if the server does not answer.
        """
        _values.text("text", text)
        seed = secrets.randbits(64)
        # A session left without the text would look primed. A client that was closed meanwhile can delete nothing.
        leaving = contextlib.suppress(CharloomError, RuntimeError)
        try:
            session = await self.session(
                id=id, model=model, seed=seed, time_to_live=time_to_live, keep=True, adaptive=adaptive, timeout=timeout
            )
        except BaseException as problem:
            if isinstance(problem, Exception) and not isinstance(problem, _UNCERTAIN):
                raise
            # It may exist although no answer came; if it has another seed, somebody else made it.
            with leaving:
                made = await self._get(id, CLEANUP_TIMEOUT)
                if made.seed == seed:
                    await self._delete(id, CLEANUP_TIMEOUT)
            raise
        try:
            return await session.feed(text, unknown_characters=unknown_characters, timeout=timeout)
        except BaseException:
            with leaving:
                await session.delete(timeout=CLEANUP_TIMEOUT)
            raise

    def open_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> AsyncSession:
        """Open an existing session, when it is entered or awaited. It is kept when the `with` block ends."""

        async def find() -> Opened:
            return Opened(await self.get_session(id, timeout=timeout))

        return AsyncSession(self._connection, find, keep=True)

    def import_session(
        self,
        state: bytes,
        *,
        id: str | None = None,
        time_to_live: float | None = None,
        keep: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> AsyncSession:
        """Make a session from a state of `Session.export` or of a result, when it is entered or awaited.

        The other arguments are those of `session`.

        Raises:
            DataLoss: the state was changed, cut off, or sealed with a key that this server lacks.
            PermissionDenied: the state belongs to another tenant.
            FailedPrecondition: the state expired, or belongs to a model that this server lacks.

        """
        request = _session_requests.import_session_request(state, id=id, time_to_live=time_to_live)

        async def restore() -> Opened:
            answer = await self._connection.call(self._connection.sessions.ImportSession, request, timeout)
            return Opened(_session_responses.session_info(answer.session), answer.exact)

        return AsyncSession(self._connection, restore, keep=keep)

    def blend(
        self,
        sources: Mapping[SessionOrId, float],
        *,
        id: str | None = None,
        seed: int | None = None,
        time_to_live: float | None = None,
        keep: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> AsyncSession:
        """Make a session whose state is the weighted mean of others', when it is entered or awaited.

        Experimental: no network was trained on such states.

        The sources are 2 to 16 sessions, or their ids, with weights above 0, of which only the proportions matter. The
        blend has the position of the first source, and reads that source's last token next. The other arguments are
        those of `session`.
        """
        request = _session_requests.blend_sessions_request(sources, id=id, seed=seed, time_to_live=time_to_live)

        async def blend() -> Opened:
            answer = await self._connection.call(self._connection.sessions.BlendSessions, request, timeout)
            return Opened(_session_responses.session_info(answer.session))

        return AsyncSession(self._connection, blend, keep=keep)

    async def get_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Describe a session. Does not extend its expiry."""
        return await self._get(id, timeout)

    async def sessions(self, *, timeout: Timeout = NOT_GIVEN) -> AsyncIterator[SessionInfo]:
        """Iterate over all sessions in the order of their ids, fetched page by page; the timeout is that of one page.

        Leaves out sessions whose records the server cannot read; `kept_sessions` lists those too.
        """
        async for kept in self.kept_sessions(timeout=timeout):
            if kept.info is not None:
                yield kept.info

    async def kept_sessions(self, *, timeout: Timeout = NOT_GIVEN) -> AsyncIterator[KeptSession]:
        """Iterate like `sessions`, but include sessions that the server cannot read, each with its `problem`."""
        request = sessions_pb2.ListSessionsRequest(page_size=PAGE_SIZE)
        while True:
            page = await self._connection.call(self._connection.sessions.ListSessions, request, timeout)
            for message in _session_responses.in_order(page):
                yield _session_responses.listed_session(message)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def delete_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> DeletionReceipt:
        """Delete a session, its state and the history that it could be rewound to."""
        return await self._delete(id, timeout)
