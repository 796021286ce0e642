"""A real server in this process, and stubs for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status

from charloom.bundle import Bundle, DecoderKind, read_bundle
from charloom.client import Client
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.server import model_upkeep
from charloom.server.app import Server
from charloom.server.model_upkeep import ModelUpkeep
from charloom.server.process_memory import give_memory_back, memory_in_use
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import (
    conversation_pb2_grpc,
    generation_pb2_grpc,
    models_pb2_grpc,
    reading_pb2_grpc,
    sessions_pb2_grpc,
)
from tests.integration.model_versions import Folder
from tests.integration.server_process import Start, starting
from tests.waiting import eventually


@pytest.fixture(scope="module")
def server(bundle: Bundle, decoder: Decoder) -> Iterator[Server]:
    """Its clients are on this machine, and it believes whom they say they call for."""
    settings = ServerSettings(grace_seconds=0, trust_proxy="127.0.0.1")
    with running_server([(bundle, decoder)], settings) as server:
        yield server


@pytest.fixture(scope="module")
def http_server(bundle: Bundle, decoder: Decoder) -> Iterator[Server]:
    """One that answers HTTP too."""
    with running_server([(bundle, decoder)], ServerSettings(grace_seconds=0, http_port=0)) as server:
        yield server


@pytest.fixture
def start(bundle: Bundle) -> Iterator[Start]:
    """Starts server processes of the bundle."""
    with starting(bundle.path) as start:
        yield start


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


@pytest.fixture(scope="module")
def reading(channel: grpc.Channel) -> reading_pb2_grpc.ReadingServiceStub:
    return reading_pb2_grpc.ReadingServiceStub(channel)


@pytest.fixture(scope="module")
def conversation(channel: grpc.Channel) -> conversation_pb2_grpc.ConversationServiceStub:
    return conversation_pb2_grpc.ConversationServiceStub(channel)


@pytest.fixture
def copied_run(run_directory: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return Path(shutil.copytree(run_directory, tmp_path / "copied-run"))


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Folder:
    return Folder(tmp_path / "models", bundle)


@pytest.fixture
def started(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Server, Client]]]:
    """Starts a server of version 1 of "small", which looks at its folder often.

    Little is buffered on the way to its client: a text of 20,000 tokens goes on until it is read.
    """
    narrow = {"grpc.http2.lookahead_bytes": 1024, "grpc.http2.bdp_probe": 0}
    monkeypatch.setattr(model_upkeep, "LOOK_SECONDS", 0.3)

    def start(**more: Any) -> tuple[Server, Client]:
        settings = ServerSettings(
            grace_seconds=0, model_folder=folder.path, **{"max_rows": 4, "workers": 1, "decoder": "onnx-int8", **more}
        )
        first = read_bundle(folder.add("1"))
        models = [(first, open_decoder(first, kind=DecoderKind.ONNX_INT8))]
        server = opened.enter_context(running_server(models, settings))
        return server, opened.enter_context(Client(server.address, channel_options=narrow, timeout=600))

    with ExitStack() as opened:
        yield start


@pytest.fixture
def looks_again(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Waits until a server that starts later has looked again at its models, from the beginning to the end."""
    begun: list[None] = []
    watch_once = ModelUpkeep._watch_once

    async def counted(upkeep: ModelUpkeep) -> None:
        begun.append(None)
        await watch_once(upkeep)

    def wait() -> None:
        before = len(begun)
        eventually(lambda: len(begun) > before + 2)

    monkeypatch.setattr(ModelUpkeep, "_watch_once", counted)
    return wait


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str, dict[str, str], str]:
    """Code, reason, violations by field and message of a call that must fail."""
    with pytest.raises(grpc.RpcError) as failed:
        call()
    status = rpc_status.from_call(failed.value)
    assert status is not None
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    assert info.domain == "charloom"
    violations = {violation.field: violation.description for violation in bad.field_violations}
    return failed.value.code(), info.reason, violations, status.message  # type: ignore[attr-defined]


def health_stub(channel: grpc.Channel) -> Any:
    """The stub of grpc.health.v1; the package's types do not tell its calls."""
    return health_pb2_grpc.HealthStub(channel)


def memory_held() -> int:
    """Bytes of this process, but for what the allocator keeps of what is free."""
    give_memory_back()
    return memory_in_use()
