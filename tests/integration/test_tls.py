"""TLS between a real server, the SDK and the command; certificates that are replaced while the server runs."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from charloom.bundle import Bundle
from charloom.cli.main import main
from charloom.client import AsyncClient, Client, ConnectionFailed, HealthStatus, InvalidValue
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.authority import Authority
from tests.waiting import eventually


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def encrypted(authority: Authority, bundle: Bundle, decoder: Decoder) -> Iterator[Server]:
    chain, key = authority.issue("server", "localhost", "127.0.0.1")
    with running_server([(bundle, decoder)], ServerSettings(grace_seconds=0, tls_cert=chain, tls_key=key)) as server:
        yield server


@pytest.fixture(scope="module")
def mutual(authority: Authority, bundle: Bundle, decoder: Decoder) -> Iterator[Server]:
    chain, key = authority.issue("server", "localhost", "127.0.0.1")
    settings = ServerSettings(grace_seconds=0, tls_cert=chain, tls_key=key, tls_client_ca=authority.file)
    with running_server([(bundle, decoder)], settings) as server:
        yield server


def test_both_clients_generate_over_tls(encrypted: Server, authority: Authority) -> None:
    with Client(encrypted.address, ca=authority.file) as client:
        text = client.complete("KING:", max_tokens=20, seed=1).text
    assert len(text) == 20


async def test_the_asyncio_client_generates_over_tls(encrypted: Server, authority: Authority) -> None:
    async with AsyncClient(encrypted.address, ca=authority.file) as client:
        assert len((await client.complete("KING:", max_tokens=20, seed=1)).text) == 20


def test_commands_take_flags_and_environment(
    encrypted: Server, authority: Authority, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["health", "--target", encrypted.address, "--ca", str(authority.file)]) == 0
    monkeypatch.setenv("CHARLOOM_CA", str(authority.file))
    monkeypatch.setenv("CHARLOOM_TARGET", encrypted.address)
    assert main(["health"]) == 0
    assert main(["bench", "--streams", "2", "--length", "20"]) == 0
    assert capsys.readouterr().out.startswith("SERVING\nSERVING\n")
    assert main(["health", "--no-tls"]) == 1
    assert "tls: it is False, and there are certificates" in capsys.readouterr().err


def failure(server: Server, **arguments: object) -> str:
    with Client(server.address, timeout=60, **arguments) as client, pytest.raises(ConnectionFailed) as failed:  # type: ignore[arg-type]
        client.models()
    return str(failed.value)


def test_a_client_that_does_not_speak_tls_is_told_what_to_look_at(encrypted: Server) -> None:
    assert "if the server speaks TLS: is tls on" in failure(encrypted)


def test_a_server_that_does_not_speak_tls_is_told_apart(server: Server) -> None:
    assert failure(server, tls=True).startswith("the server does not speak TLS; leave tls out (")


def test_a_certificate_of_another_authority_is_not_believed(encrypted: Server, folder: Path) -> None:
    other = Authority(folder, "other.pem")
    said = failure(encrypted, ca=other.file)
    assert said.startswith("the server's certificate is not valid, or from an authority that ca does not name (")
    assert "is a server running there" not in said


def test_a_certificate_for_another_name_is_not_believed(authority: Authority, bundle: Bundle, decoder: Decoder) -> None:
    chain, key = authority.issue("elsewhere", "charloom.example")
    with running_server([(bundle, decoder)], ServerSettings(grace_seconds=0, tls_cert=chain, tls_key=key)) as server:
        said = failure(server, ca=authority.file)
        assert said.startswith("the server's certificate is for another name than the target's; call it by a name")
        assert server.address in said


def test_mutual_tls_wants_a_certificate_of_the_right_authority(
    mutual: Server, authority: Authority, folder: Path
) -> None:
    cert, key = authority.issue("client", "shop.example")
    with Client(mutual.address, ca=authority.file, cert=cert, key=key) as client:
        assert client.health() is HealthStatus.SERVING
    assert "does it want a certificate of the client" in failure(mutual, ca=authority.file)
    foreign, its_key = Authority(folder, "foreign.pem").issue("foreign", "shop.example")
    assert "no answer" in failure(mutual, ca=authority.file, cert=foreign, key=its_key)


def image_health_check(server: Server, *more: str) -> int:
    """The exit status of the image's health check, asked where this server is."""
    written = (Path(__file__).resolve().parents[2] / "Dockerfile").read_text("utf-8").partition("HEALTHCHECK")[2]
    command = json.loads(written.partition("CMD ")[2].partition("\n")[0])
    assert command[0] == "charloom"
    address = f"localhost:{server.port}"
    return main([address if word == "localhost:50051" else word for word in command[1:]] + ["--timeout", "60", *more])


@pytest.mark.parametrize("names", [["charloom.example"], ["*.charloom.example"], ["203.0.113.7"], ["2001:db8::1"]])
def test_the_images_health_check_takes_a_certificate_for_another_name(
    authority: Authority, bundle: Bundle, decoder: Decoder, capsys: pytest.CaptureFixture[str], names: list[str]
) -> None:
    chain, key = authority.issue("outside", *names)
    with running_server([(bundle, decoder)], ServerSettings(grace_seconds=0, tls_cert=chain, tls_key=key)) as server:
        assert image_health_check(server) == 0
    assert capsys.readouterr().out == "SERVING\n"
    assert image_health_check(server) == 1
    assert "no answer from" in capsys.readouterr().err


def test_the_images_health_check_says_what_a_certificate_lacks(
    authority: Authority, bundle: Bundle, decoder: Decoder, capsys: pytest.CaptureFixture[str]
) -> None:
    chain, key = authority.issue("mail", "operator@charloom.example")
    with running_server([(bundle, decoder)], ServerSettings(grace_seconds=0, tls_cert=chain, tls_key=key)) as server:
        assert image_health_check(server) == 1
    assert "certificate has no DNS name, address or common name" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["ipv4:127.0.0.1:{}", "dns:localhost:{}", "dns:///localhost:{}"])
