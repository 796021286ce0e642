"""What pages of which sites may do."""

from __future__ import annotations

from typing import Any

import pytest

from charloom.server.http.exchange import Exchange
from charloom.server.http.hosts import LONGEST_NAMES, Sites
from charloom.server.http.problems import Refused


def exchange_of(sent: list[Any], scheme: str = "http", **headers: str) -> Exchange:
    async def receive() -> Any:
        raise AssertionError("nothing is read")

    async def send(message: Any) -> None:
        sent.append(message)

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": "/", "scheme": scheme, "headers": named, "query_string": b""}
    return Exchange(scope, receive, send)


async def allowed(asked: str) -> tuple[set[str], dict[bytes, bytes]]:
    """The headers that a page of a site which is let in may send, and what else it is told."""
    sent: list[Any] = []
    sites = Sites("text.example", "https://page.example")
    exchange = exchange_of(
        sent, host="text.example", origin="https://page.example", access_control_request_headers=asked
    )
    sites.check(exchange)
    await sites.preflight(exchange)
    told = dict(sent[0]["headers"])
    return set(told[b"access-control-allow-headers"].decode().split(", ")), told


async def test_a_page_may_send_the_headers_that_its_client_sends() -> None:
    names, told = await allowed("authorization,content-type, X-Stainless-Lang ,x-stainless-retry-count")
    assert names == {
        "authorization",
        "charloom-tenant",
        "content-type",
        "x-request-id",
        "x-stainless-lang",
        "x-stainless-retry-count",
    }
    assert b"x-should-retry" in told[b"access-control-expose-headers"]


async def test_very_many_headers_are_not_repeated() -> None:
    names, _ = await allowed("x" * (LONGEST_NAMES + 1))
    assert names == {"authorization", "charloom-tenant", "content-type", "x-request-id"}


def test_caches_are_told_that_answers_to_pages_of_other_sites_are_others() -> None:
    for origins, vary in (("https://page.example", [(b"vary", b"origin")]), ("", [])):
        for origin in ({}, {"origin": "https://text.example"}):
            exchange = exchange_of([], host="text.example", **origin)
            Sites("text.example", origins).check(exchange)
            assert exchange.extra_headers == vary


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_pages_of_this_server_may_call_also_where_a_proxy_encrypts(scheme: str) -> None:
    sites = Sites("text.example", "")
    sites.check(exchange_of([], scheme, host="text.example", origin="https://text.example"))
    for other in ("https://evil.example", "https://text.example:8443", "null"):
        with pytest.raises(Refused, match="--http-origins"):
            sites.check(exchange_of([], scheme, host="text.example", origin=other))


def test_a_page_that_was_not_encrypted_may_not_call_a_server_that_is() -> None:
    with pytest.raises(Refused, match="--http-origins"):
        Sites("text.example", "").check(exchange_of([], "https", host="text.example", origin="http://text.example"))
