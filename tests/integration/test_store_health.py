"""A store that cannot be used shows in health within seconds, and so does its return."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.server.grpc.listener import SERVICES, SESSIONS
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import generation_pb2, generation_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from tests.integration.conftest import health_stub, refused
from tests.unit.engine.redis_server import RedisServer

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
SECONDS = 60.0
"""In which it has to show, with much to spare: one look each second, and patience with the store, take at most 4."""


class File:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "sessions.db"
        self.url = f"sqlite:{self.path}"

    def fail(self) -> None:
        self.path.rename(self.path.with_name("away"))

    def come_back(self) -> None:
        self.path.with_name("away").rename(self.path)

    def end(self) -> None:
        pass


class Replica:
    def __init__(self, folder: Path) -> None:
        self.server = RedisServer(folder)
        self.url = self.server.url
        self.end = self.server.kill

    def fail(self) -> None:
        self.server.told("REPLICAOF", "127.0.0.1", "1")

    def come_back(self) -> None:
        self.server.told("REPLICAOF", "NO", "ONE")


class Gone(Replica):
    def fail(self) -> None:
        self.server.kill()

    def come_back(self) -> None:
        assert self.server.start()


class Hanging(Replica):
    def fail(self) -> None:
        self.server.pause()

    def come_back(self) -> None:
        self.server.go_on()


@pytest.mark.parametrize("kind", [File, Replica, Gone, Hanging])
def test_a_store_that_cannot_be_used_shows_in_health(
    bundle: Bundle,
    decoder: Decoder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: type[File | Replica],
) -> None:
    store = kind(tmp_path)
    settings = ServerSettings(grace_seconds=0, store=store.url)
    try:
        with running_server([(bundle, decoder)], settings) as server, grpc.insecure_channel(server.address) as channel:
            sessions = sessions_pb2_grpc.SessionServiceStub(channel)
            generation = generation_pb2_grpc.GenerationServiceStub(channel)
            health = health_stub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service=SESSIONS), timeout=180)
            assert next(watch).status == SERVING
            store.fail()
            start = time.monotonic()
            assert next(watch).status == NOT_SERVING
            assert time.monotonic() - start < SECONDS
            for service in {"", *SERVICES} - {SESSIONS}:
                assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING
            options = generation_pb2.GenerationOptions(max_tokens=3)
            assert generation.Complete(generation_pb2.CompleteRequest(options=options)).completions
            create = sessions_pb2.CreateSessionRequest(session_id="a")
            assert refused(lambda: sessions.CreateSession(create))[:2] == (
                grpc.StatusCode.UNAVAILABLE,
                "STORE_UNAVAILABLE",
            )
            store.come_back()
            start = time.monotonic()
            assert next(watch).status == SERVING
            assert time.monotonic() - start < SECONDS
            sessions.CreateSession(create)
            assert len([line for line in caplog.messages if "calls with sessions fail" in line]) == 1
    finally:
        store.end()
