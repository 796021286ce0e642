"""Who makes a gRPC call: the one place that reads a call's metadata."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc.aio import ServerInterceptor

from charloom.engine.errors import InvalidRequest
from charloom.engine.sessions.checks import require_id
from charloom.server.caller import Caller, set_caller

TENANT_KEY = "charloom-tenant"
"""Metadata that names the tenant. Nothing here proves it: whoever lets calls in from outside has to set it."""


class CallerInterceptor(ServerInterceptor):
    """Sets the caller of every call to a service of ours; health and reflection answer anybody."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Set the caller; the handler runs in the same task.

        Raises:
            InvalidRequest: the tenant's name is malformed, or there are several.
        """
        if handler_call_details.method.startswith("/charloom."):
            set_caller(_caller_of(handler_call_details.invocation_metadata))
        return await continuation(handler_call_details)


def _caller_of(metadata: Any) -> Caller:
    named = [str(value) for key, value in metadata or () if key == TENANT_KEY]
    if not named:
        return Caller()
    if len(named) > 1:  # a proxy that appends has left the client's own: neither can be trusted
        raise InvalidRequest(
            TENANT_KEY, f"the call has {len(named)} values; give one, and let a proxy in front replace the client's own"
        )
    require_id(TENANT_KEY, named[0])
    return Caller(tenant=named[0])
