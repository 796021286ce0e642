"""The ASGI application: finds the route of a request, lets its call in, reads its body, answers in any case."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.routing import Match
from starlette.routing import Route as PathPattern
from starlette.types import Receive, Scope, Send

from charloom.server.admission import FORWARDED_KEY, Admission, Arrival
from charloom.server.http.bodies import Body, parsed
from charloom.server.http.exchange import REQUEST_ID_HEADER, Exchange
from charloom.server.http.hosts import Sites
from charloom.server.http.problems import Refused
from charloom.server.http.response_schemas import Schema
from charloom.server.identity.gate import AUTHORIZATION_KEY, TENANT_KEY
from charloom.server.identity.key_file import FORM
from charloom.server.identity.scopes import ROUTES

SECRETS = frozenset({"key", "api_key", "api-key", "apikey", "token", "access_token", "authorization"})
"""Names under which people put credentials into URLs."""


@dataclass(frozen=True)
class Route:
    """A way to call the server.

    Its name, such as "POST /v1/completions", stands in the table of scopes and in records of calls.
    """

    method: str
    path: str
    """With parameters, as `/v1/sessions/{session_id}`."""
    summary: str
    handler: Callable[[Exchange, Any], Awaitable[None]]
    """Answers a request, given its body."""
    response_schema: Schema
    """Schema of its answers."""
    body: type[Body] | None = None
    """Type of the body; None: it has none."""
    body_needed: bool = True
    """Whether the body is required; if not, a missing body counts as one without fields."""
    parse: Callable[[bytes, Mapping[str, str], Any], tuple[Any, list[str]]] = parsed
    """Parses the body's bytes and the headers; returns the value for the handler, and the names of ignored fields."""
    query: Mapping[str, Schema] = field(default_factory=dict)
    """Parameters that its URL may have."""
    status: int = 200
    """Status of its answers."""
    other_content_type: str = ""
    """Content type of its answers that are not JSON, if a request can ask for such."""

    @property
    def name(self) -> str:
        """Method and path."""
        return f"{self.method} {self.path}"


class Application:
    """Answers HTTP requests, over ASGI.

    Args:
        routes: all routes; each must be in `scopes.ROUTES`
        admission: lets calls in
        sites: checks the host and origin of a request
        largest_body: returns the most bytes of a body that is read now
    """

    def __init__(
        self, routes: Sequence[Route], admission: Admission, sites: Sites, largest_body: Callable[[], int]
    ) -> None:
        self._routes = [(route, PathPattern(route.path, _nowhere, methods=[route.method])) for route in routes]
        self._admission = admission
        self._sites = sites
        self._largest_body = largest_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        exchange = Exchange(scope, receive, send)
        try:
            await self._serve(exchange)
        except asyncio.CancelledError:
            if not exchange.gone:
                raise
        except Exception as problem:
            await exchange.fail(problem)
        finally:
            exchange.end.come()

    async def _serve(self, exchange: Exchange) -> None:
        self._sites.check(exchange)
        if exchange.scope["method"] == "OPTIONS":
            await self._sites.preflight(exchange)
            return
        route = self._route(exchange)
        _check_query(exchange, route.query)
        scope = ROUTES[route.name]
        if scope is not None:
            self._admission.begin(route.name, scope, self._arrival(exchange), exchange.end.add, exchange.begun)
        body: Any = None
        if route.body is not None:
            content = await exchange.body(self._largest_body())
            if content or route.body_needed:
                body, unknown = route.parse(content, exchange.headers, route.body)
                exchange.ignores(unknown)
            else:
                body = route.body()
        async with exchange.watched():
            await route.handler(exchange, body)

    def _arrival(self, exchange: Exchange) -> Arrival:
        """Read a call's credentials, headers and address."""
        headers = exchange.headers
        host, port = exchange.scope["client"] or ("", 0)
        return Arrival(
            host,
            port,
            forwarded=headers.getlist(FORWARDED_KEY),
            tokens=headers.getlist(AUTHORIZATION_KEY),
            tenants=headers.getlist(TENANT_KEY),
            certificate=exchange.scope["state"]["connection"].certificate_names(),
            request_ids=headers.getlist(REQUEST_ID_HEADER),
            carried={name: headers[name] for name in self._admission.carriers if name in headers},
        )

    def _route(self, exchange: Exchange) -> Route:
        others = []
        for route, pattern in self._routes:
            match, found = pattern.matches(exchange.scope)
            if match is Match.FULL:
                exchange.path_params = found["path_params"]
                return route
            if match is Match.PARTIAL:
                others.append(route.method)
        if others:
            exchange.extra_headers.append((b"allow", ", ".join(others).encode()))
            raise Refused(405, "WRONG_METHOD", f"this path answers {' and '.join(others)}")
        raise Refused(404, "UNKNOWN_PATH", "there is nothing at this path; /openapi.json lists what there is")


def _check_query(exchange: Exchange, allowed: Container[str]) -> None:
    for name, value in exchange.query:
        if name.lower() in SECRETS or FORM.search(value):
            raise Refused(
                400,
                "KEY_IN_URL",
                "a URL ends up in logs and must hold no key; send it as the header Authorization: Bearer KEY, "
                "and replace this one",
            )
        if name not in allowed:
            raise Refused(400, "INVALID_REQUEST", f"this path has no parameter {name[:80]!a}", param=name[:80])


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    """Placeholder handler: the router only matches patterns, `Application` answers."""
