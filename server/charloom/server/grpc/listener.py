"""The gRPC transport: the services of `charloom.v1`, health and reflection on one port."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import DESCRIPTOR as HEALTH
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from charloom.engine.call_end import CallEnd
from charloom.engine.telemetry import CallRecord
from charloom.server.admission import Admission
from charloom.server.grpc.caller import arrival_of
from charloom.server.grpc.connections import connection_options
from charloom.server.grpc.errors import Check, ErrorInterceptor
from charloom.server.grpc.generic_handlers import GenericHandlers
from charloom.server.grpc.message_size import MessageSize, largest_request
from charloom.server.grpc.services.classification import ClassificationService
from charloom.server.grpc.services.conversation import ConversationService
from charloom.server.grpc.services.generation import GenerationService
from charloom.server.grpc.services.health import HealthService
from charloom.server.grpc.services.inference import InferenceService
from charloom.server.grpc.services.models import ModelService
from charloom.server.grpc.services.reading import ReadingService
from charloom.server.grpc.services.sessions import SessionService
from charloom.server.grpc.services.status import StatusService
from charloom.server.grpc.services.suggesting import SuggestingService
from charloom.server.grpc.services.tenants import TenantService
from charloom.server.grpc.services.turn import ClientTurn
from charloom.server.grpc.services.watching import WatchingService
from charloom.server.grpc.tls import server_credentials
from charloom.server.identity.certificates import watched_certificates
from charloom.server.identity.scopes import scope_of
from charloom.server.inference.inference import Inference
from charloom.server.listener import PortInUse
from charloom.server.runtime import Runtime
from charloom.server.settings import ServerSettings
from charloom.server.telemetry.calls import REQUEST_ID_KEY, tell_deadline
from charloom.server.unix_socket import SCHEME, make_free, socket_path
from charloom.v1 import (
    classification_pb2,
    classification_pb2_grpc,
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
    status_pb2,
    status_pb2_grpc,
    suggesting_pb2,
    suggesting_pb2_grpc,
    tenants_pb2,
    tenants_pb2_grpc,
    watching_pb2,
    watching_pb2_grpc,
)

SERVICES = tuple(
    service.full_name
    for file in (
        generation_pb2.DESCRIPTOR,
        conversation_pb2.DESCRIPTOR,
        reading_pb2.DESCRIPTOR,
        suggesting_pb2.DESCRIPTOR,
        watching_pb2.DESCRIPTOR,
        classification_pb2.DESCRIPTOR,
        sessions_pb2.DESCRIPTOR,
        models_pb2.DESCRIPTOR,
        tenants_pb2.DESCRIPTOR,
        status_pb2.DESCRIPTOR,
    )
    for service in file.services_by_name.values()
)

MODEL_HEALTH = "model/"
"""Prefix of the health service of a model; the model's name follows."""
SESSIONS = sessions_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name


