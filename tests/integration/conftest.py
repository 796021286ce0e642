"""A real server in this process, and stubs for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from charloom.bundle import Bundle
from charloom.engine.decoder import Decoder
from charloom.server.app import Server
from charloom.server.testing import running_server
from charloom.v1 import generation_pb2_grpc, models_pb2_grpc, sessions_pb2_grpc


@pytest.fixture(scope="module")
def server(bundle: Bundle, decoder: Decoder) -> Iterator[Server]:
    with running_server([(bundle, decoder)]) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def generation(channel: grpc.Channel) -> generation_pb2_grpc.GenerationServiceStub:
    return generation_pb2_grpc.GenerationServiceStub(channel)


@pytest.fixture(scope="module")
def sessions(channel: grpc.Channel) -> sessions_pb2_grpc.SessionServiceStub:
    return sessions_pb2_grpc.SessionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel: grpc.Channel) -> models_pb2_grpc.ModelServiceStub:
    return models_pb2_grpc.ModelServiceStub(channel)


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)
