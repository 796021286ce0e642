"""Options to protobuf, for both clients.

Checks only what a message cannot carry. Ranges are left to the server, the only place that knows them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from charloom.client import _values
from charloom.client._options import GenerateOptions
from charloom.v1 import generation_pb2, sessions_pb2

_UNKNOWN_CHARACTERS = {
    "reject": generation_pb2.UNKNOWN_CHARACTERS_REJECT,
    "skip": generation_pb2.UNKNOWN_CHARACTERS_SKIP,
}


def _unknown_characters(field: str, value: object) -> int:
    return _values.one_of(field, value, _UNKNOWN_CHARACTERS)


def _logit_bias(field: str, value: object) -> list[generation_pb2.LogitBias]:
    biases = _values.numbers_by_text(field, value)
    return [generation_pb2.LogitBias(characters=characters, bias=bias) for characters, bias in biases.items()]


_Translation = Callable[[str, object], object]

# What goes into the field of the same name.
_OPTIONS: dict[str, _Translation] = {
    "model": _values.text,
    "unknown_characters": _unknown_characters,
    "max_tokens": _values.uint32,
    "min_tokens": _values.uint32,
    "stop": _values.texts,
    "include_stop": _values.flag,
    "seed": _values.uint64,
    "expected_position": _values.uint64,
    "logprobs": _values.flag,
    "top_logprobs": _values.uint32,
}
_SAMPLING: dict[str, _Translation] = {
    "temperature": _values.number,
    "top_k": _values.uint32,
    "top_p": _values.number,
    "min_p": _values.number,
    "repetition_penalty": _values.number,
    "presence_penalty": _values.number,
    "frequency_penalty": _values.number,
    "logit_bias": _logit_bias,
    "allowed_characters": _values.text,
    "forbidden_characters": _values.text,
}


def generate_request(prompt: str, options: GenerateOptions, session_id: str = "") -> generation_pb2.GenerateRequest:
    """Build the request of Generate.

    Raises:
        TypeError: for options that do not exist.
        InvalidValue: for a value that a message cannot carry.

    """
    return generation_pb2.GenerateRequest(options=_generation_options(prompt, options, session_id))


def continuations_request(
    prompt: str, n: int, options: GenerateOptions, session_id: str = ""
) -> generation_pb2.GenerateRequest:
    """Build the request of Generate for `n` continuations; raises as `generate_request`."""
    request = generate_request(prompt, options, session_id)
    request.options.n = _values.uint32("n", n)
    return request


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
        model="" if model is None else _values.text("model", model),
        session_id="" if session_id is None else _values.text("id", session_id),
        seed=None if seed is None else _values.uint64("seed", seed),
        time_to_live=None if time_to_live is None else _values.duration("time_to_live", time_to_live),
    )


def _generation_options(prompt: str, options: GenerateOptions, session_id: str) -> generation_pb2.GenerationOptions:
    _require_known(options)
    given = {name: value for name, value in options.items() if value is not None}
    sampling = _translated(_SAMPLING, given)
    return generation_pb2.GenerationOptions(
        session_id=_values.text("session_id", session_id),
        prompt=_values.text("prompt", prompt),
        # Without sampling options the message is not there at all.
        sampling=generation_pb2.Sampling(**sampling) if sampling else None,
        **_translated(_OPTIONS, given),
    )


def _translated(table: Mapping[str, _Translation], given: Mapping[str, object]) -> dict[str, Any]:
    return {name: translate(name, given[name]) for name, translate in table.items() if name in given}


def _require_known(options: GenerateOptions) -> None:
    known = _OPTIONS.keys() | _SAMPLING.keys()
    unknown = sorted(set(options) - known)
    if "n" in unknown:
        raise TypeError("this call makes one continuation and takes no n; `continuations` makes several")
    if unknown:
        raise TypeError(f"unknown option {', '.join(unknown)}; the options are {', '.join(sorted(known))}")
