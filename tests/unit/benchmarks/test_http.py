"""What `benchmarks.http` makes of its runs, and that its client reads what a server sends."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.http import result
from benchmarks.http_load import run_load
from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server


def runs(*speeds: float) -> list[dict[str, Any]]:
    return [{"chars_per_s": speed} for speed in speeds]


def test_the_best_runs_are_compared_and_those_in_the_middle() -> None:
    found = result({"http": runs(80, 60, 70), "grpc": runs(90, 100, 50), "grpc_alone": runs(100, 125, 100)})
    assert (found["ratio"], found["ratio_median"]) == (0.8, round(70 / 90, 3))
    assert (found["listener_ratio"], found["listener_ratio_median"]) == (0.8, 0.9)
    assert found["http"] == {"chars_per_s": 80}


def test_the_client_counts_the_characters_of_its_streams(bundle: Bundle, decoder: Decoder) -> None:
    with running_server([(bundle, decoder)], ServerSettings(grace_seconds=0, http_port=0)) as server:
        found = asyncio.run(run_load(server.http_address, streams=3, rounds=2, length=50))
        counted = server.engine.models[0].totals.generation_tokens
    assert found["chars_per_s"] * found["seconds"] > 0
    assert counted == (3 * 2 + 3) * 50
    assert found["events"] >= 6
