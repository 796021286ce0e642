"""GET / and the files that it names: the playground, one static page that calls the routes under /v1 as any client may.

Knows no engine: the page is the same for everybody, and what it calls asks for a key where the server does.
"""

from __future__ import annotations

import mimetypes
from importlib import resources

from charloom.server.http.exchange import Exchange
from charloom.server.http.problems import Headers, Refused

FOLDER, INDEX = "page", "index.html"
HEADERS: Headers = [
    (b"content-security-policy", b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
]


class Page:
    """Hands out the files of the page, which are read once."""

    def __init__(self) -> None:
        folder = resources.files("charloom.server.http") / FOLDER
        self._files = {file.name: (_content_type(file.name), file.read_bytes()) for file in folder.iterdir()}

    async def index(self, exchange: Exchange, body: None) -> None:
        """The page itself."""
        await self._answer(exchange, INDEX)

    async def file(self, exchange: Exchange, body: None) -> None:
        """A script, style or picture of it."""
        await self._answer(exchange, exchange.path_params["file"])

    async def _answer(self, exchange: Exchange, name: str) -> None:
        if name not in self._files:
            raise Refused(404, "UNKNOWN_PATH", "the page has no such file")
        content_type, content = self._files[name]
        await exchange.answer(content, headers=HEADERS, content_type=content_type)


def _content_type(name: str) -> bytes:
    """The content type of a file; scripts and styles are refused by browsers under any other."""
    if name.endswith(".js"):
        return b"text/javascript; charset=utf-8"  # the system's table may say otherwise
    content_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return f"{content_type}; charset=utf-8".encode()
