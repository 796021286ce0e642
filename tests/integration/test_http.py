"""The HTTP port itself: who gets in, what is refused before a route sees it, and what clients that misbehave cause."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx2 as httpx
import pytest

from charloom.bundle import Bundle
from charloom.client import Client
from charloom.engine.decoding.decoder import Decoder
from charloom.server import app
from charloom.server.app import Server
from charloom.server.http import connections, exchange
from charloom.server.http.listener import HttpListener
from charloom.server.http.routes import routes_of
from charloom.server.identity.key_file import Certificate, KeyFileEditor, made, utc_now
from charloom.server.identity.scopes import ROUTES, Scope
from charloom.server.listener import PortInUse
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.authority import Authority
from tests.integration.http_client import JSON, client, connection, events, head, refused, running
from tests.waiting import eventually

CLOSED_ROUTES = {name: scope for name, scope in ROUTES.items() if scope is not None}


@pytest.fixture(scope="module")
def plain(http_server: Server) -> Iterator[httpx.Client]:
    with client(http_server) as plain:
        yield plain


class Closed(NamedTuple):
    """A server that asks who calls, and its keys by name."""

    server: Server
    keys: dict[str, str]


@pytest.fixture(scope="module")
def closed(bundle: Bundle, decoder: Decoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    keys = {}

    def add(name: str, *scopes: Scope) -> None:
        keys[name], key = made("shop", scopes, utc_now(), None)
        with KeyFileEditor(path).editing(create=True) as file:
            file.content = file.content.model_copy(update={"keys": (*file.content.keys, key)})

    add("all", *Scope)
    for scope in Scope:
        add(f"only {scope.value}", scope)
        add(f"all but {scope.value}", *(set(Scope) - {scope}))
    settings = ServerSettings(grace_seconds=0, http_port=0, keys=path, max_calls=4)
    with running_server([(bundle, decoder)], settings) as server:
        yield Closed(server, keys)


def asked(api: httpx.Client, route: str, **headers: str) -> httpx.Response:
    method, _, path = route.partition(" ")
    return api.request(method, path.replace("{", "").replace("}", ""), headers={**JSON, **headers}, content=b"{}")


def kept_out(answer: httpx.Response, status: int, code: str, message: str) -> None:
    """Nobody gets in; errors of the Open Inference Protocol have no code."""
    found, told, _, text = refused(answer)
    assert (found, told) == (status, "" if answer.url.path.startswith("/v2") else code)
    assert message in text


def test_every_route_has_a_scope_and_nothing_else_does(http_server: Server) -> None:
    runtime = http_server._runtime
    assert {route.name for route in routes_of(runtime, ServerSettings())} == set(ROUTES)


@pytest.mark.parametrize("route", CLOSED_ROUTES)
def test_nobody_gets_in_without_a_key(closed: Closed, route: str) -> None:
    key = closed.keys["all"]
    with client(closed.server) as api:
        answer = asked(api, route)
        kept_out(answer, 401, "credentials_missing", "wants to know who calls")
        assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in (f"Bearer {key[:-1]}", f"Basic {key}", "Bearer"):
            answer = asked(api, route, authorization=wrong)
            kept_out(answer, 401, "credentials_invalid", "ask the server's operator for a key")
            assert key[:-1] not in answer.text


@pytest.mark.parametrize(("route", "scope"), CLOSED_ROUTES.items())
def test_a_key_without_the_scope_is_refused_and_with_it_alone_is_let_in(
    closed: Closed, route: str, scope: Scope
) -> None:
    with client(closed.server) as api:
        answer = asked(api, route, authorization=f"Bearer {closed.keys[f'all but {scope.value}']}")
        kept_out(answer, 403, "scope_missing", f"do not have the scope {scope.value}")
        answer = asked(api, route, authorization=f"Bearer {closed.keys[f'only {scope.value}']}")
        assert answer.status_code not in (401, 403)


def test_health_answers_anybody(closed: Closed) -> None:
    with client(closed.server) as api:
        assert api.get("/health").json() == {"status": "serving"}
        assert api.get("/v2/health/live").json() == {"live": True}
        assert api.get("/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize("query", ["api_key={key}", "key=x", "access_token=x", "anything={key}"])
def test_a_key_in_the_url_is_refused(closed: Closed, query: str) -> None:
    key = closed.keys["all"]
    with client(closed.server) as api:
        answer = api.get(f"/v1/models?{query.format(key=key)}", headers={"authorization": f"Bearer {key}"})
        assert refused(answer)[:2] == (400, "key_in_url")
        assert key not in answer.text


def test_an_unknown_parameter_is_named(plain: httpx.Client) -> None:
    status, _, param, message = refused(plain.get("/v1/models?page=2"))
    assert (status, param) == (400, "page")
    assert "no parameter 'page'" in message


def test_tenants_are_those_of_grpc(bundle: Bundle, decoder: Decoder) -> None:
    settings = ServerSettings(grace_seconds=0, http_port=0, trust_proxy="127.0.0.1")
    with running_server([(bundle, decoder)], settings) as server, client(server) as api:
        with Client(server.address, tenant="shop") as shop:
            shop.session(id="s", keep=True)
        body = {"session_id": "s", "max_tokens": 1}
        assert api.post("/v1/completions", json=body, headers={"charloom-tenant": "shop"}).status_code == 200
        assert api.post("/v1/completions", json=body, headers={"charloom-tenant": "other"}).status_code == 404


def test_every_answer_of_a_call_has_its_id(plain: httpx.Client) -> None:
    assert plain.get("/v1/models", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    failed = plain.post("/v1/completions", json={"n": 0})
    assert failed.headers["x-request-id"] == failed.json()["error"]["request_id"] != ""


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/v3", {}),
        ("GET", "/v1/completions", {}),
        ("GET", "/health?api_key=x", {}),
        ("GET", "/v1/models", {"host": "evil.example"}),
    ],
)
def test_what_is_refused_before_it_is_a_call_has_an_id_too(
    plain: httpx.Client, method: str, path: str, headers: dict[str, str]
) -> None:
    failed = plain.request(method, path, headers=headers)
    assert failed.headers["x-request-id"] == failed.json()["error"]["request_id"] != ""
    assert plain.request(method, path, headers=headers | {"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"


def test_calls_are_counted_with_those_of_grpc(http_server: Server, plain: httpx.Client) -> None:
    def ended() -> int:
        method = http_server.engine.totals.methods.get("POST /v1/completions")
        return 0 if method is None else method.ended[("INVALID_ARGUMENT", "INVALID_REQUEST")]

    before = ended()
    plain.post("/v1/completions", json={"n": 0})
    eventually(lambda: ended() == before + 1)


def test_more_calls_than_allowed_are_told_when_to_come_back(closed: Closed) -> None:
    headers = {"authorization": f"Bearer {closed.keys['all']}"}
    body = {"stream": True, "max_tokens": 60_000, "logprobs": 20}  # more than fits on the way to who does not read
    with client(closed.server, headers=headers) as api:
        streams = [api.stream("POST", "/v1/completions", json=body) for _ in range(4)]
        try:
            for stream in streams:
                assert stream.__enter__().status_code == 200
            answer = api.get("/v1/models")
            assert refused(answer)[:2] == (429, "overloaded")
            assert int(answer.headers["retry-after"]) >= 1
        finally:
            for stream in streams:
                stream.__exit__(None, None, None)
        eventually(lambda: api.get("/v1/models").status_code == 200)


@pytest.mark.parametrize(
    ("content", "kind", "status", "says"),
    [
        (b"", "application/json", 400, "not JSON"),
        (b"{", "application/json", 400, "not JSON"),
        (b"\xff\xfe", "application/json", 400, "not JSON"),
        (b"[1]", "application/json", 400, "no object"),
        (b'{"temperature": NaN}', "application/json", 400, "NaN is no number of JSON"),
        (b'{"temperature": -Infinity}', "application/json", 400, "-Infinity is no number"),
        (b'{"temperature": 1e999}', "application/json", 400, "finite number"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "application/json", 400, ""),
        (b'{"prompt": "\\ud800"}', "application/json", 400, "surrogates"),
        (b'{"prompt":' + b"[" * 200_000, "application/json", 400, "nested too deeply"),
        (b'{"prompt":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "application/json", 400, "nested too deeply"),
        (b"{}", "text/plain", 415, "'text/plain'; send application/json"),
        (b"{}", "application/x-www-form-urlencoded", 415, "send application/json"),
        (b"{}", "", 415, "of no type"),
    ],
    ids=range(14),
)
def test_a_body_that_cannot_be_read_is_refused(
    plain: httpx.Client, content: bytes, kind: str, status: int, says: str
) -> None:
    found, _, _, message = refused(plain.post("/v1/completions", content=content, headers={"content-type": kind}))
    assert found == status
    assert says in message


def test_a_body_of_100_megabytes_is_refused(plain: httpx.Client) -> None:
    answer = plain.post("/v1/completions", content=b" " * 100_000_000, headers=JSON)
    assert refused(answer)[:2] == (413, "body_too_large")


def test_a_body_in_chunks_without_end_is_refused(http_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "DROPPED_BYTES", 2**20)
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with connection(http_server) as sock:
        sock.sendall(
            head(http_server, "POST /v1/completions", "Content-Type: application/json", "Transfer-Encoding: chunked")
        )
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            sock.sendall(chunk * 2000)
    eventually(lambda: running(http_server) == 0)


def test_a_body_that_trickles_is_not_waited_for(http_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BODY_SECONDS", 0.3)
    with connection(http_server) as sock:
        sock.sendall(
            head(http_server, "POST /v1/completions", "Content-Type: application/json", "Content-Length: 10000")
        )
        sock.settimeout(0.1)
        answer = b""
        while not answer:
            sock.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                answer = sock.recv(65536)
        assert b" 408 " in answer


@pytest.mark.parametrize("before", [b"", b"GET /health"], ids=["first", "later"])
def test_a_head_that_does_not_arrive_ends_its_connection(
    http_server: Server, monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    if not before:
        monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    with connection(http_server) as sock:
        if before:
            sock.sendall(head(http_server, before.decode()))
            answer = b""
            while not answer.endswith(b"}"):
                answer += sock.recv(65536)
            monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
        sock.sendall(b"GET /hea")
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(65536) == b""


def test_what_is_no_http_is_refused(http_server: Server) -> None:
    for nonsense in (b"\x16\x03\x01\x00\xa5", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"):
        with connection(http_server) as sock:
            sock.sendall(nonsense + b"\r\n\r\n")
            assert sock.recv(65536).startswith(b"HTTP/1.1 4")


def test_a_websocket_is_refused(plain: httpx.Client) -> None:
    upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    assert refused(plain.get("/v1/completions", headers=upgrade))[0] == 405


def test_wrong_paths_and_methods_are_told(plain: httpx.Client) -> None:
    assert refused(plain.get("/v3"))[:2] == (404, "unknown_path")
    answer = plain.get("/v1/completions")
    assert refused(answer)[:2] == (405, "wrong_method")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "localhost.evil.example"])
def test_a_host_that_is_not_ours_is_refused(plain: httpx.Client, host: str) -> None:
    """DNS rebinding: a page's own name leads here."""
    assert refused(plain.get("/health", headers={"host": host}))[:2] == (421, "unknown_host")


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "[::1]:80", "127.0.0.1", "10.1.2.3:80"])
def test_addresses_and_localhost_are_ours(plain: httpx.Client, host: str) -> None:
    assert plain.get("/health", headers={"host": host}).status_code == 200


