"""Real servers for the tests of commands and benchmarks."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server


@pytest.fixture(scope="module")
def server(bundle: Bundle, decoder: Decoder) -> Iterator[Server]:
    with running_server([(bundle, decoder)]) as server:
        yield server


@pytest.fixture(scope="module")
def full_server(bundle: Bundle, decoder: Decoder) -> Iterator[Server]:
    """Takes two calls at a time, and keeps one session."""
    settings = ServerSettings(max_rows=1, workers=1, max_waiting=1, max_sessions=1, grace_seconds=0)
    with running_server([(bundle, decoder)], settings) as server:
        yield server


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nothing listens, and nothing else can begin to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"
