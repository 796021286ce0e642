"""A stream of events, as an application sends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from charloom.engine.errors import DecoderFailure, Overloaded
from charloom.engine.telemetry import CallRecord
from charloom.server.http import exchange
from charloom.server.http.exchange import DONE, PIECE, PING, Exchange


async def nothing() -> Any:
    await asyncio.Event().wait()


def exchange_of(sent: list[Any]) -> Exchange:
    async def send(message: Any) -> None:
        sent.append(message)

    return Exchange({"type": "http", "path": "/", "headers": [], "query_string": b""}, nothing, send)


async def test_a_stream_with_nothing_to_say_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "PING_SECONDS", 0.01)
    sent: list[Any] = []
    pinged = asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        await pinged.wait()
        yield b"data: 1\n\n"

    streaming = asyncio.create_task(exchange_of(sent).stream(events()))
    while not any(message.get("body") == PING for message in sent):
        await asyncio.sleep(0.01)
    pinged.set()
    await streaming
    head, *bodies = sent
    assert head["status"] == 200
    texts = [message["body"] for message in bodies if message["body"] != PING]
    assert texts == [b"data: 1\n\n", DONE]
    assert [message["more_body"] for message in bodies] == [True] * (len(bodies) - 1) + [False]


async def test_an_error_before_the_first_event_has_a_status_of_its_own() -> None:
    sent: list[Any] = []

    async def events() -> AsyncIterator[bytes]:
        raise Overloaded("full", 1.5)
        yield b""

    with pytest.raises(Overloaded):
        await exchange_of(sent).stream(events())
    assert sent == []


async def test_an_error_after_it_is_an_event_before_the_end() -> None:
    sent: list[Any] = []

    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        raise DecoderFailure("broke")

    call = exchange_of(sent)
    call.begun(CallRecord("POST /", "one"))
    await call.stream(events())
    assert sent[2]["body"] == (
        b'data: {"error":{"message":"broke","type":"server_error","param":null,"code":"decoder_failure",'
        b'"request_id":"one"}}\n\n'
    )
    assert sent[3] == {"type": "http.response.body", "body": DONE, "more_body": False}


@pytest.mark.parametrize("length", [0, 1, PIECE, PIECE + 1, 3 * PIECE])
async def test_a_large_answer_is_sent_in_pieces(length: int) -> None:
    sent: list[Any] = []
    body = bytes(number % 251 for number in range(length))
    await exchange_of(sent).answer(body)
    parts: list[Any] = []
    await exchange_of(parts).answer_in_parts([body[:1], body[1:]])
    assert b"".join(message["body"] for message in parts[1:]) == body
    assert max(len(message["body"]) for message in parts[1:]) <= PIECE + 1
    head, *messages = sent
    assert dict(head["headers"])[b"content-length"] == str(length).encode()
    assert b"".join(message["body"] for message in messages) == body
    assert max(len(message["body"]) for message in messages) <= PIECE
    assert [message["more_body"] for message in messages] == [True] * (len(messages) - 1) + [False]
