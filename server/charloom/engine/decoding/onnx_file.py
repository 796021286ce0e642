"""Whether an ONNX file holds all of its tensors itself, told from its bytes.

A tensor may name another file that has its numbers. The manifest's hashes do not cover such a file, and ONNX Runtime
opens it without being asked, also where it is given the graph as bytes; so no bundle may have one.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

_PARTS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""By kind of message: the fields, of messages themselves, in which there are tensors."""
_ELSEWHERE = {13, 14}
"""Of a tensor: `external_data` and `data_location`, which is 0, or left out, where the tensor has its numbers."""
_LARGEST_TAG = 2**32 - 1
"""ONNX Runtime's reader cuts larger ones down to 32 bits, so that they would name one of the fields above."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_whole(path: Path) -> None:
    """See that a file holds all of its tensors.

    Raises:
        ValueError: it has a tensor whose numbers are in another file, or it is no protobuf message.
        OSError: it cannot be read.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = [("model", 0, len(content))]
        while found:
            kind, start, end = found.pop()
            for field, wire_type, begin, stop in _fields(content, start, end):
                if kind == "tensor" and field in _ELSEWHERE and not (wire_type == _VARINT and stop == 0):
                    raise ValueError("it has a tensor whose numbers are in another file, which no hash covers")
                if field in _PARTS[kind] and wire_type == _BYTES:
                    found.append((_PARTS[kind][field], begin, stop))


def _fields(content: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number and wire type of each field, with where its bytes begin and end; of a varint, 0 and its value."""
    while at < end:
        tag, at = _varint(content, at, end)
        if tag > _LARGEST_TAG:
            raise ValueError("it is no ONNX file: a field has a number of more than 29 bits")
        field, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            value, at = _varint(content, at, end)
            yield field, wire_type, 0, value
            continue
        if wire_type == _BYTES:
            size, at = _varint(content, at, end)
        elif wire_type in (_FIXED64, _FIXED32):
            size = 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError(f"it is no ONNX file: wire type {wire_type}")
        if size > end - at:
            raise ValueError("it is no ONNX file: it ends early")
        yield field, wire_type, at, at + size
        at += size


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """The value, and where it ends."""
    value = 0
    for place in range(10):
        if at + place >= end:
            raise ValueError("it is no ONNX file: it ends early")
        byte = content[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("it is no ONNX file: a number has more than 10 bytes")
