"""Options to protobuf, for both clients.

Checks only what a message cannot carry. Ranges are left to the server, the only place that knows them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from google.protobuf import duration_pb2

from charloom.client._errors import InvalidValue
from charloom.client._options import GenerateOptions
from charloom.v1 import generation_pb2, sessions_pb2

if TYPE_CHECKING:
    from typing import SupportsFloat, SupportsIndex

_KNOWN = frozenset(GenerateOptions.__annotations__)
_UNKNOWN_CHARACTERS = {
    "reject": generation_pb2.UNKNOWN_CHARACTERS_REJECT,
    "skip": generation_pb2.UNKNOWN_CHARACTERS_SKIP,
}
# The range of google.protobuf.Duration: ten thousand years.
_LONGEST = 315_576_000_000.0
# gRPC counts deadlines in a range that this stays far inside of: thirty years.
_LONGEST_DEADLINE = 1e9


def generate_request(prompt: str, options: GenerateOptions, session_id: str = "") -> generation_pb2.GenerateRequest:
    """Build the request of Generate.

    Raises:
        TypeError: for options that do not exist.
        InvalidValue: for a value that a message cannot carry.

    """
    return generation_pb2.GenerateRequest(options=_generation_options(prompt, options, session_id))


def complete_request(prompt: str, options: GenerateOptions, session_id: str = "") -> generation_pb2.CompleteRequest:
    """Build the request of Complete; raises as `generate_request`."""
    return generation_pb2.CompleteRequest(options=_generation_options(prompt, options, session_id))


def create_session_request(
    model: str | None, session_id: str | None, seed: int | None, time_to_live: float | None
) -> sessions_pb2.CreateSessionRequest:
    """Build the request of CreateSession; `None` leaves a field unset, `time_to_live` is in seconds.

    Raises:
        InvalidValue: for a value that a message cannot carry.

    """
    return sessions_pb2.CreateSessionRequest(
        model="" if model is None else text("model", model),
        session_id="" if session_id is None else text("id", session_id),
        seed=None if seed is None else _whole("seed", seed, bits=64),
        time_to_live=None if time_to_live is None else _duration("time_to_live", time_to_live),
    )


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


def deadline(value: object) -> float | None:
    """Check a timeout; seconds from now, or `None` for no deadline."""
    if value is None:
        return None
    seconds = _number("timeout", value)
    if math.isnan(seconds):
        raise InvalidValue("timeout", "nan is not a number of seconds")
    return None if seconds > _LONGEST_DEADLINE else seconds


def _generation_options(prompt: str, options: GenerateOptions, session_id: str) -> generation_pb2.GenerationOptions:
    unknown = sorted(set(options) - _KNOWN)
    if unknown:
        raise TypeError(f"unknown option {', '.join(unknown)}; the options are {', '.join(sorted(_KNOWN))}")
    given = {name: value for name, value in options.items() if value is not None}
    message = generation_pb2.GenerationOptions(session_id=text("session_id", session_id), prompt=text("prompt", prompt))
    if "model" in given:
        message.model = text("model", given["model"])
    if "unknown_characters" in given:
        message.unknown_characters = _unknown_characters(given["unknown_characters"])
    if "max_tokens" in given:
        message.max_tokens = _whole("max_tokens", given["max_tokens"], bits=32)
    if "seed" in given:
        message.seed = _whole("seed", given["seed"], bits=64)
    if "expected_position" in given:
        message.expected_position = _whole("expected_position", given["expected_position"], bits=64)
    _set_sampling(message.sampling, given)
    return message


def _set_sampling(message: generation_pb2.Sampling, given: Mapping[str, object]) -> None:
    # Only an assignment makes the message present, so a request without sampling options has none.
    if "temperature" in given:
        message.temperature = _number("temperature", given["temperature"])
    if "top_k" in given:
        message.top_k = _whole("top_k", given["top_k"], bits=32)
    if "top_p" in given:
        message.top_p = _number("top_p", given["top_p"])
    if "min_p" in given:
        message.min_p = _number("min_p", given["min_p"])


def _unknown_characters(value: object) -> generation_pb2.UnknownCharacters.ValueType:
    for name, number in _UNKNOWN_CHARACTERS.items():
        if value == name:
            return number
    raise InvalidValue("unknown_characters", f"{_shown(value)} is neither 'reject' nor 'skip'")


def _whole(field: str, value: object, *, bits: int) -> int:
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise InvalidValue(field, f"{_shown(value)} is not a whole number")
    number = operator.index(cast("SupportsIndex", value))
    if not 0 <= number < 1 << bits:
        raise InvalidValue(field, f"{_shown(number)} is not between 0 and 2**{bits} - 1")
    return number


def _number(field: str, value: object) -> float:
    kind = type(value)
    if isinstance(value, bool) or not (hasattr(kind, "__float__") or hasattr(kind, "__index__")):
        raise InvalidValue(field, f"{_shown(value)} is not a number")
    try:
        return float(cast("SupportsFloat", value))
    except OverflowError:
        raise InvalidValue(field, "the number is too large") from None


def _duration(field: str, value: object) -> duration_pb2.Duration:
    seconds = _number(field, value)
    if not abs(seconds) <= _LONGEST:
        raise InvalidValue(field, f"{seconds} s is not a duration of up to {_LONGEST:.0f} s")
    message = duration_pb2.Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def _shown(value: object) -> str:
    """A value in a message: enough to recognise it, never a page, and no failure on huge integers."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
