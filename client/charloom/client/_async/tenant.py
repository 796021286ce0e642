"""An administrator's calls about all data of one tenant, over asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator

from charloom.client import _session_requests, _session_responses, _values
from charloom.client._async.connection import AsyncConnection
from charloom.client._connection import PAGE_SIZE
from charloom.client._options import NOT_GIVEN, Timeout
from charloom.client._tenant_types import ErasureReceipt, ExportedSession, KeptSession
from charloom.v1 import tenants_pb2


class AsyncTenant:
    """An administrator's access to all data of one tenant; made by `AsyncClient.tenant`.

    Every call raises `PermissionDenied` if the token does not have the scope `admin`.
    """

    def __init__(self, connection: AsyncConnection, name: str) -> None:
        self._connection = connection
        self._name = _values.text("name", name)

    @property
    def name(self) -> str:
        """Name of the tenant; empty for clients that have no tenant."""
        return self._name

    async def sessions(self, *, timeout: Timeout = NOT_GIVEN) -> AsyncIterator[KeptSession]:
        """Iterate over all sessions in the order of their ids, fetched page by page; the timeout is that of one page.

        Includes sessions that the server cannot read any more.
        """
        request = tenants_pb2.ListTenantDataRequest(tenant=self._name, page_size=PAGE_SIZE)
        while True:
            page = await self._connection.call(self._connection.tenants.ListTenantData, request, timeout)
            for session in page.sessions:
                yield _session_responses.kept_session(session)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def export(
        self, *, time_to_live: float | None = None, timeout: Timeout = None
    ) -> AsyncIterator[ExportedSession]:
        """Export all sessions in the order of their ids, each with its text and its state, as they arrive.

        A session that cannot be exported is included, with its `problem`.

        Args:
            time_to_live: seconds for which the states can be used; default is the server's time to live for sessions.
            timeout: of the export as a whole, in seconds; default is none.

        """
        request = _session_requests.export_tenant_request(self._name, time_to_live)
        async for message in self._connection.stream(self._connection.tenants.ExportTenant, request, timeout):
            for session in message.sessions:
                yield _session_responses.exported_session(session)

    async def erase(self, *, timeout: Timeout = None) -> ErasureReceipt:
        """Erase all sessions for good, including those that the server cannot read and those that calls are using.

        A second call finds nothing to erase, and its receipt says so. By default there is no timeout.
        """
        request = tenants_pb2.EraseTenantRequest(tenant=self._name)
        return _session_responses.erasure_receipt(
            await self._connection.call(self._connection.tenants.EraseTenant, request, timeout)
        )
