"""Tensors of text and numbers, and their raw form."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from charloom.engine.errors import InvalidRequest, shown

Value = bytes | int


@dataclass(frozen=True)
class Tensor:
    """A tensor as the protocol has it; `BYTES` has byte strings as values, `INT64` integers."""

    name: str
    datatype: str
    shape: Sequence[int]
    values: Sequence[Value]

    def raw(self) -> bytes:
        """The values as raw bytes: each byte string after its length in four bytes, integers in eight, all of them
        little-endian.
        """
        parts = []
        for value in self.values:
            if isinstance(value, bytes):
                parts += [struct.pack("<I", len(value)), value]
            else:
                parts.append(struct.pack("<q", value))
        return b"".join(parts)


def strings_of(name: str, raw: bytes, most: int) -> list[bytes]:
    """The byte strings of a raw tensor of `BYTES`.

    Args:
        name: of the tensor
        raw: its content
        most: how many are read

    Raises:
        InvalidRequest: it is cut off, or has more.
    """
    found: list[bytes] = []
    at = 0
    while at < len(raw):
        if len(found) == most:
            raise InvalidRequest(name, f"its raw content has more than the {most} that its shape has room for")
        end = at + 4
        if end <= len(raw):
            end += struct.unpack_from("<I", raw, at)[0]
        if end > len(raw):
            raise InvalidRequest(name, "its raw content is cut off: each string follows its length in four bytes")
        found.append(raw[at + 4 : end])
        at = end
    return found


def text_of(tensor: Tensor) -> str:
    """The text of a tensor that has one.

    Raises:
        InvalidRequest: it has none, several, or another type.
    """
    if tensor.datatype != "BYTES":
        raise InvalidRequest(tensor.name, f"it is of {shown(tensor.datatype)}; text is BYTES")
    if len(tensor.shape) > 2 or any(size != 1 for size in tensor.shape) or len(tensor.values) != 1:
        raise InvalidRequest(
            tensor.name,
            f"it has the shape {list(tensor.shape[:8])} and {len(tensor.values)} values; give one text, of shape [1] "
            "or [1, 1]",
        )
    (value,) = tensor.values
    if not isinstance(value, bytes):
        raise InvalidRequest(tensor.name, "its value is no string")
    try:
        return value.decode()
    except UnicodeDecodeError as problem:
        raise InvalidRequest(tensor.name, f"it is not UTF-8: {problem}") from problem
