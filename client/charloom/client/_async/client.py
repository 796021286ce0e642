"""The asyncio client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from charloom.client._access import access
from charloom.client._async.client_administration import AsyncClientAdministration
from charloom.client._async.client_reading import AsyncClientReading
from charloom.client._async.client_sessions import AsyncClientSessions
from charloom.client._async.connection import AsyncConnection
from charloom.client._connection import DEFAULT_TARGET, DEFAULT_TIMEOUT, ChannelOptions
from charloom.client._errors import CharloomError
from charloom.client._model_types import HealthStatus
from charloom.client._options import NOT_GIVEN, Timeout
from charloom.client._readiness import NOT_READY, POLL, Patience

if TYPE_CHECKING:
    from os import PathLike
    from types import TracebackType

    import grpc
    from typing_extensions import Self


class AsyncClient(AsyncClientReading, AsyncClientSessions, AsyncClientAdministration):
    """Talks to one server, or to several identical ones behind one name. Belongs to the event loop of its first call.

    Args:
        target: host and port, or the path of a Unix socket as "unix:PATH". A proxy of the environment (`http_proxy`) is
            not used for this machine.
        timeout: seconds that each call may take unless it is given its own; `None` is no deadline.
        tenant: the tenant whose sessions to use, where a proxy that the server trusts lets its clients choose; with a
            token, the token determines it.
        token: the key that the server's operator made for this client, with `charloom keys create`.
        tls: whether the connection is encrypted. By default it is if `ca`, `cert` or `key` is given, or a token for
            another machine.
        ca: PEM file of the certificate authorities to trust for the server's certificate; default is those of gRPC.
        cert: PEM file of the client's own certificate, where the server requires one.
        key: PEM file of its private key.
        credentials: gRPC channel credentials, instead of `tls`, `ca`, `cert` and `key`.
        channel_options: further options of the gRPC channel.
        shared_stream: whether all texts of this client are streamed on one gRPC stream, instead of one stream each:
            for programs with many short calls at a time. It needs a server of this version, reached directly or
            through a proxy that need not see each call. A text that is read slowly holds up no other: what has arrived
            of it is kept until it is read.

    Every call may raise `ConnectionFailed` and the subclasses of `RequestError`; options that no message can carry
    raise `InvalidValue` before anything is sent.

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
        shared_stream: bool = False,
    ) -> None:
        who = access(target, tenant=tenant, token=token, tls=tls, ca=ca, cert=cert, key=key, credentials=credentials)
        super().__init__(AsyncConnection(target, timeout, who, channel_options, shared_stream=shared_stream))

    async def health(self, *, timeout: Timeout = NOT_GIVEN) -> HealthStatus:
        """Return the health that the server reports."""
        return await self._connection.health(timeout)

    async def is_serving(self, *, timeout: Timeout = NOT_GIVEN) -> bool:
        """Return whether a server answers in time and takes calls."""
        try:
            return await self.health(timeout=timeout) is HealthStatus.SERVING
        except NOT_READY:
            return False

    async def wait_until_ready(self, timeout: float | None = 30.0) -> None:
        """Return as soon as the server takes calls.

        Raises:
            ConnectionFailed: the server does not take calls within `timeout` seconds.

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
