"""Encodes messages with many log-probabilities in parts, so that other calls are served in between.

The concatenated encodings of two messages of a type are the encoding of the merged message, with lists joined
(https://protobuf.dev/programming-guides/encoding/#last-one-wins).
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
    """Encode a message with these log-probabilities in `field`, which must be empty in the message."""
    return b"".join(await encoded_parts(message, logprobs, vocabulary, field))


async def encoded_parts(
    message: Message, logprobs: Logprobs, vocabulary: Vocabulary, field: str = "logprobs"
) -> list[bytes]:
    """Encode like `encoded`, but return parts, so that the caller can join them with others without another copy."""
    parts = [message.SerializeToString()]
    async for some in slices(logprobs):
        parts.append(type(message)(**{field: from_logprobs(some, vocabulary)}).SerializeToString())
    return parts


def encoded_item(parts: Sequence[bytes]) -> list[bytes]:
    """Encode an item of a repeated message field with number 1 from the parts of the item; returns parts."""
    return [ITEM, _number(sum(map(len, parts))), *parts]


def encoded_piece(number: int, answer: Answer) -> bytes:
    """Encode a GenerateManyResponse with one piece: an answer of the call with this number."""
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
    """Encode a varint, taken from a UInt64Value after its tag of one byte; 0 has no bytes there."""
    return UInt64Value(value=value).SerializeToString()[1:] or b"\0"
