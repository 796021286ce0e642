"""Assembly: bundles, engine, services, health and reflection become one running server.

Knows: which parts there are and in which order they start and stop. Does not know: what they do.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_health.v1.health_pb2 import DESCRIPTOR as HEALTH
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection

from charloom.bundle import Bundle, read_bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.engine.engine import Engine
from charloom.engine.errors import EngineError
from charloom.engine.sessions.sealing import Sealer, new_keys, read_keys
from charloom.engine.sessions.stores.open_store import open_store
from charloom.engine.sessions.stores.store import LEASE_SECONDS, Store
from charloom.server.grpc.errors import ErrorInterceptor
from charloom.server.grpc.services.conversation import ConversationService
from charloom.server.grpc.services.generation import GenerationService
from charloom.server.grpc.services.models import ModelService
from charloom.server.grpc.services.reading import ReadingService
from charloom.server.grpc.services.sessions import SessionService
from charloom.server.settings import ServerSettings
from charloom.v1 import (
    conversation_pb2,
    conversation_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    reading_pb2,
    reading_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
)

log = logging.getLogger(__name__)

SERVICES = tuple(
    service.full_name
    for file in (
        generation_pb2.DESCRIPTOR,
        conversation_pb2.DESCRIPTOR,
        reading_pb2.DESCRIPTOR,
        sessions_pb2.DESCRIPTOR,
        models_pb2.DESCRIPTOR,
    )
    for service in file.services_by_name.values()
)
SWEEP_SECONDS = 10.0
CLOSING_SECONDS = 1.0
"""After the last generation ended, how long its last message may take to leave."""


class PortInUse(OSError):
    """The address to listen on is taken."""


def open_models(paths: Sequence[Path], settings: ServerSettings) -> list[tuple[Bundle, Decoder]]:
    """Open bundles and their decoders.

    Raises:
        BundleError: one of them cannot be used.
    """
    bundles = [read_bundle(path) for path in paths]
    return [(b, open_decoder(b, kind=settings.decoder, device=settings.device)) for b in bundles]


class Server:
    """A server in the running event loop: `start`, then `stop`.

    Args:
        models: bundles with their decoders, the default one first
        settings: the settings
        store: of the sessions; in memory if not given

    Raises:
        ValueError: there is no model, or two have the same name; or the file with the keys has none.
        OSError: it cannot be read.
    """

    def __init__(
        self, models: Sequence[tuple[Bundle, Decoder]], settings: ServerSettings, store: Store | None = None
    ) -> None:
        keys = new_keys() if settings.sealing_keys is None else read_keys(settings.sealing_keys)
        self.engine = Engine(models, settings.limits(), store, Sealer(keys))
        self.port = 0
        """The port it listens on, once started."""
        self.address = ""
        """Host and port, once started."""
        self._settings = settings
        self._health = HealthServicer()
        self._upkeep: list[asyncio.Task[None]] = []
        self._server = grpc.aio.server(
            interceptors=[ErrorInterceptor()],
            # Without this, a second server on the same port would start and take half of the calls.
            options=[("grpc.so_reuseport", 0)],
        )
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(GenerationService(self.engine), self._server)
        sessions_pb2_grpc.add_SessionServiceServicer_to_server(SessionService(self.engine), self._server)
        conversation_pb2_grpc.add_ConversationServiceServicer_to_server(ConversationService(self.engine), self._server)
        reading_pb2_grpc.add_ReadingServiceServicer_to_server(ReadingService(self.engine), self._server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(self.engine), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        health_name = HEALTH.services_by_name["Health"].full_name
        reflection.enable_server_reflection((*SERVICES, health_name, reflection.SERVICE_NAME), self._server)

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            PortInUse: the address is taken, or cannot be listened on.
        """
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        address = f"{host}:{self._settings.port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as problem:
            await self.engine.drain(0)
            await self.engine.sessions.close()
            raise PortInUse(
                f"cannot listen on {address}: it is in use, or not an address of this machine; "
                "stop the other server, or choose another --port (0 takes a free one)"
            ) from problem
        self.address = f"{host}:{self.port}"
        await self._server.start()
        self._upkeep = [asyncio.create_task(self._sweep()), asyncio.create_task(self._keep_leases())]
        for name in ("", *SERVICES):
            await self._health.set(name, HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """Tell health, let running calls end within the grace time, end the others, close."""
        await self._health.enter_graceful_shutdown()
        await self.engine.drain(self._settings.grace_seconds)
        await self._server.stop(CLOSING_SECONDS)
        await self.engine.sessions.all_written(CLOSING_SECONDS)
        for task in self._upkeep:
            task.cancel()
        await asyncio.gather(*self._upkeep, return_exceptions=True)
        await self.engine.sessions.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.engine.sessions.sweep()
            except EngineError as problem:
                log.warning("expired sessions were not swept: %s", problem)
            if not self.engine.working:
                await self._health.set("", HealthCheckResponse.NOT_SERVING)

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 4)
            await self.engine.sessions.keep_leases()


async def open_server(models: Sequence[tuple[Bundle, Decoder]], settings: ServerSettings) -> Server:
    """A server with the session store of its settings; not started yet.

    Raises:
        ValueError, OSError: the session store or the file with the keys cannot be used.
    """
    return Server(models, settings, await open_store(settings.store, settings.max_sessions))


async def serve(
    models: Sequence[tuple[Bundle, Decoder]], settings: ServerSettings, ready: Callable[[Server], None]
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        models: bundles with their decoders
        settings: the settings
        ready: called once the server takes calls

    Raises:
        PortInUse: the address is taken.
        ValueError, OSError: the session store or the file with the keys cannot be used.
    """
    server = await open_server(models, settings)
    await server.start()
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    ready(server)
    await asked.wait()
    log.info("stopping: running calls have %g s to end; a second signal ends them now", settings.grace_seconds)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.engine.end_now)
    await server.stop()
    log.info("stopped")
