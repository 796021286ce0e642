"""The server as a process: start, clients that die, its log, another server beside it."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import grpc
import pytest

from charloom.bundle import Bundle, DecoderKind
from charloom.cli.main import main
from charloom.client import Client, NotFound
from charloom.engine.decoding.decoder import Decoder
from charloom.server.testing import running_server
from charloom.v1 import generation_pb2, generation_pb2_grpc
from tests.authority import Authority
from tests.integration.server_process import WITHOUT_TORCH, Start, request
from tests.unit.engine.redis_server import RedisServer
from tests.waiting import eventually


def test_it_serves_without_torch_and_stops_cleanly_on_sigterm(start: Start) -> None:
    process, address = start()
    with grpc.insecure_channel(address) as channel:
        messages = list(generation_pb2_grpc.GenerationServiceStub(channel).Generate(request(max_tokens=30)))
        assert len("".join(message.text for message in messages)) == 30
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert out == ""
    assert "stopped" in errors
    assert "Traceback" not in errors


def test_a_port_in_use_is_said_so(start: Start, bundle: Bundle) -> None:
    _, address = start()
    port = address.rsplit(":", 1)[1]
    done = subprocess.run(
        [sys.executable, "-m", "charloom.cli.main", "serve", str(bundle.path), "--port", port],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: it is in use" in done.stderr
    assert "choose another --port" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_listens_on_a_unix_socket_for_the_sdk_and_the_command(start: Start, tmp_path: Path) -> None:
    process, address = start("--host", f"unix:{tmp_path}/s")
    assert address == f"unix:{tmp_path}/s"
    with Client(address) as client:
        assert len(client.complete(max_tokens=5).text) == 5
    command = [sys.executable, "-m", "charloom.cli.main", "health", "--target", address]
    assert subprocess.run(command, capture_output=True, timeout=400, check=False).returncode == 0
    second, nothing = start("--host", f"unix:{tmp_path}/s")
    assert nothing == ""
    assert "another process listens there" in second.communicate(timeout=120)[1]
    with Client(address) as client:  # the first one still does
        assert len(client.complete(max_tokens=5).text) == 5
    process.kill()
    process.communicate()
    assert (tmp_path / "s").exists()
    third, address = start("--host", f"unix://{tmp_path}/s")
    with Client(address) as client:
        assert len(client.complete(max_tokens=5).text) == 5
    third.send_signal(signal.SIGTERM)
    assert "the socket of a server that has ended" in third.communicate(timeout=120)[1]
    assert third.returncode == 0
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("umask", "mode"), [("022", 0o755), ("007", 0o770)])
def test_the_umask_says_who_may_connect_to_a_unix_socket(bundle: Bundle, tmp_path: Path, umask: str, mode: int) -> None:
    line = f'umask {umask}; exec "$@"'
    serve = [sys.executable, "-c", WITHOUT_TORCH, "serve", bundle.path, "--host", f"unix:{tmp_path}/s"]
    with subprocess.Popen(["sh", "-c", line, "sh", *serve], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode
        process.kill()


CLIENT = """
import sys, time
from charloom.client import Client
with Client(sys.argv[1]) as client:
    for text in client.generate(max_tokens=65000):
        print(text, end="", flush=True)
        time.sleep(0.01)
