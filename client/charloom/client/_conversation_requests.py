"""Messages of a conversation to protobuf, for both clients.

Every function raises `InvalidValue` for a value that a message cannot carry.
"""

from __future__ import annotations

from google.protobuf import empty_pb2

from charloom.client import _requests, _values
from charloom.client._options import GenerateOptions, SamplingOptions
from charloom.v1 import conversation_pb2


def start(prompt: str, options: GenerateOptions, session_id: str = "") -> conversation_pb2.ConverseRequest:
    """Build the first message; raises `TypeError`, too, for options that do not exist."""
    return conversation_pb2.ConverseRequest(start=_requests.generation_options(prompt, options, session_id))


def inject(text: str) -> conversation_pb2.ConverseRequest:
    """Build the message that gives text to read."""
    return conversation_pb2.ConverseRequest(inject=_values.text("text", text))


def generate(max_tokens: int) -> conversation_pb2.ConverseRequest:
    """Build the message that asks for text."""
    return conversation_pb2.ConverseRequest(
        generate=conversation_pb2.Generate(max_tokens=_values.uint32("max_tokens", max_tokens))
    )


def sampling(options: SamplingOptions) -> conversation_pb2.ConverseRequest:
    """Build the message that sets sampling parameters; raises `TypeError`, too, for options that do not exist."""
    return conversation_pb2.ConverseRequest(sampling=_requests.sampling(options))


def pause() -> conversation_pb2.ConverseRequest:
    """Build the message that stops generating."""
    return conversation_pb2.ConverseRequest(pause=empty_pb2.Empty())
