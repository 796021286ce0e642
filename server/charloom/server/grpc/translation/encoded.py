"""Messages with many log-probabilities, as bytes that are made in parts, so that other calls are served in between.

The encodings of two messages of a type, one after the other, are the encoding of both merged, in which lists are
joined (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BytesValue

from charloom.bundle import Vocabulary
from charloom.engine.loom.logprobs import TokenLogprob
from charloom.server.grpc.translation.text import from_logprobs

Answer = Any
"""A message, or the bytes of one."""
ALTERNATIVES = 1000
"""Log-probabilities of one part, about: what a thread makes in a millisecond or two."""


async def encoded(
    message: Message, logprobs: Sequence[TokenLogprob], vocabulary: Vocabulary, field: str = "logprobs"
) -> bytes:
    """The bytes of a message with these log-probabilities in its field of this name, which it does not have yet."""
    parts = [message.SerializeToString()]
    for some in in_parts(logprobs):
        parts.append(type(message)(**{field: from_logprobs(some, vocabulary)}).SerializeToString())
        await asyncio.sleep(0)
    return b"".join(parts)


def encoded_items(items: Sequence[bytes]) -> bytes:
    """The bytes of a message whose field number 1 is a list of messages, from the bytes of these.

    A BytesValue has the same encoding as such a list of one.
    """
    return b"".join(BytesValue(value=item).SerializeToString() for item in items)


def in_parts(logprobs: Sequence[TokenLogprob]) -> Iterator[Sequence[TokenLogprob]]:
    """The same in order, some at a time, at least one."""
    start = 0
    while start < len(logprobs):
        end = start + max(1, ALTERNATIVES // (1 + len(logprobs[start].top)))
        yield logprobs[start:end]
        start = end
