"""TenantService: what is kept of a tenant, as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from charloom.engine.clock import utc_now
from charloom.engine.sessions.tenants import PAGE, Erasure
from charloom.engine.telemetry import current_call
from charloom.server.grpc.translation.sessions import from_last_id, to_last_id, to_page_size
from charloom.server.grpc.translation.tenants import from_exported, from_kept, to_tenant
from charloom.server.grpc.translation.times import from_time, to_time_to_live
from charloom.server.runtime import Runtime
from charloom.v1 import tenants_pb2, tenants_pb2_grpc

FULL = 2**20
"""Bytes from which on a message takes no more sessions; clients of gRPC read 4 MiB unless they are told otherwise."""


class TenantService(tenants_pb2_grpc.TenantServiceServicer):
    """Lists, exports and erases. What gives out text or changes something is in the audit log first."""

    def __init__(self, runtime: Runtime) -> None:
        self._tenants = runtime.engine.tenants
        self._sessions = runtime.engine.sessions
        self._audit = runtime.audit

    async def ListTenantData(
        self, request: tenants_pb2.ListTenantDataRequest, context: Any
    ) -> tenants_pb2.ListTenantDataResponse:
        """List a page of what is kept."""
        tenant, size = to_tenant(request), to_page_size(request.page_size)
        kept = await self._sessions.page(tenant, to_last_id(request.page_token), size + 1)
        return tenants_pb2.ListTenantDataResponse(
            sessions=[from_kept(one) for one in kept[:size]],
            next_page_token=from_last_id(kept[size - 1].id) if len(kept) > size else "",
        )

    async def ExportTenant(
        self, request: tenants_pb2.ExportTenantRequest, context: Any
    ) -> AsyncIterator[tenants_pb2.ExportTenantResponse]:
        """Give out all that is kept."""
        tenant, time_to_live = to_tenant(request), to_time_to_live(request)
        self._tenants.require_export(time_to_live)
        async with self._audit.act_of_call("export-tenant", f"tenant {tenant}") as more:
            sessions, size, message = 0, 0, tenants_pb2.ExportTenantResponse()
            async for one in self._tenants.export(tenant, time_to_live):
                message.sessions.append(from_exported(one))
                sessions, size = sessions + 1, size + message.sessions[-1].ByteSize()
                if len(message.sessions) == PAGE or size >= FULL:
                    yield message
                    size, message = 0, tenants_pb2.ExportTenantResponse()
                    more["sessions"] = sessions
            if message.sessions:
                yield message
            more["sessions"] = sessions

    async def EraseTenant(
        self, request: tenants_pb2.EraseTenantRequest, context: Any
    ) -> tenants_pb2.EraseTenantResponse:
        """Erase all that is kept."""
        tenant, erasure = to_tenant(request), Erasure()
        async with self._audit.act_of_call("erase-tenant", f"tenant {tenant}") as more:
            try:
                await self._tenants.erase(tenant, erasure)
            finally:
                more |= {"sessions": erasure.sessions, "bytes": erasure.bytes, "ids_sha256": erasure.ids_sha256}
        return tenants_pb2.EraseTenantResponse(
            tenant=tenant,
            sessions=erasure.sessions,
            bytes=erasure.bytes,
            ids_sha256=erasure.ids_sha256,
            erase_time=from_time(utc_now()),
            request_id=current_call().request_id,
        )
