"""What is sent of calls that share a stream."""

from __future__ import annotations

import grpc

from charloom.client import _shared_stream
from charloom.v1 import generation_pb2

CODE = grpc.StatusCode


def test_large_calls_go_in_messages_that_a_server_reads() -> None:
    options = generation_pb2.GenerationOptions(prompt="a" * 60_000)
    request = generation_pb2.GenerateRequest(options=options)
    calls = {number: generation_pb2.GenerateCall(number=number, request=request) for number in range(150)}
    calls |= {number: generation_pb2.GenerateCall(number=number) for number in range(150, 400)}
    messages = list(_shared_stream.taken(calls, list(range(7))))
    assert [call.number for message in messages for call in message.calls] == list(range(400))
    assert [list(message.cancel) for message in messages] == [list(range(7))] + [[]] * (len(messages) - 1)
    sizes = [message.ByteSize() for message in messages]
    assert max(sizes) < 1.1 * _shared_stream.BATCH_BYTES
    assert min(len(message.calls) for message in messages[:-1]) >= 15
    assert max(len(message.calls) for message in messages) == _shared_stream.MOST_AT_ONCE


def test_a_call_larger_than_a_message_is_to_be_goes_alone() -> None:
    options = generation_pb2.GenerationOptions(prompt="a" * _shared_stream.BATCH_BYTES)
    large = generation_pb2.GenerateCall(number=1, request=generation_pb2.GenerateRequest(options=options))
    calls = {1: large, 2: generation_pb2.GenerateCall(number=2)}
    assert [len(message.calls) for message in _shared_stream.taken(calls, [])] == [1, 1]