def test_a_page_of_another_site_is_refused(plain: httpx.Client, http_server: Server) -> None:
    for origin in ("https://evil.example", "null"):
        answer = plain.post("/v1/completions", json={}, headers={"origin": origin})
        assert refused(answer)[:2] == (403, "unknown_origin")
        assert "access-control-allow-origin" not in answer.headers
    own = {"origin": f"http://{http_server.http_address}"}
    assert plain.post("/v1/completions", json={"max_tokens": 1}, headers=own).status_code == 200


def test_sites_and_names_that_are_set_are_allowed(bundle: Bundle, decoder: Decoder) -> None:
    settings = ServerSettings(
        grace_seconds=0, http_port=0, http_hosts="text.example", http_origins="https://page.example"
    )
    headers = {"host": "text.example", "origin": "https://page.example"}
    with running_server([(bundle, decoder)], settings) as server, client(server, headers=headers) as api:
        asks = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
        answer = api.options("/v1/completions", headers=asks)
        assert answer.status_code == 200
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "authorization" in answer.headers["access-control-allow-headers"]
        answer = api.post("/v1/completions", json={"max_tokens": 1})
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        assert "x-request-id" in answer.headers["access-control-expose-headers"]


def answered(server: Server) -> int:
    """How many completions were asked for, and have ended."""
    method = server.engine.totals.methods.get("POST /v1/completions")
    return 0 if method is None else method.ended.total()


