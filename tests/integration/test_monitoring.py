"""The alert rules and the dashboard that are shipped, with the tools of Prometheus and a running server."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from charloom.bundle import Bundle
from charloom.client import Client, DataLoss, NotFound, PermissionDenied, RequestError
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.ports import free_port
from tests.programs import needed
from tests.waiting import eventually

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = json.loads((DEPLOY / "grafana" / "charloom.json").read_text("utf-8"))
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
RULES = [rule for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"] for rule in group["rules"]]
COMPARED = [
    side
    for rule in RULES
    for side in ([rule["expr"]] if " unless " in rule["expr"] else re.split(r" [=>]=? ", rule["expr"]))
    if re.search(r"[a-z]", side)
]
"""What the alerts compare, with something else or with a number; of faults the whole, to find new ones."""
WITHOUT_FAULTS = {"charloom_store_errors_total"}
"""Metrics that a server tells nothing of as long as nothing is wrong."""


FAULTS = "INTERNAL|UNKNOWN"
"""Codes that no client can cause; another one stands in for them."""


def metrics_in(text: str) -> set[str]:
    return set(re.findall(r"\bcharloom_\w+", text))


def scraping(server: Server) -> str:
    """The configuration of a Prometheus that scrapes a server."""
    scrape = {"job_name": "charloom", "static_configs": [{"targets": [server.metrics_address]}]}
    return json.dumps({"global": {"scrape_interval": "200ms"}, "scrape_configs": [scrape]})  # JSON is YAML


@contextmanager
def prometheus(config: str, folder: Path) -> Iterator[str]:
    """A Prometheus with this configuration and a folder for its files; yields its address."""
    port = free_port()
    (folder / "prometheus.yml").write_text(config, "utf-8")
    command = [
        needed("prometheus"),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
    ]
    with subprocess.Popen(
        [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        try:
            yield f"127.0.0.1:{port}"
        finally:
            running.kill()


def found(address: str, query: str) -> list[float]:
    """What a query gives now, without what is not a number."""
    url = f"http://{address}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            series = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as problem:
        if problem.code == 503:  # it is starting
            return []
        raise
    except urllib.error.URLError as problem:
        if isinstance(problem.reason, ConnectionError):
            return []
        raise
    values = [float(one["value"][1]) for one in series]
    return [value for value in values if value == value]


def test_the_rules_are_rules_and_do_what_their_tests_say() -> None:
    for what in (["check", "rules", str(ALERTS)], ["test", "rules", str(ALERTS.with_name("alerts.test.yaml"))]):
        done = subprocess.run([needed("promtool", "prometheus"), *what], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_query_of_the_dashboard_and_the_alerts_finds_something_at_a_running_server(
    bundle: Bundle, decoder: Decoder, tmp_path: Path
) -> None:
    settings = ServerSettings(grace_seconds=0, metrics_port=0, tenant_sessions=1)
    with running_server([(bundle, decoder)], settings) as server, prometheus(scraping(server), tmp_path) as address:
        with Client(server.address) as client, client.session() as session:

            def all_found() -> bool:
                session.complete("a", max_tokens=20)
                with pytest.raises(NotFound):
                    client.complete("a", model="none")
                with pytest.raises(PermissionDenied), Client(server.address, tenant="other") as stranger:
                    stranger.complete("a")
                with pytest.raises(RequestError, match="sessions"):
                    client.session(keep=True)
                with pytest.raises(DataLoss):
                    client.import_session(bytes(100), keep=True)
                missing[:] = [query for query in wanted if not found(address, query)]
                return not missing

            missing: list[str] = []
            wanted = [
                re.sub(r"\[\w+\]", "[10s]", query.replace("$__rate_interval", "10s")).replace(FAULTS, "DATA_LOSS")
                for query in (*QUERIES, *COMPARED)
                if not metrics_in(query) & WITHOUT_FAULTS
            ]
            assert len(COMPARED) > len(RULES)
            assert len(wanted) >= len(QUERIES) + len(COMPARED) - 2
            eventually(all_found, seconds=180)
        with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=60) as answer:
            told = metrics_in(answer.read().decode())
    shipped = "".join(path.read_text("utf-8") for path in DEPLOY.rglob("*") if path.suffix in (".yaml", ".json"))
    assert metrics_in(shipped) - told == set()
