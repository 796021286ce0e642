"""The asyncio client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING

from charloom.client import _responses, _session_requests, _values
from charloom.client._access import access
from charloom.client._async.calls import AsyncCalls
from charloom.client._async.connection import AsyncConnection
from charloom.client._async.observation import AsyncObserver
from charloom.client._async.session import AsyncSession
from charloom.client._async.tenant import AsyncTenant
from charloom.client._errors import CharloomError
from charloom.client._inspection_types import Inspection
from charloom.client._options import NOT_GIVEN, Timeout, UnknownCharacters
from charloom.client._readiness import NOT_READY, POLL, Patience
from charloom.client._session_requests import SessionOrId
from charloom.client._session_types import DeletionReceipt, Opened, SessionInfo
from charloom.client._settings import CLEANUP_TIMEOUT, DEFAULT_TARGET, DEFAULT_TIMEOUT, PAGE_SIZE, ChannelOptions
from charloom.client._status_responses import server_status
from charloom.client._status_types import ServerStatus
from charloom.client._text_types import Score
from charloom.client._types import HealthStatus, LoadedModel, ModelInfo, ModelVersion
from charloom.v1 import models_pb2, sessions_pb2
from charloom.v1.status_pb2 import GetStatusRequest

if TYPE_CHECKING:
    from os import PathLike
    from types import TracebackType

    import grpc
    from typing_extensions import Self


class AsyncClient(AsyncCalls):
    """Talks to one server, or to several identical ones behind one name. Belongs to the event loop of its first call.

    Args:
        target: host and port, or the path of a Unix socket as "unix:PATH". A proxy of the environment (`http_proxy`) is
            not used for this machine.
        timeout: seconds that each call may take unless it is given its own; `None` is no deadline.
        tenant: whose sessions to use, where a proxy that the server trusts lets its clients say so; with a token, the
            token says it.
        token: the key that the server's operator made for this client, with `charloom keys create`.
        tls: whether the connection is encrypted. By default it is if one of the next three is given, or a token for
            another machine.
        ca: PEM file of the authorities that the server's certificate may come from; default is those of gRPC.
        cert: PEM file of the client's own certificate, where the server wants one.
        key: PEM file of its private key.
        credentials: of gRPC, in place of the last four.
        channel_options: further options of the gRPC channel.

    Every call may raise `ConnectionFailed` and the kinds of `RequestError`; options that no message can carry raise
    `InvalidValue` before anything is sent.

    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        tenant: str | None = None,
        token: str | None = None,
        tls: bool | None = None,
        ca: str | PathLike[str] | None = None,
        cert: str | PathLike[str] | None = None,
        key: str | PathLike[str] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        channel_options: ChannelOptions = (),
    ) -> None:
        who = access(target, tenant=tenant, token=token, tls=tls, ca=ca, cert=cert, key=key, credentials=credentials)
        super().__init__(AsyncConnection(target, timeout, who, channel_options))

    async def score(
        self,
        text: str,
        *,
        model: str | None = None,
        unknown_characters: UnknownCharacters | None = None,
        top_logprobs: int = 0,
        timeout: Timeout = NOT_GIVEN,
    ) -> Score:
        """How probable a text is, from a fresh state.

        Args:
            text: the text.
            model: name of the model; default is the server's first one.
            unknown_characters: what to do with those that the model lacks; default is "reject".
            top_logprobs: also tell the most probable tokens at each position, this many; up to 20.
            timeout: of this call alone, in seconds.

        """
        return await self._score(text, model, unknown_characters, top_logprobs, timeout)

    async def inspect(
        self,
        text: str,
        *,
        model: str | None = None,
        unknown_characters: UnknownCharacters | None = None,
        layers: Sequence[int] | None = None,
        top_next: int = 0,
        distributions: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> Inspection:
        """What happens inside the network while it reads a text, from a fresh state: gates and state of every unit.

        Args:
            text: the text, of up to 4,096 tokens.
            model: name of the model; default is the server's first one.
            unknown_characters: what to do with those that the model lacks; default is "reject".
            layers: which ones to tell, 0 for the first; default is all.
            top_next: also tell the most probable tokens after each token, this many; up to 20.
            distributions: also tell the probabilities of all tokens after each token.
            timeout: of this call alone, in seconds.

        Raises:
            FailedPrecondition: the model was exported without what this needs.

        """
        return await self._inspect(text, model, unknown_characters, layers, top_next, distributions, timeout)

    def observe(
        self,
        *,
        model: str | None = None,
        unknown_characters: UnknownCharacters | None = None,
        top_logprobs: int = 0,
        timeout: Timeout = NOT_GIVEN,
    ) -> AsyncObserver:
        """Read text as it comes, from a fresh state, and tell how surprising each token is; arguments as `score`.

        The timeout is that of the observation as a whole.
        """
        return self._observe(model, unknown_characters, top_logprobs, timeout)

    def session(
        self,
        *,
        model: str | None = None,
        id: str | None = None,
        seed: int | None = None,
        time_to_live: float | None = None,
        start: str | None = None,
        keep: bool = False,
        timeout: Timeout = NOT_GIVEN,
    ) -> AsyncSession:
        """Make a session with zero state, or with that of another one, when it is entered or awaited.

        Args:
            model: name of the model; default is the server's first one.
            id: up to 64 letters, digits, '.', '_', '-'; default is the server's choice.
            seed: of its random numbers; default is the server's draw.
            time_to_live: seconds that it is kept without use; default is the server's, or that of `start`.
            start: id of a session to start from, for example one that `prime` made; it stays as it is. The model is
                its own.
            keep: leave it on the server when the `with` block ends.
            timeout: of this call alone, in seconds.

        """
        if start is not None:
            fork_request = _session_requests.start_request(start, model, id, seed, time_to_live)

            async def fork() -> Opened:
                (info,) = await self._fork(fork_request, 1, timeout)
                return Opened(info)

            return AsyncSession(self._connection, fork, keep=keep)
        request = _session_requests.create_session_request(model, id, seed, time_to_live)

        async def create() -> Opened:
            answer = await self._connection.call(self._connection.sessions.CreateSession, request, timeout)
            return Opened(_responses.session_info(answer.session))

        return AsyncSession(self._connection, create, keep=keep)

    async def prime(
        self,
        id: str,
        text: str,
        *,
        model: str | None = None,
        time_to_live: float | None = None,
        timeout: Timeout = NOT_GIVEN,
    ) -> SessionInfo:
        """Make a session of this id that has read a text, for others to start from: `session(start=id)`.

        It is kept. The timeout is that of each of two calls; if the second one fails, the session is deleted again.
        """
        _values.text("text", text)
        session = await self.session(id=id, model=model, time_to_live=time_to_live, keep=True, timeout=timeout)
        try:
            return await session.feed(text, timeout=timeout)
        except BaseException:
            # Without the text it would pass for primed.
            with contextlib.suppress(CharloomError):
                await session.delete(timeout=CLEANUP_TIMEOUT)
            raise

    def open_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> AsyncSession:
        """Go on with a session that exists, when it is entered or awaited. It is kept when the `with` block ends."""

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
        """Make a session of a state that `Session.export`, or a result, gave, when it is entered or awaited.

        Further arguments as `session`.

        Raises:
            DataLoss: the state was changed, cut off, or sealed with a key that this server lacks.
            PermissionDenied: it is another tenant's.
            FailedPrecondition: it expired, or is of a model that this server lacks.

        """
        request = _session_requests.import_session_request(state, id=id, time_to_live=time_to_live)

        async def restore() -> Opened:
            answer = await self._connection.call(self._connection.sessions.ImportSession, request, timeout)
            return Opened(_responses.session_info(answer.session), answer.exact)

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

        Experimental: no network was trained on such.

        The sources are from 2 to 16 sessions, or their ids, with their weights above 0, of which only the proportions
        matter. The blend stands at the position of the first one, and reads that one's last token next. Further
        arguments as `session`.
        """
        request = _session_requests.blend_sessions_request(sources, id=id, seed=seed, time_to_live=time_to_live)

        async def blend() -> Opened:
            answer = await self._connection.call(self._connection.sessions.BlendSessions, request, timeout)
            return Opened(_responses.session_info(answer.session))

        return AsyncSession(self._connection, blend, keep=keep)

    async def get_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> SessionInfo:
        """Describe a session. Does not renew its expiry."""
        return await self._get(id, timeout)

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

    async def delete_session(self, id: str, *, timeout: Timeout = NOT_GIVEN) -> DeletionReceipt:
        """Forget a session, its state and all that it could go back to."""
        return await self._delete(id, timeout)

    def tenant(self, name: str) -> AsyncTenant:
        """All data of a tenant, for administrators; an empty name is that of clients that have no tenant."""
        return AsyncTenant(self._connection, name)

    async def status(self, *, timeout: Timeout = NOT_GIVEN) -> ServerStatus:
        """What the server does at this moment, and has done since it began; for administrators."""
        answer = await self._connection.call(self._connection.status.GetStatus, GetStatusRequest(), timeout)
        return server_status(answer)

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

    async def model_versions(self, *, timeout: Timeout = NOT_GIVEN) -> list[ModelVersion]:
        """Those that serve, then those that are draining, then those that are being loaded."""
        request = models_pb2.ListModelsRequest()
        answer = await self._connection.call(self._connection.models.ListModels, request, timeout)
        return [_responses.model_version(version) for version in answer.versions]

    async def load_model(self, path: str, *, timeout: Timeout = NOT_GIVEN) -> LoadedModel:
        """Load a bundle on the server, and let new calls of its name go to it; for administrators.

        What had its name before drains: running calls go on with it, and sessions until its grace is over.

        Args:
            path: of the bundle there: relative to the server's folder of models, as in "shakespeare/3", or absolute,
                below that folder or a bundle that the server was started with.
            timeout: of this call alone, in seconds; the load goes on when it is over.

        Raises:
            PermissionDenied: the path is not below a folder that the server's operator named.
            FailedPrecondition: the bundle cannot be used; the message says which file and why. Nothing has changed.
            Overloaded: the server has no memory for it.
            Conflict: another call is changing the model.

        """
        request = models_pb2.LoadModelRequest(path=_values.text("path", path))
        answer = await self._connection.call(self._connection.models.LoadModel, request, timeout)
        return _responses.loaded_model(answer)

    async def reload_model(self, name: str = "", *, timeout: Timeout = NOT_GIVEN) -> LoadedModel:
        """Load a model again from where it came, without a name the default one; for administrators, as `load_model`.

        One that came from the server's folder of models comes in its newest complete version.
        """
        request = models_pb2.ReloadModelRequest(name=_values.text("name", name))
        answer = await self._connection.call(self._connection.models.ReloadModel, request, timeout)
        return _responses.loaded_model(answer)

    async def unload_model(self, name: str, *, timeout: Timeout = NOT_GIVEN) -> ModelVersion:
        """Let a model serve no new calls; running ones go on with it, and sessions until its grace is over.

        For administrators.

        Raises:
            FailedPrecondition: it is the only one.
            Conflict: another call is changing it.

        """
        request = models_pb2.UnloadModelRequest(name=_values.text("name", name))
        answer = await self._connection.call(self._connection.models.UnloadModel, request, timeout)
        return _responses.model_version(answer.version)

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