def test_a_stream_that_nobody_reads_is_ended(http_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALLED_SECONDS", 0.3)
    before = answered(http_server)
    body = b'{"stream": true, "max_tokens": 60000, "n": 16, "logprobs": 20}'
    with connection(http_server) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lines = ("Content-Type: application/json", f"Content-Length: {len(body)}")
        sock.sendall(head(http_server, "POST /v1/completions", *lines) + body)
        eventually(lambda: answered(http_server) == before + 1)
        (model,) = http_server.engine.models
        eventually(lambda: model.loom.live == 0)


def test_an_answer_that_nobody_reads_is_dropped(http_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def held() -> set[object]:
        assert isinstance(http_server._http, HttpListener)
        return set(http_server._http._server.server_state.connections)

    monkeypatch.setattr(connections, "STALLED_SECONDS", 0.3)
    others = held()
    body = b'{"max_tokens": 1200, "n": 16, "logprobs": 20}'
    with connection(http_server) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(
            head(http_server, "POST /v1/completions", "Content-Type: application/json", f"Content-Length: {len(body)}")
            + body
        )
        eventually(lambda: held() - others != set())
        eventually(lambda: held() - others == set())


def test_streams_end_in_order_when_the_server_stops(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "CLOSING_SECONDS", 60)
    settings = ServerSettings(grace_seconds=0, http_port=0)
    answers: list[httpx.Response] = []

    def read(server: Server) -> None:
        with client(server) as api:
            answers.append(api.post("/v1/completions", json={"stream": True, "max_tokens": 65_536, "n": 4}))

    with running_server([(bundle, decoder)], settings) as server:
        reader = threading.Thread(target=read, args=[server])
        reader.start()
        eventually(lambda: server.engine.models[0].loom.live == 4)
    reader.join(60)
    *chunks, done = events(answers[0].text)
    assert done == "[DONE]"
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert reasons == ["draining"] * 4


def test_a_stop_ends_the_call_of_a_client_that_does_not_read(
    bundle: Bundle, decoder: Decoder, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ServerSettings(grace_seconds=0, http_port=0)
    asked = {"prompt": "x" * 10_000, "echo": True, "logprobs": 20, "n": 8, "max_tokens": 1, "stream": True}
    body = json.dumps(asked).encode()  # asks for more than fits on the way to who does not read
    lines = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    with contextlib.ExitStack() as longer, running_server([(bundle, decoder)], settings) as server:
        sock = longer.enter_context(connection(server))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(head(server, "POST /v1/completions", *lines) + body)
        assert sock.recv(15) == b"HTTP/1.1 200 OK"
    assert server.engine.totals.methods["POST /v1/completions"].ended == {("CANCELLED", ""): 1}
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_stop_that_ends_connections_at_once_takes_no_more_first(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    taking: list[bool] = []
    end_connections = connections.UvicornServer.end_connections

    def ends(self: connections.UvicornServer) -> None:
        taking.extend(listening.is_serving() for listening in self.servers)
        end_connections(self)

    monkeypatch.setattr(app, "CLOSING_SECONDS", 0)
    monkeypatch.setattr(connections.UvicornServer, "end_connections", ends)
    settings = ServerSettings(grace_seconds=0, http_port=0)
    with running_server([(bundle, decoder)], settings) as server, client(server) as api:
        assert api.get("/health").status_code == 200
    assert set(taking) == {False}


def test_a_server_that_stops_says_when_to_come_back(bundle: Bundle, decoder: Decoder) -> None:
    settings = ServerSettings(grace_seconds=0, http_port=0)
    with running_server([(bundle, decoder)], settings) as server, client(server) as api:
        server.engine.draining.set()
        server.engine.models[0].loom.drain(0)
        for answer in (api.get("/health"), api.post("/v1/completions", json={})):
            assert refused(answer)[:2] == (503, "draining")
            assert int(answer.headers["retry-after"]) >= 1


def test_an_unexpected_error_is_answered_by_number(
    http_server: Server, plain: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(name: str) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(http_server.engine, "model", broken)
    answer = plain.get("/v1/models/small")
    status, code, _, message = refused(answer)
    assert (status, code) == (500, "unexpected")
    assert "secret" not in answer.text
    assert answer.json()["error"]["facts"]["incident"] in caplog.text
    assert answer.json()["error"]["facts"]["incident"] in message


def test_the_port_that_is_taken_is_named(http_server: Server, bundle: Bundle, decoder: Decoder) -> None:
    port = int(http_server.http_address.rpartition(":")[2])
    other = running_server([(bundle, decoder)], ServerSettings(grace_seconds=0, http_port=port))
    with pytest.raises(PortInUse, match="--http-port"):
        other.__enter__()


def test_tls_is_that_of_grpc_and_certificates_are_replaced(bundle: Bundle, decoder: Decoder, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    chain, key = authority.issue("server", "localhost", "127.0.0.1")
    shop = authority.issue("shop", "shop.example")
    keys = tmp_path / "keys.json"
    with KeyFileEditor(keys).editing(create=True) as file:
        entry = Certificate(name="shop.example", tenant="shop", scopes=tuple(Scope))
        file.content = file.content.model_copy(update={"certificates": (entry,)})
    settings = ServerSettings(
        grace_seconds=0, http_port=0, tls_cert=chain, tls_key=key, tls_client_ca=authority.file, keys=keys
    )

    def context(pair: tuple[Path, Path] | None) -> ssl.SSLContext:
        found = ssl.create_default_context(cafile=str(authority.file))
        if pair is not None:
            found.load_cert_chain(*pair)
        return found

    def shown(server: Server) -> int:
        host, _, port = server.http_address.rpartition(":")
        sock = socket.create_connection((host, int(port)), timeout=60)
        with context(shop).wrap_socket(sock, server_hostname="127.0.0.1") as tls:
            certificate = tls.getpeercert()
            assert certificate is not None
            return int(str(certificate["serialNumber"]), 16)

    with running_server([(bundle, decoder)], settings) as server:
        base = f"https://{server.http_address}"
        with httpx.Client(base_url=base, verify=context(shop), timeout=60) as api:
            assert api.post("/v1/completions", json={"max_tokens": 3}).status_code == 200
        with pytest.raises(httpx.TransportError), httpx.Client(base_url=base, verify=context(None)) as api:
            api.get("/health")
        before = shown(server)
        authority.issue("server", "localhost", "127.0.0.1")
        eventually(lambda: shown(server) != before)


def test_a_port_for_other_machines_has_to_be_closed_to_strangers() -> None:
    with pytest.raises(ValueError, match=r"--http-host 0\.0\.0\.0 is for other machines too, and nothing is encrypted"):
        ServerSettings(http_port=0, http_host="0.0.0.0")
    assert ServerSettings(http_host="0.0.0.0").open_doors() == []
