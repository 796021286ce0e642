"""How a server process ends: signals, calls that run meanwhile, sessions that are kept; and the signal to reload."""

from __future__ import annotations

import base64
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

from charloom.bundle import Bundle, read_bundle
from charloom.client import Client
from charloom.engine.sessions.records import PLAIN
from charloom.engine.sessions.stores.memory_file import OwnedSession, read_sessions, write_sessions
from charloom.engine.shares import ONLY
from charloom.v1 import generation_pb2, generation_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from tests.integration.conftest import health_stub
from tests.integration.server_process import Start, request
from tests.unit.bundle.bundle_files import change_manifest
from tests.unit.engine.stores import Place, made


def test_sigterm_ends_a_long_call_after_the_grace_time_with_its_session_told(start: Start) -> None:
    process, address = start("--grace-seconds", "0.5", "--max-tokens", "1000000000")
    with grpc.insecure_channel(address) as channel:
        session = (
            sessions_pb2_grpc.SessionServiceStub(channel).CreateSession(sessions_pb2.CreateSessionRequest()).session
        )
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        health = health_stub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        long = stub.Generate(request(session_id=session.id, max_tokens=1_000_000_000))
        first = next(long)
        process.send_signal(signal.SIGTERM)
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
        messages = list(long)
        result = messages[-1].result
        assert result.finish_reason == generation_pb2.FINISH_REASON_DRAINING
        assert sum(len(message.text) for message in messages) + len(first.text) == result.usage.completion_tokens
        assert result.session.position == result.usage.completion_tokens
    process.communicate(timeout=120)
    assert process.returncode == 0


def test_sessions_in_memory_are_written_at_the_end_and_read_by_the_next_server(start: Start, tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(base64.b64encode(os.urandom(32)))
    (tmp_path / "keys").chmod(0o600)
    kept = tmp_path / "sessions"
    options = ("--store", f"memory:{kept}", "--sealing-keys", str(tmp_path / "keys"), "--grace-seconds", "0")
    process, address = start(*options, "--max-tokens", "1000000000")
    with Client(address) as client:
        with client.session(id="whole", seed=5, keep=True) as session:
            whole = session.complete(max_tokens=600).text
        with client.session(id="a", seed=5, keep=True) as session:
            first = session.complete(max_tokens=60).text
        with (
            client.session(id="running", seed=5, keep=True) as session,
            session.generate(max_tokens=1_000_000_000) as running,
        ):
            text = next(running)
            process.send_signal(signal.SIGTERM)
            text += "".join(running)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert f"3 sessions were written to {kept}" in errors
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert whole.encode() not in kept.read_bytes()

    process, address = start(*options)
    assert not kept.exists()
    with Client(address) as client:
        with client.open_session("a") as session:
            assert first + session.complete(max_tokens=540).text == whole
        with client.open_session("running") as session:
            assert session.info.position == len(text)
            text += session.complete(max_tokens=50).text
            assert text[:600] == whole[: len(text)]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    damaged = kept.read_bytes()[:-1]
    kept.write_bytes(damaged)
    process, address = start(*options)
    assert address == ""
    _, errors = process.communicate(timeout=120)
    assert "move it away to start without its sessions" in errors
    assert "Traceback" not in errors
    assert process.returncode == 1
    assert kept.read_bytes() == damaged


def test_a_signal_lets_a_short_call_end_and_a_second_one_does_not_wait_for_the_grace_time(start: Start) -> None:
    process, address = start("--grace-seconds", "600", "--max-tokens", "1000000000")
    with grpc.insecure_channel(address) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        stream, short = (stub.Generate(request(max_tokens=length)) for length in (1_000_000_000, 10_000))
        next(stream)
        next(short)
        health = health_stub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        process.send_signal(signal.SIGINT)
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert list(short)[-1].result.finish_reason == generation_pb2.FINISH_REASON_LENGTH
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert list(stream)[-1].result.finish_reason == generation_pb2.FINISH_REASON_DRAINING
    process.communicate(timeout=120)
    assert process.returncode == 0


def test_many_signals_at_once_still_end_it_in_order(start: Start) -> None:
    process, _ = start()
    for number in [signal.SIGTERM, signal.SIGINT] * 10:
        process.send_signal(number)
        time.sleep(0.01)
    while process.poll() is None:  # also while the interpreter ends
        process.send_signal(signal.SIGTERM)
        time.sleep(0.002)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "stopped" in errors
    assert "Traceback" not in errors


def test_a_signal_while_libraries_are_imported_and_models_opened_ends_it_at_once() -> None:
    script = (
        "import os, signal, sys\n"
        "from charloom.cli.serving import one_process\n"
        "from charloom.cli.main import main\n"
        "def imports(*_):\n"
        "    try:\n"
        "        os.kill(os.getpid(), int(sys.argv[1]))\n"
        "    except BaseException as problem:\n"
        "        raise ImportError('initialization failed') from problem  # as libraries in C++ do\n"
        "one_process.open_models = imports\n"
        "main(['serve', '--port', '0'])\n"
        "sys.exit('it went on')"
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        command = [sys.executable, "-c", script, str(int(number))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_signals_while_a_thread_tries_the_model_end_it_in_order_with_what_it_had_taken_up(
    tmp_path: Path, bundle: Bundle
) -> None:
    kept = tmp_path / "sessions"
    write_sessions(kept, PLAIN, [OwnedSession(made(Place(), "a", ticks=3600), ONLY)])
    script = (
        "import os, signal, sys\n"
        "from charloom.cli.main import main\n"
        "from charloom.engine.decoding import first_steps\n"
        "run = first_steps._Watched.run\n"
        "def signalled(*given):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return run(*given)\n"
        "first_steps._Watched.run = signalled\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    given = ["serve", str(bundle.path), "--host", f"unix:{tmp_path}/s", "--store", f"memory:{kept}"]
    command = [sys.executable, "-c", script, *given, "--metrics-port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Traceback" not in done.stderr
    assert [one.session.id for one in read_sessions(kept, PLAIN)] == ["a"]
    assert not (tmp_path / "s").exists()


def test_sighup_reloads_what_has_changed_also_twice(start: Start, bundle: Bundle, copied: Callable[[], Path]) -> None:
    path = copied()
    process, address = start(path=path)
    change_manifest(path, lambda manifest: manifest.update(training={}))
    digest = read_bundle(path).manifest.digest[:12]
    assert process.stderr is not None
    for said in (f"model small is {path.name} ({digest}); {bundle.manifest.digest[:12]} drains", "serves already"):
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        while said not in process.stderr.readline():
            assert process.poll() is None
    with grpc.insecure_channel(address) as channel:
        assert list(generation_pb2_grpc.GenerationServiceStub(channel).Generate(request(max_tokens=3)))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 0
