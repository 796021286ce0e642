"""`charloom doctor`: what this machine offers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from charloom.bundle import Bundle
from charloom.cli.main import main
from charloom.cli.serving import doctor
from charloom.client import Client
from charloom.engine.decoding.decoder import Decoder
from charloom.server import control_group, open_runtime
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SECONDS", 0.05)


def test_everything_is_told_as_json(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(bundle.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert 1 <= found["workers"] <= found["cores"]
    assert found["memory_for_calls"] < found["memory_limit"]
    assert 0 < found["sessions_in_memory"] <= 100_000
    assert found["torch"]
    model = found["model"]
    assert (model["name"], model["decoder"], model["unit"]) == ("small", "onnx-int8", "character")
    assert model["batch_invariant"] is True
    assert model["tokens_per_second_alone"] > 0
    assert model["tokens_per_second"] > 0


def test_a_person_reads_it_as_a_table(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(bundle.path), "--decoder", "onnx-fp32"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert "onnx-fp32 on cpu" in lines["model"]
    assert "characters/s" in lines["decoder, 1 stream"]
    assert "holds" in lines["batch invariance"]


def test_half_a_core_is_told_and_has_one_worker(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "membership").write_text("0::/\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    monkeypatch.setattr(control_group, "ROOT", tmp_path)
    monkeypatch.setattr(control_group, "MEMBERSHIP", tmp_path / "membership")
    assert main(["doctor", str(bundle.path)]) == 0
    assert "a quota of 0.5; 1 worker for each model" in capsys.readouterr().out


def test_little_memory_holds_fewer_sessions(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(open_runtime, "memory_in_use", lambda: 2**28)
    monkeypatch.setenv("CHARLOOM_MEMORY_BYTES", str(2**28 + 2**20))
    assert main(["doctor", str(bundle.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sessions_in_memory"] == int(2**20 * 0.85) // 2 // found["session_bytes"]


def test_each_of_several_processes_has_its_part_of_the_memory(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(open_runtime, "memory_in_use", lambda: 2**28)
    settings = {"MEMORY_BYTES": 2**32, "PROCESSES": 4, "STORE": f"sqlite:{tmp_path / 'sessions.db'}"}
    for name, value in settings.items():
        monkeypatch.setenv(f"CHARLOOM_{name}", str(value))
    assert main(["doctor", str(bundle.path)]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["memory"].strip() == "1,024 MiB for each of 4 processes"
    assert lines["for calls, sessions"].strip() == f"{768 * 0.85:,.0f} MiB beside the decoder"


def test_a_long_session_takes_about_what_is_told(
    bundle: Bundle, decoder: Decoder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(bundle.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["session_bytes"]
    settings = ServerSettings(grace_seconds=0)
    with running_server([(bundle, decoder)], settings) as server, Client(server.address) as client:
        with client.session(keep=True) as session:
            for _ in range(10):
                session.complete(max_tokens=500)
        assert told / 2 < server.engine.sessions.memory < told * 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/nowhere"], "there is no /nowhere"),
        (["--decoder", "onnx-int4"], "--decoder onnx-int4"),
        (["--device", "cuda"], "no CUDA device is available"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(
    bundle: Bundle, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments if arguments[0].startswith("/") else [str(bundle.path), *arguments]
    assert main(["doctor", *given]) == 1
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) == 1
