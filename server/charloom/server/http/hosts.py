"""Checks the origin and host of requests (CORS, and protection against cross-site requests and DNS rebinding).

A page of another site can make a browser send requests here. The browser names that site in `Origin`. If the site has
pointed its own name to this machine's address (DNS rebinding), the name is still in `Host`.
"""

from __future__ import annotations

import ipaddress

from charloom.server.http.exchange import REQUEST_ID_HEADER, WARNING_HEADER, Exchange
from charloom.server.http.problems import Refused

ANY = "*"
ALLOWED_HEADERS = frozenset({"authorization", "content-type", "charloom-tenant", "x-request-id"})
LONGEST_NAMES = 4096
"""Most characters of the header names in a preflight request; those of OpenAI's client take some 200."""
PREFLIGHT_SECONDS = 600


class Sites:
    """Names of this server, and sites whose pages may call it.

    Args:
        hosts: names besides IP addresses and localhost, with commas; `*` for any
        origins: origins such as https://example.org, with commas; `*` for any
    """

    def __init__(self, hosts: str, origins: str) -> None:
        self._hosts = _names(hosts)
        self._origins = _names(origins)

    def check(self, exchange: Exchange) -> None:
        """Check that a request uses a name of this server, and comes from no page of another site.

        Raises:
            Refused: it does not use one, or comes from such a page.
        """
        named = exchange.headers.getlist("host")
        if len(named) != 1 or not self._is_ours(named[0]):
            raise Refused(
                421,
                "UNKNOWN_HOST",
                "this server does not go by the name in Host; its operator can add it (--http-hosts)",
            )
        origin = exchange.headers.get("origin")
        own = (f"{exchange.scope['scheme']}://{named[0]}", f"https://{named[0]}")  # a proxy may end TLS before this
        if self._origins:  # headers differ by origin, which caches must know
            exchange.extra_headers.append((b"vary", b"origin"))
        if origin is None or origin in own:
            return
        if origin not in self._origins and ANY not in self._origins:
            raise Refused(
                403,
                "UNKNOWN_ORIGIN",
                "pages of other sites may not call this server; its operator can allow it (--http-origins)",
            )
        told = f"{REQUEST_ID_HEADER}, {WARNING_HEADER.decode()}, retry-after, x-should-retry"
        exchange.extra_headers += [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", told.encode()),
        ]

    async def preflight(self, exchange: Exchange) -> None:
        """Answer a browser's CORS preflight request; any headers are allowed."""
        asked = exchange.headers.get("access-control-request-headers", "")
        allowed = ALLOWED_HEADERS | (_names(asked) if len(asked) <= LONGEST_NAMES else frozenset())
        headers = [
            (b"access-control-allow-methods", b"GET, POST, PATCH, DELETE"),
            (b"access-control-allow-headers", ", ".join(sorted(allowed)).encode("latin-1")),
            (b"access-control-max-age", str(PREFLIGHT_SECONDS).encode()),
            (b"vary", b"access-control-request-headers"),
        ]
        await exchange.answer(b"", headers=headers)

    def _is_ours(self, host: str) -> bool:
        name = host[: host.rindex("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
        name = name.lower().rstrip(".")
        if ANY in self._hosts or name in self._hosts or name == "localhost":
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip().lower() for name in text.split(",") if name.strip())