"""


def test_clients_that_are_killed_mid_stream_leave_the_server_serving_the_others(start: Start) -> None:
    process, address = start("--max-rows", "4")
    clients = [
        subprocess.Popen([sys.executable, "-c", CLIENT, address], stdout=subprocess.PIPE, text=True) for _ in range(6)
    ]
    try:
        for client in clients[:4]:
            assert client.stdout is not None
            assert client.stdout.read(1)
        with grpc.insecure_channel(address) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            other = stub.Generate(request(max_tokens=50, seed=1))
            for client in clients:
                client.kill()
                client.wait()
            text = "".join(message.text for message in other)
            again = "".join(message.text for message in stub.Generate(request(max_tokens=50, seed=1)))
            assert len(text) == 50
            assert text == again
    finally:
        for client in clients:
            client.kill()
            client.communicate()
    assert process.poll() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/"], "there is no manifest.json"),
        (["/nowhere"], "there is no /nowhere; give the directory that `charloom export` wrote"),
        (["--port", "70000"], "--port 70000: Input should be less than or equal to 65535"),
        (["--config", "/nowhere.toml"], "there is no /nowhere.toml"),
        (["--decoder", "torchscript"], "needs torch, which is not installed"),
        (["--device", "cuda"], "needs torch, which is not installed"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_line(bundle: Bundle, arguments: list[str], message: str) -> None:
    bundles = [] if arguments[0].startswith("/") else [str(bundle.path)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "serve", *bundles, *arguments],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("charloom serve: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_default_command_of_the_image_is_refused_and_the_lines_that_it_shows_work(
    bundle: Bundle, tmp_path: Path
) -> None:
    image = (Path(__file__).parents[2] / "Dockerfile").read_text()
    entry, words = (
        json.loads(re.findall(rf"^{part} (\[.*\])$", image, re.MULTILINE)[-1]) for part in ("ENTRYPOINT", "CMD")
    )
    assert entry == ["charloom"]
    command = [sys.executable, "-m", "charloom.cli.main"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    said, *shown = done.stderr.splitlines()
    assert said.startswith("charloom serve: --host 0.0.0.0 is for other machines too")
    assert len(shown) == 2
    chain, key = Authority(tmp_path).issue("server", "localhost")
    keys = tmp_path / "keys.json"
    make = ["keys", "create", "--tenant", "shop", "--file", str(keys)]
    subprocess.run([*command, *make], capture_output=True, timeout=300, check=True)
    files = {"--tls-cert": chain, "--tls-key": key, "--keys": keys}
    for line in shown:
        program, *arguments = line.split("   (")[0].split()
        assert program == "charloom"
        arguments = [str(files[before]) if word == "FILE" else word for before, word in pairwise(["", *arguments])]
        with subprocess.Popen(
            [*command, *arguments, str(bundle.path), "--port", "0"], stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            assert server.stdout.readline().startswith("listening on 0.0.0.0:"), line
            server.terminate()
            assert server.wait(60) == 0


def test_two_bundles_of_one_name_are_refused(bundle: Bundle) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, "serve", str(bundle.path), str(bundle.path), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 1
    assert "two bundles are named 'small'" in done.stderr


def test_log_lines_can_be_json_and_never_hold_a_prompt(start: Start) -> None:
    process, address = start("--log-format", "json")
    with grpc.insecure_channel(address) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        list(stub.Generate(request(prompt="private words", max_tokens=5)))
        with pytest.raises(grpc.RpcError):
            list(stub.Generate(request(prompt="private ☃", max_tokens=5)))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    records = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    assert any(re.search("stopping", record["event"]) for record in records)
    assert "private" not in errors


HEADERS = bytes.fromhex("8386") + b"\x04\x1c/grpc.health.v1.Health/Check" + b"\x01\x08charloom"
HEADERS += b"\x0f\x10\x10application/grpc" + b"\x00\x02te\x08trailers"
"""Of a call, in HPACK without an index."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def test_clients_cannot_fill_the_log(start: Start) -> None:
    """Calls of clients that go away at once, metadata that is too large or makes no sense, words for the other side."""
    process, address = start("--log-format", "json")
    begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
    unknown_service = frame(0, 1, 1, b"\0\0\0\0\5\x0a\3abc")
    nonsense = HEADERS + b"\x00\x0cgrpc-timeout\x05never" + b"\x00\x0dgrpc-encoding\x04none"
    goodbye = frame(7, 0, 0, bytes(4) + (11).to_bytes(4, "big") + b"first line\n\x1b[31m second line")
    generate = generation_pb2_grpc.GenerationServiceStub
    for number in range(20):
        for sent in (frame(1, 4, 1, HEADERS) + unknown_service, frame(1, 4, 1, nonsense) + unknown_service, goodbye):
            host, _, port = address.rpartition(":")
            with socket.create_connection((host, int(port))) as client:
                client.sendall(begin + sent)
                time.sleep(0.001 * (number % 10))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        with grpc.insecure_channel(address) as channel:
            stub = generate(channel)
            with pytest.raises(grpc.RpcError):
                stub.Complete(generation_pb2.CompleteRequest(), metadata=[("x", "y" * 20_000)])
            next(stub.Generate(request(max_tokens=20_000)))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    records = [json.loads(line) for line in errors.splitlines()[1:]]  # the first line is the announcement
    assert all("exception" not in record for record in records)
    assert "second line" not in errors
    assert len(records) < 20