def test_a_health_check_takes_a_target_in_all_forms(
    encrypted: Server, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    arguments = ["health", "--any-certificate", "--timeout", "60", "--target", target.format(encrypted.port)]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "SERVING\n"


@pytest.mark.parametrize(
    ("target", "said"), [("a..b:50051", "no answer from a..b:50051"), ("localhost:65536", "is no port")]
)
def test_a_health_check_of_what_can_be_no_server_says_so(
    capsys: pytest.CaptureFixture[str], target: str, said: str
) -> None:
    assert main(["health", "--any-certificate", "--timeout", "60", "--target", target]) == 1
    assert said in capsys.readouterr().err


def test_a_health_check_finds_a_server_that_refuses_by_an_alert(
    authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    """As proxies do that end TLS, in words of TLS 1.3; servers of gRPC only close the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("strict", "localhost"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.file)

    def refuse() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection.dup() as spare:  # closed only after the client's end, so that the alert gets there
                with suppress(OSError), context.wrap_socket(connection, server_side=True):
                    pass
                with suppress(OSError):
                    while spare.recv(4096):
                        pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        target = f"localhost:{listener.getsockname()[1]}"
        assert main(["health", "--any-certificate", "--timeout", "60", "--target", target]) == 0
        thread.join()
    assert "the server answers, and wants a certificate" in capsys.readouterr().out


def test_the_images_health_check_needs_no_tls(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert image_health_check(server) == 0
    assert capsys.readouterr() == ("SERVING\n", "")


def test_the_images_health_check_finds_a_server_that_wants_a_certificate(
    mutual: Server, authority: Authority, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert image_health_check(mutual) == 0
    assert "the server answers, and wants a certificate" in capsys.readouterr().out
    cert, key = authority.issue("probe", "probe.example")
    assert image_health_check(mutual, "--cert", str(cert), "--key", str(key)) == 0
    assert capsys.readouterr().out == "SERVING\n"
    assert image_health_check(mutual, "--cert", str(cert)) == 1
    assert "a certificate needs its key" in capsys.readouterr().err
    foreign, its_key = Authority(folder, "foreign.pem").issue("foreign", "probe.example")
    assert image_health_check(mutual, "--cert", str(foreign), "--key", str(its_key)) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"cert": "a"}, "key: cert needs it"),
        ({"key": "a"}, "cert: key needs it"),
        ({"ca": "/none.pem"}, "ca: cannot read /none.pem: No such file or directory"),
        ({"ca": __file__}, "is not in PEM form"),
        ({"ca": __file__, "tls": False}, "tls: it is False"),
        ({"token": " "}, "token: it is empty"),
        ({"token": "a\nb"}, "token: the character"),
    ],
)
def test_arguments_that_make_no_connection_are_refused(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidValue, match=said.replace("(", r"\(")):
        Client("localhost:1", **arguments)  # type: ignore[arg-type]


SERVE = [sys.executable, "-m", "charloom.cli.main", "serve", "--port", "0"]


def test_a_server_that_cannot_use_its_certificates_says_so(authority: Authority, bundle: Bundle) -> None:
    chain, key = authority.issue("expired", "localhost", days=(-2, -1))
    command = [*SERVE, str(bundle.path), "--tls-cert", str(chain), "--tls-key", str(key)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert f"charloom serve: the certificate in {chain} expired at" in done.stderr


@contextmanager
def serving(bundle: Bundle, log: Path, *arguments: str) -> Iterator[str]:
    """A server process; yields its address."""
    command = [*SERVE, str(bundle.path), *arguments]
    with log.open("w") as lines, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=lines, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()
            assert process.wait(120) == 0


def shown(address: str, authority: Authority) -> bytes:
    """The certificate that a new connection gets."""
    context = ssl.create_default_context(cafile=authority.file)
    context.set_alpn_protocols(["h2"])
    host, port = address.rsplit(":", 1)
    plain = socket.create_connection((host, int(port)), timeout=20)
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        found = connection.getpeercert(binary_form=True)
    assert found is not None
    return found


def test_certificates_are_replaced_under_load_without_a_failed_call(
    authority: Authority, bundle: Bundle, tmp_path: Path
) -> None:
    chain, key = authority.issue("rotating", "localhost", "127.0.0.1")
    log = tmp_path / "log"
    calls, failures, stop = [0], [], threading.Event()
    with serving(bundle, log, "--tls-cert", str(chain), "--tls-key", str(key)) as address:

        def load(*, reconnecting: bool) -> None:
            client = Client(address, ca=authority.file)
            while not stop.is_set():
                try:
                    client.complete("KING:", max_tokens=30, seed=1)
                    calls[0] += 1
                except Exception as problem:
                    failures.append(problem)
                if reconnecting:
                    client.close()
                    client = Client(address, ca=authority.file)
            client.close()

        threads = [threading.Thread(target=load, kwargs={"reconnecting": turn % 2 == 0}) for turn in range(4)]
        for thread in threads:
            thread.start()
        seen = {shown(address, authority)}
        for _ in range(3):
            before = calls[0]
            authority.issue("rotating", "localhost", "127.0.0.1")
            eventually(lambda: shown(address, authority) not in seen)
            seen.add(shown(address, authority))
            eventually(lambda before=before: calls[0] > before)
        last = shown(address, authority)
        key.write_text("broken")
        eventually(lambda: "those before stay in use" in log.read_text())
        assert shown(address, authority) == last
        before = calls[0]
        eventually(lambda: calls[0] > before + 4)
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len(seen) == 4
