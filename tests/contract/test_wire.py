"""The wire contract is served and tested as a whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from charloom.server.grpc.listener import SERVICES
from charloom.server.grpc.services.classification import ClassificationService
from charloom.server.grpc.services.conversation import ConversationService
from charloom.server.grpc.services.generation import GenerationService
from charloom.server.grpc.services.models import ModelService
from charloom.server.grpc.services.reading import ReadingService
from charloom.server.grpc.services.sessions import SessionService
from charloom.server.grpc.services.status import StatusService
from charloom.server.grpc.services.suggesting import SuggestingService
from charloom.server.grpc.services.tenants import TenantService
from charloom.server.grpc.services.watching import WatchingService
from charloom.v1 import (
    classification_pb2,
    conversation_pb2,
    generation_pb2,
    models_pb2,
    reading_pb2,
    sessions_pb2,
    status_pb2,
    suggesting_pb2,
    tenants_pb2,
    watching_pb2,
)

ROOT = Path(__file__).resolve().parents[2]
IMPLEMENTATIONS = {
    "charloom.v1.GenerationService": GenerationService,
    "charloom.v1.ConversationService": ConversationService,
    "charloom.v1.ReadingService": ReadingService,
    "charloom.v1.SuggestingService": SuggestingService,
    "charloom.v1.ClassificationService": ClassificationService,
    "charloom.v1.WatchingService": WatchingService,
    "charloom.v1.SessionService": SessionService,
    "charloom.v1.ModelService": ModelService,
    "charloom.v1.TenantService": TenantService,
    "charloom.v1.StatusService": StatusService,
}
METHODS = [
    (service.full_name, method.name, method.input_type.name)
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
    for method in service.methods
]


def test_every_service_is_served() -> None:
    assert set(SERVICES) == set(IMPLEMENTATIONS) == {service for service, _, _ in METHODS}


@pytest.mark.parametrize(("service", "method", "request_type"), METHODS)
def test_every_method_is_implemented_and_called_by_an_integration_test(
    service: str, method: str, request_type: str
) -> None:
    assert method in vars(IMPLEMENTATIONS[service])
    tests = [path.read_text("utf-8") for path in (ROOT / "tests" / "integration").glob("test_*wire.py")]
    # The name alone could be another service's: that of health has a Watch too.
    assert any(f".{method}(" in test and f".{request_type}(" in test for test in tests)


def test_the_committed_stubs_are_what_the_generator_makes() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate-stubs", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
