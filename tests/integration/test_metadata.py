"""Metadata that is too long, and headers that never end."""

from __future__ import annotations

import socket
import struct

import grpc
import pytest

from charloom.server.app import Server
from charloom.server.grpc.connections import METADATA_BYTES
from charloom.v1 import models_pb2, models_pb2_grpc
from tests.integration.conftest import memory_held
from tests.waiting import eventually

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RST_STREAM, SETTINGS, CONTINUATION = 1, 3, 4, 9


def frame(kind: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, 0, stream) + payload


def long_header(number: int, value: bytes) -> bytes:
    """A header in HPACK: new, not indexed, in plain bytes."""
    name, more = b"x-%d" % number, len(value) - 127
    return bytes([0, len(name)]) + name + bytes([127, more % 128 | 128, more // 128]) + value


def test_long_metadata_passes_up_to_the_limit(channel: grpc.Channel) -> None:
    models = models_pb2_grpc.ModelServiceStub(channel)
    request = models_pb2.ListModelsRequest()
    models.ListModels(request, metadata=(("x-token", "t" * (METADATA_BYTES * 3 // 4)),))
    for size in (METADATA_BYTES + 1000, 2**20):
        with pytest.raises(grpc.RpcError) as refused:
            models.ListModels(request, metadata=(("x-token", "t" * size),))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "metadata size exceeds" in refused.value.details()
    models.ListModels(request)


def test_headers_that_never_end_are_refused_and_not_kept(server: Server, channel: grpc.Channel) -> None:
    models = models_pb2_grpc.ModelServiceStub(channel)
    request = models_pb2.ListModelsRequest()
    models.ListModels(request)
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as flood:
        flood.sendall(PREFACE + frame(SETTINGS, 0, b"") + frame(HEADERS, 1, b"\x83\x86\x44\x01/\x41\x01a"))
        for number in range(20_000):  # 305 MiB
            if number == 5_000:  # gRPC's buffers have grown by now
                before = memory_held()
            flood.sendall(frame(CONTINUATION, 1, long_header(number % 10, b"z" * 16_000)))
        models.ListModels(request, timeout=60)
        said = b""
        while frame(RST_STREAM, 1, b"\0\0\0\0") not in said:
            received = flood.recv(2**16)
            assert received, said
            said += received
        assert b"grpc-status\x018" in said  # RESOURCE_EXHAUSTED
        # What gRPC has read ahead goes a moment later; of a flood that was kept, all 229 MiB would be there.
        eventually(lambda: memory_held() - before < 50 * 2**20)
    eventually(lambda: bool(models.ListModels(request).models))
