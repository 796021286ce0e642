"""Every call passes the interceptor that says who makes it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from charloom import inference
from charloom.v1 import (
    classification_pb2,
    conversation_pb2,
    generation_pb2,
    models_pb2,
    reading_pb2,
    sessions_pb2,
    sessions_pb2_grpc,
    status_pb2,
    suggesting_pb2,
    tenants_pb2,
    watching_pb2,
)
from tests.integration.conftest import health_stub, refused

FILES = (
    conversation_pb2.DESCRIPTOR,
    generation_pb2.DESCRIPTOR,
    models_pb2.DESCRIPTOR,
    reading_pb2.DESCRIPTOR,
    sessions_pb2.DESCRIPTOR,
    suggesting_pb2.DESCRIPTOR,
    classification_pb2.DESCRIPTOR,
    tenants_pb2.DESCRIPTOR,
    watching_pb2.DESCRIPTOR,
    status_pb2.DESCRIPTOR,
)
METHODS = [
    *(method for file in FILES for service in file.services_by_name.values() for method in service.methods),
    *inference.SERVICE.methods,
]
MALFORMED = (("charloom-tenant", "a/b"),)


def call(channel: grpc.Channel, method: MethodDescriptor, metadata: Any) -> list[bytes]:
    """The answers to one empty request."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    if method.client_streaming:
        return list(channel.stream_stream(path)(iter([b""]), metadata=metadata, timeout=60))
    if method.server_streaming:
        return list(channel.unary_stream(path)(b"", metadata=metadata, timeout=60))
    return [channel.unary_unary(path)(b"", metadata=metadata, timeout=60)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_malformed_tenant_is_refused_by_every_method(channel: grpc.Channel, method: MethodDescriptor) -> None:
    code, _, violations, _ = refused(lambda: call(channel, method, MALFORMED))
    assert (code, set(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, {"charloom-tenant"})


@pytest.mark.parametrize("second", ["mine", "yours"])
def test_a_call_that_names_two_tenants_is_refused(channel: grpc.Channel, second: str) -> None:
    stub = sessions_pb2_grpc.SessionServiceStub(channel)
    metadata = (("charloom-tenant", "mine"), ("charloom-tenant", second))
    code, _, violations, _ = refused(
        lambda: stub.ListSessions(sessions_pb2.ListSessionsRequest(), metadata=metadata, timeout=60)
    )
    assert (code, set(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, {"charloom-tenant"})
    assert "2 values" in violations["charloom-tenant"]


def test_health_answers_anybody(channel: grpc.Channel) -> None:
    health = health_stub(channel)
    answer = health.Check(health_pb2.HealthCheckRequest(), metadata=MALFORMED, timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_tells_which_services_there_are(channel: grpc.Channel) -> None:
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    (told,) = stub.ServerReflectionInfo(iter([asked]), timeout=60)
    assert "charloom.v1.GenerationService" in {service.name for service in told.list_services_response.service}
    (told,) = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest()]), timeout=60)
    assert told.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_calls_at_the_same_time_have_each_their_own_caller(channel: grpc.Channel) -> None:
    stub = sessions_pb2_grpc.SessionServiceStub(channel)

    def use(tenant: str) -> list[str]:
        metadata = (("charloom-tenant", tenant),)
        seen = []
        for number in range(10):
            stub.CreateSession(
                sessions_pb2.CreateSessionRequest(session_id=f"{tenant}-{number}"), metadata=metadata, timeout=60
            )
            listed = stub.ListSessions(sessions_pb2.ListSessionsRequest(), metadata=metadata, timeout=60).sessions
            seen = [session.id for session in listed]
        return seen

    tenants = [f"tenant-{number}" for number in range(8)]
    with ThreadPoolExecutor(len(tenants)) as pool:
        for tenant, seen in zip(tenants, pool.map(use, tenants), strict=True):
            assert seen == [f"{tenant}-{number}" for number in range(10)]
