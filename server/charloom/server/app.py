"""A server, put together: the runtime, and the transports through which calls reach it."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.engine import Engine
from charloom.server.admission import Admission
from charloom.server.group import Alone, Group
from charloom.server.grpc.listener import GrpcListener
from charloom.server.listener import Listener
from charloom.server.open_runtime import open_runtime
from charloom.server.process_parts import METRICS
from charloom.server.runtime import Runtime
from charloom.server.settings import ServerSettings
from charloom.server.signals import Orders, call_when_asked, ignore_all

if TYPE_CHECKING:
    from charloom.server.telemetry.engine_metrics import EngineMetrics

log = logging.getLogger(__name__)

CLOSING_SECONDS = 1.0
"""How long, after the last generation ended, its last message may take to leave and its session to be written."""


class DecoderStuck(RuntimeError):
    """A decoder does not return, and its thread cannot be ended. End the process with `os._exit`: the interpreter
    cannot exit in order while a thread is inside a library.
    """


class Server:
    """A server in the running event loop: `start`, then `stop`.

    Args:
        runtime: serves the calls; it is closed with the server
        settings: where to listen
    """

    def __init__(self, runtime: Runtime, settings: ServerSettings) -> None:
        self._runtime = runtime
        admission = Admission(runtime.engine, settings)
        self._grpc = GrpcListener(runtime, settings, admission)
        self._http = None if settings.http_port is None else _http_listener(runtime, settings, admission)
        self._metrics_listener: Listener | None = None
        self._engine_metrics: EngineMetrics | None = None
        if settings.metrics_port is not None:
            self._tell_metrics(settings, settings.metrics_port)
        listeners = (self._grpc, self._http, self._metrics_listener)
        self._listeners: Sequence[Listener] = [one for one in listeners if one is not None]

    def _tell_metrics(self, settings: ServerSettings, port: int) -> None:
        from charloom.server.telemetry.engine_metrics import EngineMetrics

        self._engine_metrics = EngineMetrics(self.engine, per_tenant=settings.metrics_per_tenant)
        if settings.processes > 1:  # the parent serves the metrics, summed over all processes
            self._runtime.group.answer_with(METRICS, self._engine_metrics.text)
            return
        from charloom.server.telemetry.metrics_listener import MetricsListener

        self._metrics_listener = MetricsListener(self._engine_metrics.registry, settings.metrics_host, port)

    @property
    def engine(self) -> Engine:
        """The engine that it serves."""
        return self._runtime.engine

    @property
    def address(self) -> str:
        """Host and port for gRPC, or `unix:PATH`, once started."""
        return self._grpc.address

    @property
    def http_address(self) -> str:
        """Host and port for HTTP, once started; empty where there is none."""
        return "" if self._http is None else self._http.address

    @property
    def metrics_address(self) -> str:
        """Host and port for metrics, once started; empty where there are none."""
        return "" if self._metrics_listener is None else self._metrics_listener.address

    @property
    def port(self) -> int:
        """The port for gRPC, once started."""
        return self._grpc.port

    async def start(self) -> None:
        """Listen and serve; if that fails, close everything.

        Raises:
            PortInUse: an address is taken, or cannot be listened on.
            ValueError: something that a listener needs cannot be used, for example its certificates.
        """
        self._runtime.start()
        if self._engine_metrics is not None:
            self._engine_metrics.start()
        try:
            for listener in self._listeners:
                await listener.start()
        except BaseException:
            await self.stop()
            raise

    async def failed(self) -> None:
        """Wait until a worker of the engine is gone or stuck, so that nothing more can be generated."""
        await self._runtime.failed.wait()

    def reload_models(self) -> None:
        """Begin to load all models again, each from its source."""
        self._runtime.model_upkeep.reload_all()

    async def serves(self) -> dict[str, Any]:
        """Describe the models for another process that is to serve the same; see `ModelUpkeep.serves`."""
        return await self._runtime.model_upkeep.serves()

    async def stop(self) -> None:
        """Announce the stop, let running calls end within the grace time, end the others, close.

        Raises:
            DecoderStuck: everything is closed, but a thread still runs.
        """
        for listener in self._listeners:
            await listener.announce_stop()
        await self._runtime.drain()
        await asyncio.gather(*(listener.close(CLOSING_SECONDS) for listener in self._listeners))
        if self._engine_metrics is not None:
            self._engine_metrics.close()
        await self._runtime.close(CLOSING_SECONDS)
        if self._runtime.stuck:
            names = ", ".join(model.name for model in self._runtime.stuck)
            raise DecoderStuck(f"a call of the decoder of {names} does not return; its texts are lost")
        if self._runtime.models.stuck:
            raise DecoderStuck("a file of a bundle that was to be loaded does not come to an end")


def _http_listener(runtime: Runtime, settings: ServerSettings, admission: Admission) -> Listener:
    try:
        from charloom.server.http.listener import HttpListener
    except ModuleNotFoundError as missing:
        if missing.name not in ("starlette", "uvicorn", "h11"):
            raise
        raise ValueError(
            f"--http-port needs {missing.name}, which is not installed; run: pip install 'charloom[http]'"
        ) from None
    return HttpListener(runtime, settings, admission)


async def open_server(
    models: Sequence[tuple[Bundle, Decoder]], settings: ServerSettings, group: Group | None = None
) -> Server:
    """A server that is not started yet.

    Args:
        models: bundles with their decoders
        settings: the settings
        group: the processes of the server; None: this one is alone

    Raises:
        ValueError: as `open_runtime` and `Admission`, or HTTP is wanted and not installed; or this process would be
            alone, and the settings want several.
        OSError: as `open_runtime`.
    """
    if group is None and settings.processes > 1:
        raise ValueError("a server of several processes is started by charloom serve --processes")
    runtime = await open_runtime(models, settings, group or Alone())
    try:
        return Server(runtime, settings)
    except BaseException:
        await runtime.drain()
        await runtime.close(0)  # the store may hold sessions that it has to write again
        raise


async def serve(
    models: Sequence[tuple[Bundle, Decoder]],
    settings: ServerSettings,
    ready: Callable[[Server], None],
    orders: Orders | None = None,
    group: Group | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. Both are ignored after that, because the process is about to end.

    Args:
        models: bundles with their decoders
        settings: the settings
        ready: called once the server takes calls, unless it is asked to stop before
        orders: registers callbacks for requests to stop and to load the models again; None: signals are the requests
        group: as in `open_server`

    Raises:
        PortInUse: the address is taken.
        ValueError, OSError: as `open_server`.
        DecoderStuck: the server has ended, but a thread still runs.
    """
    orders = orders or call_when_asked
    asked = asyncio.Event()
    opening = asyncio.create_task(open_server(models, settings, group))
    del models  # a model that is replaced gives its memory back once nobody holds it
    serving: Server | None = None

    def stop() -> None:
        if not asked.is_set():
            asked.set()
            opening.cancel()  # it may be waiting for a store that does not answer; does nothing once it is done

    def reload() -> None:
        if serving is not None:
            serving.reload_models()

    orders(stop, reload)
    try:
        try:
            server = await opening
        except asyncio.CancelledError:
            if asked.is_set():
                return
            raise
        await server.start()
        # Without it, each full collection would visit objects that live until the end, with the GIL held.
        gc.freeze()
        try:
            serving = server
            if not asked.is_set():
                ready(server)
            await asked.wait()
            log.info("stopping: running calls have %g s to end; a second signal ends them now", settings.grace_seconds)
        finally:
            orders(server.engine.end_now)
            await server.stop()
    finally:
        ignore_all()
    log.info("stopped")
