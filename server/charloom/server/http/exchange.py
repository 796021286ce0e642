"""One request and its answer, over ASGI. Knows neither routes nor the engine's calls."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import Headers as RequestHeaders
from starlette.types import Message, Receive, Scope, Send

from charloom.engine.call_end import CallEnd
from charloom.engine.loom.model import Model
from charloom.engine.telemetry import CallRecord
from charloom.server.codes import OK
from charloom.server.http.problems import TOO_LARGE, Failure, Headers, Refused, error_form, failure_of
from charloom.server.telemetry.calls import request_id_of

REQUEST_ID_HEADER, WARNING_HEADER = "x-request-id", b"charloom-warning"
JSON = b"application/json"

BODY_SECONDS = 60.0
"""How long the body of a request may take to arrive."""
DROPPED_BYTES, DROPPED_SECONDS = 2**28, 5.0
"""Most bytes and seconds for which a body that is too large is read and dropped: most clients read the answer only
after they have sent everything."""
PING_SECONDS = 15.0
"""Seconds of silence after which a stream sends a comment, for proxies, and to detect clients that are gone."""
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
PIECE = 2**16
"""Bytes of each piece of a large answer, about."""
LONGEST_WARNING = 1000


class Exchange:
    """A request, the record of its call, and the way to answer it.

    Args:
        scope, receive, send: of ASGI
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.headers = RequestHeaders(scope=scope)
        self.query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        self.path_params: dict[str, str] = {}
        """Parameters of the route's path."""
        self.record: CallRecord | None = None
        self.extra_headers: Headers = []
        """Headers of the answer, whatever it is."""
        self.gone = False
        """Whether the client has closed the connection."""
        self._error_form = error_form(scope["path"])
        self.end = CallEnd()
        """Reached once the exchange is over, however it ends."""
        self._unknown: list[str] = []
        self._receive, self._send = receive, send
        self._answered = False
        self._last_sent = time.monotonic()

    def begun(self, record: CallRecord) -> None:
        """Take in the record of the call."""
        self.record = record
        self._names(record.request_id)

    def _names(self, request_id: str) -> None:
        self.extra_headers.append((REQUEST_ID_HEADER.encode(), request_id.encode()))

    def ignores(self, fields: list[str]) -> None:
        """Register fields of the request that are ignored; the answer names them."""
        self._unknown += fields

    async def body(self, most: int) -> bytes:
        """The body of the request.

        Raises:
            Refused: it has more than `most` bytes, or does not arrive.
            asyncio.CancelledError: the client has gone.
        """
        length = self.headers.get("content-length", "")
        if not (length.isdecimal() and int(length) > most):
            try:
                body = await asyncio.wait_for(self._read(most), BODY_SECONDS)
            except asyncio.TimeoutError:
                raise Refused(
                    408, "BODY_LATE", f"the body did not arrive within {BODY_SECONDS:g} s", close=True
                ) from None
            if body is not None:
                return body
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drop(), DROPPED_SECONDS)
        raise Refused(TOO_LARGE, "BODY_TOO_LARGE", f"the body has more than {most} bytes", close=True)

    async def _read(self, most: int) -> bytes | None:
        """The body; None once it has more than `most` bytes."""
        parts: list[bytes] = []
        size = 0
        while size <= most:
            message = await self._request()
            size += len(message["body"])
            parts.append(message["body"])
            if not message.get("more_body"):
                return b"".join(parts) if size <= most else None
        return None

    async def _request(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone = True
            raise asyncio.CancelledError
        return message

    async def _drop(self) -> None:
        dropped = 0
        while dropped < DROPPED_BYTES:
            message = await self._request()
            dropped += len(message["body"])
            if not message.get("more_body"):
                return

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Cancel this task when the client goes away before the answer is complete."""
        task = asyncio.current_task()
        assert task is not None

        async def watch() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            if not self._answered:
                self.gone = True
                task.cancel()

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()

    async def answer(
        self, body: bytes, status: int = 200, headers: Headers | None = None, content_type: bytes = JSON
    ) -> None:
        """Answer with a complete body."""
        await self._answer([body], status, [(b"content-type", content_type), *(headers or [])])

    async def answer_in_parts(self, parts: Sequence[bytes]) -> None:
        """Answer with a body in parts."""
        await self._answer(parts, 200, [(b"content-type", JSON)])

    async def _answer(self, parts: Sequence[bytes], status: int, headers: Headers) -> None:
        """Send parts in pieces, each once the client has read most of the earlier ones; other calls run in between."""
        length = str(sum(map(len, parts))).encode()
        await self._start(status, [*headers, (b"content-length", length)])
        if self.record is not None and status < 400:
            self.record.code = OK
        self._answered = True
        piece: list[bytes] = []
        size = 0
        for some in (part[start : start + PIECE] for part in parts for start in range(0, len(part), PIECE)):
            piece.append(some)
            size += len(some)
            if size >= PIECE:
                await self._part(b"".join(piece))
                await asyncio.sleep(0)
                piece, size = [], 0
        await self._part(b"".join(piece), more=False)

    async def fail(self, problem: Exception) -> None:
        """Answer with an error."""
        failure = self._failed(problem)
        await self.answer(failure.body(self._error_form), failure.status, failure.headers)

    def _failed(self, problem: Exception) -> Failure:
        failure = failure_of(problem)
        if self.record is None:  # refused before it had a record; clients and proxies still expect an id
            request_id = request_id_of(self.headers.getlist(REQUEST_ID_HEADER))
            self._names(request_id)
        else:
            self.record.failed(failure.code, failure.reason)
            request_id = self.record.request_id
        failure.content["request_id"] = request_id
        return failure

    async def stream(self, events: AsyncIterator[bytes]) -> None:
        """Answer with server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), then DONE.

        An error before the first event is raised; a later one is sent as the last event before DONE.
        """
        first: asyncio.Future[bytes | None] = asyncio.ensure_future(anext(events, None))
        try:
            await asyncio.wait([first], timeout=PING_SECONDS)
            if first.done():
                first.result()  # an error still has a status of its own
            content_type = (b"content-type", b"text/event-stream; charset=utf-8")
            await self._start(200, [content_type, (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")])
            pinging = asyncio.create_task(self._ping())
            try:
                await self._send_all(first, events)
            finally:
                pinging.cancel()
        finally:
            first.cancel()

    async def _send_all(self, first: asyncio.Future[bytes | None], events: AsyncIterator[bytes]) -> None:
        try:
            event = await first
            if event is not None:
                await self._part(event)
            async for event in events:
                await self._part(event)
            if self.record is not None:
                self.record.code = OK
        except Exception as problem:
            await self._part(b"data: " + self._failed(problem).body(self._error_form) + b"\n\n")
        self._answered = True
        await self._part(DONE, more=False)

    async def _part(self, data: bytes, *, more: bool = True) -> None:
        self._last_sent = time.monotonic()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def _ping(self) -> None:
        """Send a comment whenever the stream is silent for `PING_SECONDS`."""
        while True:
            await asyncio.sleep(PING_SECONDS)
            if time.monotonic() - self._last_sent >= PING_SECONDS:
                await self._part(PING)

    async def _start(self, status: int, headers: Headers) -> None:
        warning: Headers = []
        if self._unknown:
            names = ", ".join(ascii(name) for name in self._unknown)[:LONGEST_WARNING]
            warning = [(WARNING_HEADER, f"these fields mean nothing here and were ignored: {names}".encode())]
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [*headers, *warning, *self.extra_headers]}
        )


def json_of(value: Any) -> bytes:
    """Encode a value as JSON for an answer."""
    return json.dumps(value, separators=(",", ":")).encode()


def list_of(model: Model, data: Sequence[Any], read: int, **more: Any) -> bytes:
    """The answer with one item of `data` per text, in order; `read` is the number of tokens that were read."""
    usage = {"prompt_tokens": read, "total_tokens": read}
    return json_of({"object": "list", "model": model.name, **more, "data": data, "usage": usage})
