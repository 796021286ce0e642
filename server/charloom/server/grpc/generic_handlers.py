"""Adds services to a gRPC server in the way that is cheapest per call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc


class GenericHandlers:
    """Stands in for a server when generated code adds a service to it, so that no method is registered by itself.

    For registered methods, `grpc.aio` (1.85) has one pending wait per method, and every call that arrives ends and
    renews all of them (40 here). For generic methods together it has one.

    Args:
        server: the server that gets the services
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Serve the methods that these find by their names."""
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Do nothing: generated code adds the same methods to the generic handlers too."""
