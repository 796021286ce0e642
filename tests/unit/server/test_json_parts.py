"""JSON that is put together from parts, and answers that leave in pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import Message

from charloom.server.http.exchange import PIECE, Exchange
from charloom.server.http.json_parts import NULL, Json, array, member, members


@pytest.mark.parametrize("count", [0, 1, 3])
def test_parts_together_are_the_value(count: int) -> None:
    items: list[Json] = [[str(number).encode()] for number in range(count)]
    told = members([member("items", array(items)), [b'"a":1,', b'"b":2'], member("nothing", NULL)])
    assert json.loads(b"".join(told)) == {"items": [*range(count)], "a": 1, "b": 2, "nothing": None}


async def answered(parts: Sequence[bytes]) -> tuple[dict[bytes, bytes], list[Message]]:
    """The headers and the messages of a body."""
    sent: list[Message] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "path": "/v1/completions", "query_string": b"", "headers": []}
    await Exchange(scope, receive, send).answer_in_parts(parts)
    return dict(sent[0]["headers"]), sent[1:]


@pytest.mark.parametrize("parts", [[], [b"{}"], [b"a" * 100] * 10_000, [b"a" * (3 * PIECE), b"b"], [b"a" * PIECE] * 3])
async def test_an_answer_leaves_in_pieces_of_some_size_whatever_its_parts(parts: list[bytes]) -> None:
    headers, body = await answered(parts)
    whole = b"".join(message["body"] for message in body)
    assert whole == b"".join(parts)
    assert int(headers[b"content-length"]) == len(whole)
    assert [message["more_body"] for message in body] == [True] * (len(body) - 1) + [False]
    assert len(body) <= len(whole) // PIECE + 1
    assert all(len(message["body"]) < PIECE + max(map(len, parts)) for message in body if message["body"])