class GrpcListener:
    """Takes calls over gRPC, with TLS where the settings name a certificate.

    Args:
        runtime: serves the calls
        settings: where to listen, and what to allow
        admission: lets calls in
    """

    def __init__(self, runtime: Runtime, settings: ServerSettings, admission: Admission) -> None:
        self.port = 0
        """The port that it listens on, once started; 0 for a Unix socket."""
        self.address = ""
        """Host and port, or `unix:PATH`, once started."""
        self._runtime = runtime
        self._settings = settings
        self._watches: list[asyncio.Task[None]] = []
        self._health = HealthService()
        self._admission = admission
        engine = runtime.engine
        self._server = grpc.aio.server(
            interceptors=[ErrorInterceptor(self._begin, lambda: largest_request(engine))],
            options=connection_options(settings),
        )
        services: Any = GenericHandlers(self._server)
        size = MessageSize(settings.max_message_bytes)
        turn = ClientTurn(engine.draining, settings.idle_seconds)
        generation = GenerationService(engine, size, admission, settings)
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(generation, services)
        sessions_pb2_grpc.add_SessionServiceServicer_to_server(SessionService(runtime), services)
        conversation_pb2_grpc.add_ConversationServiceServicer_to_server(ConversationService(engine, turn), services)
        reading_pb2_grpc.add_ReadingServiceServicer_to_server(ReadingService(engine, turn, size), services)
        suggesting_pb2_grpc.add_SuggestingServiceServicer_to_server(SuggestingService(engine), services)
        labels = ClassificationService(engine, turn, size)
        classification_pb2_grpc.add_ClassificationServiceServicer_to_server(labels, services)
        watching_pb2_grpc.add_WatchingServiceServicer_to_server(WatchingService(engine, turn), services)
        models_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(runtime), services)
        tenants_pb2_grpc.add_TenantServiceServicer_to_server(TenantService(runtime), services)
        inference = InferenceService(Inference(engine), turn, admission)
        services.add_generic_rpc_handlers((inference.handler(),))
        status_pb2_grpc.add_StatusServiceServicer_to_server(StatusService(runtime), services)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, services)
        health_name = HEALTH.services_by_name["Health"].full_name
        if settings.reflection:
            reflected = reflection.aio.ReflectionServicer((*SERVICES, health_name, reflection.SERVICE_NAME))
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, services)  # type: ignore[no-untyped-call]

    def _begin(self, method: str, context: Any) -> Check:
        scope = scope_of(method)
        if scope is None:
            return lambda: None

        end = CallEnd()
        context.add_done_callback(lambda _: end.come())

        def begun(record: CallRecord) -> None:
            context.set_trailing_metadata(((REQUEST_ID_KEY, record.request_id),))
            end.add(lambda: tell_deadline(record, context.time_remaining()))

        arrival = arrival_of(context, self._admission)
        self._admission.begin(method.removeprefix("/"), scope, arrival, end.add, begun)
        return self._admission.check(scope, arrival)

    async def start(self) -> None:
        """Listen and take calls.

        Raises:
            PortInUse: the address is taken, or cannot be listened on.
            CertificateProblem: the certificate files cannot be used.
        """
        path = socket_path(self._settings.host)
        if path is None:
            self._listen_on_port()
        else:
            self._listen_on_socket(path)
        await self._server.start()
        for name in ("", *SERVICES):
            self._health.tell(name, HealthCheckResponse.SERVING)
        self._watches = [
            asyncio.create_task(self._tell_failure()),
            asyncio.create_task(self._tell_store()),
            asyncio.create_task(self._tell_models()),
        ]

    def _listen_on_port(self) -> None:
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        address = f"{host}:{self._settings.port}"
        try:
            self.port = self._add(address)
        except RuntimeError as problem:
            raise PortInUse(
                f"cannot listen on {address}: it is in use, or not an address of this machine; "
                "stop the other server, or choose another --port (0 takes a free one)"
            ) from problem
        self.address = f"{host}:{self.port}"

    def _listen_on_socket(self, path: Path) -> None:
        make_free(path)  # gRPC itself would take the path away from a server that listens there
        address = f"{SCHEME}{path}"
        try:
            self._add(address)
        except RuntimeError as problem:
            raise PortInUse(
                f"cannot listen on {address}: no socket can be made there; choose another path"
            ) from problem
        self.address = address

    def _add(self, address: str) -> int:
        certificates = watched_certificates(self._settings)
        if certificates is None:
            return self._server.add_insecure_port(address)
        return self._server.add_secure_port(address, server_credentials(certificates))

    async def announce_stop(self) -> None:
        """Let health say NOT_SERVING; calls are still answered."""
        self._health.tell_stop()

    async def close(self, seconds: float) -> None:
        """Take no more calls, and end those that are left after `seconds`."""
        for watch in self._watches:
            watch.cancel()
        await self._server.stop(seconds)

    async def _tell_failure(self) -> None:
        await self._runtime.failed.wait()
        self._health.tell("", HealthCheckResponse.NOT_SERVING)

    async def _tell_models(self) -> None:
        known: set[str] = set()
        async for working in self._runtime.model_states():
            for name in known | working.keys():
                state = HealthCheckResponse.SERVING if working.get(name) else HealthCheckResponse.NOT_SERVING
                self._health.tell(f"{MODEL_HEALTH}{name}", state)
            known |= working.keys()

    async def _tell_store(self) -> None:
        """Report the store's state as the health of the session service; other services work without a store."""
        async for usable in self._runtime.store_states():
            state = HealthCheckResponse.SERVING if usable else HealthCheckResponse.NOT_SERVING
            self._health.tell(SESSIONS, state)
