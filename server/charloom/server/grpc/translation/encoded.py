"""Messages with many log-probabilities, as bytes that are made in parts, so that other calls are served in between.

The encodings of two messages of a type, one after the other, are the encoding of both merged, in which lists are
joined (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import UInt64Value

from charloom.bundle import Vocabulary
from charloom.engine.loom.logprobs import Logprobs
from charloom.server.grpc.translation.text import from_logprobs
from charloom.server.slices import slices
from charloom.v1 import generation_pb2

Answer = Any
"""A message, or the bytes of one."""


async def encoded(message: Message, logprobs: Logprobs, vocabulary: Vocabulary, field: str = "logprobs") -> bytes:
    """The bytes of a message with these log-probabilities in its field of this name, which it does not have yet."""
    return b"".join(await encoded_parts(message, logprobs, vocabulary, field))


async def encoded_parts(
    message: Message, logprobs: Logprobs, vocabulary: Vocabulary, field: str = "logprobs"
) -> list[bytes]:
    """The same in parts, for who joins them with others: each copy of all of it counts."""
    parts = [message.SerializeToString()]
    async for some in slices(logprobs):
        parts.append(type(message)(**{field: from_logprobs(some, vocabulary)}).SerializeToString())
    return parts


def encoded_item(parts: Sequence[bytes]) -> list[bytes]:
    """The bytes of one of the messages of a list, which is field number 1, from the parts of the message; in parts."""
    return [ITEM, _number(sum(map(len, parts))), *parts]


def encoded_piece(number: int, answer: Answer) -> bytes:
    """The bytes of a GenerateManyResponse with one piece: what the call of this number answers."""
    response = answer if isinstance(answer, bytes) else answer.SerializeToString()
    parts = [
        generation_pb2.GeneratePiece(number=number).SerializeToString(),
        RESPONSE,
        _number(len(response)),
        response,
    ]
    return b"".join(encoded_item(parts))


RESPONSE = b"\x12"
"""The tag of field number 2, where its value is a length and so many bytes."""
ITEM = b"\x0a"
"""The tag of field number 1, where its value is a length and so many bytes."""


def _number(value: int) -> bytes:
    """A number as protobuf writes it: what a UInt64Value has after its tag of one byte, unless it is 0."""
    return UInt64Value(value=value).SerializeToString()[1:] or b"\0"
