"""Converts values to what a message can carry, or raises `InvalidValue`. Checks types; the server checks ranges."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

from google.protobuf import duration_pb2

from charloom.client._errors import InvalidValue

if TYPE_CHECKING:
    from typing import SupportsFloat, SupportsIndex

_Meaning = TypeVar("_Meaning")

# The range of google.protobuf.Duration: ten thousand years.
_LONGEST = 315_576_000_000.0
# Thirty years, far inside the range in which gRPC counts deadlines.
_LONGEST_DEADLINE = 1e9
# Bytes that the address of a Unix socket has room for.
_LONGEST_SOCKET_PATH = 107
_GRPC_SCHEMES = ("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds")
_URL_SCHEMES = ("http", "https", "grpc", "grpcs")


def text(field: str, value: object) -> str:
    """Check that a value is text that UTF-8 can carry."""
    if not isinstance(value, str):
        raise InvalidValue(field, f"{_shown(value)} is not a string")
    try:
        value.encode()
    except UnicodeEncodeError as problem:
        raise InvalidValue(
            field,
            f"the character {value[problem.start]!r} at {problem.start} is half of a surrogate pair, "
            "which is no text; was it decoded with errors='surrogateescape'?",
        ) from None
    return value


def texts(field: str, value: object) -> list[str]:
    """Check a list of strings; a single string becomes a list of one."""
    if isinstance(value, str):
        return [text(field, value)]
    if isinstance(value, bytes | bytearray) or not isinstance(value, Sequence):
        raise InvalidValue(field, f"{_shown(value)} is neither a string nor a list of strings")
    return [text(f"{field}[{place}]", one) for place, one in enumerate(value)]


def json_text(field: str, value: object) -> str:
    """Check a mapping that JSON can carry, and write it as JSON; a string is taken to be JSON already."""
    if isinstance(value, str):
        return text(field, value)
    if not isinstance(value, Mapping):
        raise InvalidValue(field, f"{_shown(value)} is neither a mapping nor JSON")
    try:
        return text(field, json.dumps(dict(value), ensure_ascii=False))
    except (TypeError, ValueError, RecursionError) as problem:
        raise InvalidValue(field, f"it cannot be written as JSON: {problem}") from problem


def printable(field: str, value: object) -> str:
    """Check that a value is text that the header of a call can carry."""
    for place, character in enumerate(text(field, value)):
        if not " " <= character <= "~":
            raise InvalidValue(field, f"the character {character!r} at {place} is not printable ASCII")
    return cast("str", value)


def target(field: str, value: object) -> str:
    """Check a server's address for mistakes that gRPC would not report."""
    address = text(field, value)
    if not address:
        raise InvalidValue(field, "it is empty; give HOST:PORT, or unix:PATH")
    scheme, _, path = address.partition(":")
    # gRPC would try to resolve the URL as a host name until the call's deadline.
    if scheme.lower() in _URL_SCHEMES and path.startswith("//"):
        raise InvalidValue(field, f"{address!r} is a URL; give HOST:PORT of the gRPC port, or unix:PATH")
    if address.isdecimal():
        raise InvalidValue(field, f"{address!r} names no host; give HOST:PORT, or unix:PATH")
    host, _, port = address.rpartition(":")
    without_scheme = host not in _GRPC_SCHEMES and (":" not in host or host.endswith("]"))
    if without_scheme and port[:1].isdigit() and not _is_port(port):
        raise InvalidValue(field, f"{port!r} in {address!r} is no port, a number up to 65535")
    if scheme == "unix" and len(path.removeprefix("//").encode()) > _LONGEST_SOCKET_PATH:
        raise InvalidValue(field, f"the path of a Unix socket has at most {_LONGEST_SOCKET_PATH} bytes: {path}")
    return address


def _is_port(text: str) -> bool:
    return len(text) <= 5 and text.isascii() and text.isdecimal() and int(text) < 2**16


def token(field: str, value: object) -> bytes:
    """Check the bytes of an exported state; empty ones are refused, because they would mean no state."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise InvalidValue(field, f"{_shown(value)} is not bytes")
    if not len(value):
        raise InvalidValue(field, "it is empty; give the bytes that were exported, or leave it out")
    return bytes(value)


def flag(field: str, value: object) -> bool:
    """Check a boolean."""
    if not isinstance(value, bool):
        raise InvalidValue(field, f"{_shown(value)} is neither True nor False")
    return value


def uint32(field: str, value: object) -> int:
    """Check a whole number of 32 bits."""
    return _whole(field, value, bits=32)


def uint32s(field: str, value: object) -> list[int]:
    """Check a list of whole numbers of 32 bits."""
    if isinstance(value, str | bytes | bytearray) or not isinstance(value, Sequence):
        raise InvalidValue(field, f"{_shown(value)} is not a list of whole numbers")
    return [uint32(f"{field}[{place}]", one) for place, one in enumerate(value)]


def uint64(field: str, value: object) -> int:
    """Check a whole number of 64 bits."""
    return _whole(field, value, bits=64)


def number(field: str, value: object) -> float:
    """Check a number of any kind."""
    kind = type(value)
    if isinstance(value, bool) or not (hasattr(kind, "__float__") or hasattr(kind, "__index__")):
        raise InvalidValue(field, f"{_shown(value)} is not a number")
    try:
        return float(cast("SupportsFloat", value))
    except OverflowError:
        raise InvalidValue(field, "the number is too large") from None


def numbers_by_text(field: str, value: object) -> dict[str, float]:
    """Check a mapping of strings to numbers."""
    if not isinstance(value, Mapping):
        raise InvalidValue(field, f"{_shown(value)} does not map strings to numbers; give a dict such as {{'e': -5}}")
    return {text(field, key): number(f"{field}[{_shown(key)}]", one) for key, one in value.items()}


def duration(field: str, value: object) -> duration_pb2.Duration:
    """Check a number of seconds and turn it into a message."""
    seconds = number(field, value)
    if not abs(seconds) <= _LONGEST:
        raise InvalidValue(field, f"{seconds} s is not a duration of up to {_LONGEST:.0f} s")
    message = duration_pb2.Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def deadline(value: object) -> float | None:
    """Check a timeout; seconds from now, or `None` for no deadline."""
    if value is None:
        return None
    seconds = number("timeout", value)
    if math.isnan(seconds):
        raise InvalidValue("timeout", "nan is not a number of seconds")
    return None if seconds > _LONGEST_DEADLINE else seconds


def one_of(field: str, value: object, meanings: Mapping[str, _Meaning]) -> _Meaning:
    """Check that a value is a key of `meanings`; returns its meaning."""
    for word, meaning in meanings.items():
        if value == word:
            return meaning
    raise InvalidValue(field, f"{_shown(value)} is neither {' nor '.join(map(repr, meanings))}")


def _whole(field: str, value: object, *, bits: int) -> int:
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise InvalidValue(field, f"{_shown(value)} is not a whole number")
    whole = operator.index(cast("SupportsIndex", value))
    if not 0 <= whole < 1 << bits:
        raise InvalidValue(field, f"{_shown(whole)} is not between 0 and 2**{bits} - 1")
    return whole


def _shown(value: object) -> str:
    """Format a value for an error message, shortened; does not fail on huge integers."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
