"""`charloom bench` against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from charloom.cli.main import main
from charloom.cli.serving import load
from charloom.server.app import Server
from tests.unit.client.fake_answers import failing, stream
from tests.unit.client.fake_server import FakeServer

Bench = Callable[..., dict[str, Any]]


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Bench:
    """Runs the command and returns its figures."""

    def run(server: Server, words: str) -> dict[str, Any]:
        assert main(["bench", "--target", server.address, "--json", *words.split()]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        (line,) = printed.out.splitlines()
        return json.loads(line)

    return run


def streams_that_were_shared(server: Server) -> int:
    """How many a server has had so far, and has still."""
    totals = server.engine.totals.methods.get("charloom.v1.GenerationService/GenerateMany")
    return 0 if totals is None else totals.running + sum(totals.ended.values())


@pytest.mark.parametrize(("more", "shared"), [("", 0), ("--shared-stream --connections 2", 2)])
def test_long_streams_are_all_read_to_their_end(bench: Bench, server: Server, more: str, shared: int) -> None:
    before = streams_that_were_shared(server)
    found = bench(server, f"--streams 3 --rounds 2 --length 400 {more}")
    assert streams_that_were_shared(server) == before + shared
    assert found["calls_per_s"] * found["seconds"] == pytest.approx(6, rel=0.1, abs=0.06 * found["seconds"])
    assert found["chars_per_s"] * found["seconds"] == pytest.approx(6 * 400, rel=0.1)
    assert 0 < found["ttfc_ms"]["p50"] <= found["ttfc_ms"]["p99"] < found["seconds"] * 1000
    assert found["gap_ms"]["p50"] > 0
    assert found["refused"] == 0
    assert "refusal_ms" not in found


@pytest.mark.parametrize("more", ["", "--shared-stream"])
def test_a_short_session_has_four_calls(bench: Bench, server: Server, more: str) -> None:
    found = bench(server, f"--workload short --streams 2 --rounds 3 {more}")
    assert found["calls_per_s"] * found["seconds"] == pytest.approx(2 * 3 * 4, rel=0.1, abs=0.06 * found["seconds"])
    assert found["chars_per_s"] * found["seconds"] == pytest.approx(2 * 3 * 4 * load.SHORT_LENGTH, rel=0.1)


def test_a_short_session_does_not_stay_with_the_server_for_long() -> None:
    fake = FakeServer()
    try:
        assert main(["bench", "--target", fake.target, "--workload", "short", "--streams", "2"]) == 0
    finally:
        fake.stop()
    made = [asked.options.new_session for asked in fake.asked("Generate") if asked.options.session_id]
    assert len(made) >= 2 * load.SHORT_CALLS
    assert {one.time_to_live.seconds for one in made} == {60}


def test_arrivals_are_probes_among_streams_that_begin_again(bench: Bench, server: Server) -> None:
    found = bench(server, "--workload arrivals --streams 3 --length 100 --probes 8 --prompt 20")
    assert found["probes"] == 8
    assert found["ttfc_ms"]["p50"] > 0
    # Far more than the probes and the first streams had.
    assert found["chars_per_s"] * found["seconds"] > 8 * load.PROBE_LENGTH + 3 * 100


def test_arrivals_without_streams_are_the_probes_alone(
    bench: Bench, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "PAUSE", 0.01)
    found = bench(server, "--workload arrivals --streams 0 --probes 5")
    assert found["probes"] == 5
    assert found["gap_ms"] is None
    assert found["chars_per_s"] * found["seconds"] == pytest.approx(5 * load.PROBE_LENGTH, rel=0.2)


@pytest.mark.parametrize(
    "words",
    [
        "--streams 12 --rounds 2 --length 1000",
        "--streams 12 --rounds 2 --length 1000 --shared-stream",
        "--streams 12 --workload short",
    ],
)
def test_refusals_are_counted_and_not_measured_as_calls(bench: Bench, full_server: Server, words: str) -> None:
    found = bench(full_server, words)
    assert found["refused"] > 0
    assert 0 < found["refusal_ms"]["p50"] <= found["refusal_ms"]["p99"]
    if "short" not in words:
        accepted = 12 * 2 - found["refused"]
        assert found["calls_per_s"] * found["seconds"] == pytest.approx(accepted, rel=0.1, abs=0.06 * found["seconds"])
        assert found["chars_per_s"] * found["seconds"] == pytest.approx(accepted * 1000, rel=0.1)


def test_arrivals_at_a_full_server_are_refused_and_come_to_an_end(bench: Bench, full_server: Server) -> None:
    found = bench(full_server, "--workload arrivals --streams 4 --probes 5 --length 200")
    assert found["probes"] == 5
    assert found["refused"] > 2


def test_without_json_it_is_a_table(
    server: Server, full_server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHARLOOM_TARGET", server.address)
    assert main(["bench", "--streams", "2", "--length", "2000"]) == 0
    title, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith(f"long, 2 streams at a time, from {server.address}, ")
    names = [row[2:].split("  ")[0] for row in rows]
    assert names[:5] == ["characters/s", "calls/s", "messages/s", "first character", "gap between messages"]
    assert "refused" not in names
    assert main(["bench", "--target", full_server.address, "--streams", "12", "--length", "1000"]) == 0
    assert "  refused " in capsys.readouterr().out


def test_no_server_is_one_line(nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--target", nobody]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"charloom bench: no answer from {nobody}")
    assert len(printed.err.splitlines()) == 1


def test_what_the_server_does_not_allow_is_one_line(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--target", server.address, "--length", "1000000"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"charloom bench: a call to {server.address} failed and the load was broken off: INVALID_ARG"
    )
    assert "max_tokens: 1000000 is not allowed" in line


@pytest.mark.parametrize("workload", ["long", "arrivals"])
def test_a_server_that_goes_away_is_one_line(workload: str, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeServer()
    gone = failing(grpc.StatusCode.UNAVAILABLE, "gone")

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        return (stream if len(fake.asked("Generate")) <= 5 else gone)(request, context)

    fake.answers["Generate"] = answer
    try:
        assert main(["bench", "--target", fake.target, "--streams", "4", "--workload", workload]) == 1
    finally:
        fake.stop()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"charloom bench: a call to {fake.target} failed and the load was broken off: UNAVAILABLE: gone"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--streams 0", "--streams 0 has no meaning with --workload long; it goes with: arrivals"),
        ("--probes 3", "--probes has no meaning with --workload long; it goes with: arrivals"),
        ("--workload short --length 3", "--length has no meaning with --workload short; it goes with: long, arrivals"),
        ("--workload arrivals --rounds 3", "--rounds has no meaning with --workload arrivals; it goes with: long, sho"),
    ],
)
def test_flags_that_do_not_go_together(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words.split()]) == 1
    assert f"charloom bench: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--streams=-1", "'-1' is not a whole number from 0 on"),
        ("--rounds 0", "'0' is not a whole number from 1 on"),
        ("--length many", "'many' is not a whole number from 1 on"),
        ("--probes 1.5", "'1.5' is not a whole number from 1 on"),
        ("--workload medium", "invalid choice: 'medium'"),
    ],
)
def test_values_that_are_none(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *words.split()])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_it_needs_nothing_that_a_client_does_not_have() -> None:
    absent = ["torch", "onnxruntime", "numpy", "pydantic", "onnx"]
    code = f"import sys, charloom.cli.serving.bench; print(*[name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
