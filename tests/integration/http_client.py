"""What the tests of HTTP share: requests as a client makes them, and events as it reads them."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import pytest

from charloom.server.app import Server
from charloom.server.http.response_schemas import Schema
from charloom.server.http.routes import routes_of
from charloom.server.settings import ServerSettings

JSON = {"content-type": "application/json"}


def client(server: Server, **options: Any) -> httpx.Client:
    """A client of the HTTP port, which sees that answers have the members that the OpenAPI document tells."""
    hooks = {"response": [as_documented(server)]}
    return httpx.Client(base_url=f"http://{server.http_address}", timeout=60, event_hooks=hooks, **options)


def as_documented(server: Server) -> Callable[[httpx.Response], None]:
    """What sees that an answer has the members that the document tells, and no others."""
    routes = [
        (re.compile(re.sub(r"{\w+}", "[^/]+", route.path)), route)
        for route in routes_of(server._runtime, ServerSettings(playground=False))
    ]

    def check(answer: httpx.Response) -> None:
        method, path = answer.request.method, answer.request.url.path
        route = next((one for form, one in routes if one.method == method and form.fullmatch(path)), None)
        if route is not None and answer.is_success and answer.headers.get("content-type") == "application/json":
            answer.read()
            assert not (found := list(differences(answer.json(), route.response_schema))), (route.name, found)

    return check


def differences(value: Any, schema: Schema, where: str = "") -> Iterator[str]:
    """What an answer lacks of its schema, and what it has besides."""
    if "anyOf" in schema:
        possible = [one for one in schema["anyOf"] if (one.get("type") == "null") == (value is None)]
        yield from min((list(differences(value, one, where)) for one in possible), key=len, default=())
    elif isinstance(value, list) and "items" in schema:
        for number, one in enumerate(value):
            yield from differences(one, schema["items"], f"{where}[{number}]")
    elif isinstance(value, dict) and "properties" in schema:
        told = schema["properties"]
        yield from (f"{where}.{name} is not there" for name in schema["required"] if name not in value)
        yield from (f"{where}.{name} is not told" for name in value if name not in told)
        for name in value.keys() & told.keys():
            yield from differences(value[name], told[name], f"{where}.{name}")


def counted(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens that callers have read or generated from now on, as their limits count them."""
    found: list[int] = []
    spend = server.engine.rates.spend

    def seen(share: Any, tokens: int) -> float:
        if tokens:
            found.append(tokens)
        return spend(share, tokens)

    monkeypatch.setattr(server.engine.rates, "spend", seen)
    return found


def put_back(api: httpx.Client, session_id: str, text: str) -> None:
    """Make a session that was put back before the last character of a text, and has the others still to read."""
    for path, body in (
        ("", {"session_id": session_id}),
        (f"/{session_id}/feed", {"text": text}),
        (f"/{session_id}/rewind", {"position": len(text) - 1}),
    ):
        assert api.post(f"/v1/sessions{path}", json=body).status_code in (200, 201)


def refused(answer: httpx.Response) -> tuple[int, str, str | None, str]:
    """Status, code, field and message of an error; under /v2 an error has a message only."""
    error = answer.json()["error"]
    if answer.url.path.startswith("/v2"):
        assert list(answer.json()) == ["error"]
        return answer.status_code, "", None, str(error)
    assert set(error) - {"facts", "request_id"} == {"message", "type", "param", "code"}
    return answer.status_code, error["code"], error["param"], error["message"]


def events(text: str) -> list[Any]:
    """The data of a stream's events; the last one is "[DONE]"."""
    found = [part.removeprefix("data: ") for part in text.split("\n\n") if part and not part.startswith(":")]
    return [part if part == "[DONE]" else json.loads(part) for part in found]


def connection(server: Server) -> socket.socket:
    """A connection to the HTTP port."""
    host, _, port = server.http_address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def head(server: Server, line: str, *headers: str) -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{line} HTTP/1.1", f"Host: {server.http_address}", *headers, "", ""]).encode()


def running(server: Server) -> int:
    """How many calls have not ended."""
    return sum(method.running for method in server.engine.totals.methods.values())