def test_torchscript_serves_the_same_text_as_onnx_fp32(bundle: Bundle, decoders: dict[DecoderKind, Decoder]) -> None:
    def text(address: str) -> str:
        with grpc.insecure_channel(address) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            return "".join(message.text for message in stub.Generate(request(max_tokens=200, seed=4)))

    command = [sys.executable, "-m", "charloom.cli.main", "serve", str(bundle.path), "--port", "0"]
    command += ["--decoder", "torchscript"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            found = text(process.stdout.readline().split()[-1])
        finally:
            process.terminate()
    with running_server([(bundle, decoders[DecoderKind.ONNX_FP32])]) as server:
        assert found == text(server.address)
    assert len(found) == 200


def test_the_server_process_frees_what_dead_clients_held(start: Start) -> None:
    """With room for one stream only, a killed client's stream must make room for the next."""
    _, address = start("--max-rows", "1", "--max-waiting", "1")
    client = subprocess.Popen([sys.executable, "-c", CLIENT, address], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    assert client.stdout.read(1)
    client.kill()
    client.communicate()

    def answers() -> bool:
        with grpc.insecure_channel(address) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            try:
                return len(list(stub.Generate(request(max_tokens=5), timeout=10))) > 0
            except grpc.RpcError:
                return False

    eventually(answers, 120)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_an_erasure_by_one_server_ends_the_call_of_another_and_nothing_comes_back(
    start: Start, tmp_path: Path, kind: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "redis":
        redis = RedisServer(tmp_path)
        request.addfinalizer(redis.kill)
    store = redis.url if kind == "redis" else f"sqlite:{tmp_path}/sessions.db"
    keys, audit_log = tmp_path / "keys.json", tmp_path / "audit.jsonl"
    for tenant, scopes in (("shop", "generate,sessions"), ("office", "admin")):
        assert main(["keys", "create", "--tenant", tenant, "--scopes", scopes, "--file", str(keys)]) == 0
    shop_key, office_key = capsys.readouterr().out.split()
    options = ("--store", store, "--keys", str(keys), "--max-tokens", "1000000000", "--grace-seconds", "0")
    first, address = start(*options)
    _, other_address = start(*options, "--audit-log", str(audit_log))
    with (
        Client(address, token=shop_key, timeout=None) as shop,
        Client(other_address, token=shop_key) as elsewhere,
        Client(other_address, token=office_key) as office,
    ):
        for number in range(10):
            shop.session(id=f"idle-{number}", keep=True)
        with shop.session(id="used", keep=True).generate("to be ", max_tokens=1_000_000_000) as stream:
            next(iter(stream))
            assert office.tenant("shop").erase().sessions == 11
            with pytest.raises(NotFound) as ended:
                for _ in stream:
                    pass
        assert ended.value.reason == "SESSION_DELETED"
        assert list(shop.sessions()) == list(elsewhere.sessions()) == []
        first.send_signal(signal.SIGTERM)
        _, said = first.communicate(timeout=120)
        assert first.returncode == 0
        assert "Traceback" not in said
        assert list(elsewhere.sessions()) == []
        assert office.tenant("shop").erase().sessions == 0
    lines = [json.loads(line) for line in audit_log.read_text().splitlines()]
    assert [(line["result"], line.get("sessions")) for line in lines] == [
        *(("begun", None), ("done", 11)),
        *(("begun", None), ("done", 0)),
    ]
    for secret in (shop_key, office_key):
        assert secret not in audit_log.read_text() + said
