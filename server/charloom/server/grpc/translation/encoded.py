"""Messages with many log-probabilities, as bytes that are made in parts, so that other calls are served in between.

The encodings of two messages of a type, one after the other, are the encoding of both merged, in which lists are
joined (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BytesValue

from charloom.bundle import Vocabulary
from charloom.engine.loom.logprobs import Logprobs
from charloom.server.grpc.translation.text import from_logprobs
from charloom.server.slices import slices

Answer = Any
"""A message, or the bytes of one."""


async def encoded(message: Message, logprobs: Logprobs, vocabulary: Vocabulary, field: str = "logprobs") -> bytes:
    """The bytes of a message with these log-probabilities in its field of this name, which it does not have yet."""
    parts = [message.SerializeToString()]
    async for some in slices(logprobs):
        parts.append(type(message)(**{field: from_logprobs(some, vocabulary)}).SerializeToString())
    return b"".join(parts)


def encoded_items(items: Sequence[bytes]) -> bytes:
    """The bytes of a message whose field number 1 is a list of messages, from the bytes of these.

    A BytesValue has the same encoding as such a list of one.
    """
    return b"".join(BytesValue(value=item).SerializeToString() for item in items)
