"""Options of a generation to protobuf, for both clients.

Checks only what a message cannot carry. Ranges are left to the server, the only place that knows them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Set
from typing import Any, get_type_hints

from charloom.client import _values
from charloom.client._errors import InvalidValue
from charloom.client._options import GenerateOptions, SamplingOptions
from charloom.v1 import generation_pb2, text_pb2

_UNKNOWN_CHARACTERS = {
    "reject": text_pb2.UNKNOWN_CHARACTERS_REJECT,
    "skip": text_pb2.UNKNOWN_CHARACTERS_SKIP,
}


def unknown_characters(value: str | None) -> text_pb2.UnknownCharacters.ValueType:
    """Convert "reject", "skip" or `None` to the value of the message.

    Raises:
        InvalidValue: `value` is anything else.

    """
    if value is None:
        return text_pb2.UNKNOWN_CHARACTERS_UNSPECIFIED
    return _unknown_characters("unknown_characters", value)


def _unknown_characters(field: str, value: object) -> text_pb2.UnknownCharacters.ValueType:
    return _values.one_of(field, value, _UNKNOWN_CHARACTERS)


def _logit_bias(field: str, value: object) -> list[generation_pb2.LogitBias]:
    biases = _values.numbers_by_text(field, value)
    return [generation_pb2.LogitBias(characters=characters, bias=bias) for characters, bias in biases.items()]


_Translation = Callable[[str, object], object]

# Options that are converted into the field of the same name.
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
    "state": _values.token,
    "return_state": _values.flag,
}
_BY_TYPE: dict[object, _Translation] = {
    float | None: _values.number,
    int | None: _values.uint32,
    str | None: _values.text,
    Mapping[str, float] | None: _logit_bias,
}
_CONSTRAINTS: dict[str, _Translation] = {
    "regex": _values.text,
    "choices": lambda field, value: generation_pb2.Choices(texts=_values.texts(field, value)),
    "json_schema": _values.json_text,
}
_SAMPLING = {name: _BY_TYPE[annotation] for name, annotation in get_type_hints(SamplingOptions).items()}


def generate_request(prompt: str, options: GenerateOptions, session_id: str = "") -> generation_pb2.GenerateRequest:
    """Build the request of Generate.

    Raises:
        TypeError: for options that do not exist.
        InvalidValue: for a value that a message cannot carry.

    """
    return generation_pb2.GenerateRequest(options=generation_options(prompt, options, session_id))


def resumable_request(prompt: str, options: GenerateOptions, session_id: str = "") -> generation_pb2.GenerateRequest:
    """Build the request of Generate so that it can be resumed after a break; raises as `generate_request`."""
    request = generate_request(prompt, options, session_id)
    request.call_id = secrets.token_hex(16)
    if not (session_id or request.options.state or request.options.HasField("seed")):
        # A seed drawn by the server would be lost with the connection. A session or state has its own.
        request.options.seed = secrets.randbits(64)
    return request


def continuations_request(
    prompt: str, n: int, resample: bool, options: GenerateOptions, session_id: str = ""
) -> generation_pb2.GenerateRequest:
    """Build the request of Generate for `n` continuations; raises as `generate_request`."""
    request = generate_request(prompt, options, session_id)
    request.options.n = _values.uint32("n", n)
    request.options.resample = _values.flag("resample", resample)
    return request


def generation_options(prompt: str, options: GenerateOptions, session_id: str = "") -> generation_pb2.GenerationOptions:
    """Build the options that all calls that generate have in common; raises as `generate_request`."""
    _require_known(options, _OPTIONS.keys() | _SAMPLING.keys() | _CONSTRAINTS.keys())
    given = _given(options)
    return generation_pb2.GenerationOptions(
        session_id=_values.text("session_id", session_id),
        prompt=_values.text("prompt", prompt),
        # The message is absent without sampling options.
        sampling=_sampling(given) if _SAMPLING.keys() & given.keys() else None,
        constraint=_constraint(given),
        **_translated(_OPTIONS, given),
    )


def _constraint(given: Mapping[str, object]) -> generation_pb2.Constraint | None:
    parts = _translated(_CONSTRAINTS, given)
    if len(parts) > 1:
        raise InvalidValue(" and ".join(parts), "they exclude each other; give one of them")
    return generation_pb2.Constraint(**parts) if parts else None


def sampling(options: SamplingOptions) -> generation_pb2.Sampling:
    """Build the sampling parameters alone; raises as `generate_request`."""
    _require_known(options, _SAMPLING.keys())
    return _sampling(_given(options))


def _sampling(given: Mapping[str, object]) -> generation_pb2.Sampling:
    return generation_pb2.Sampling(**_translated(_SAMPLING, given))


def _given(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


def _translated(table: Mapping[str, _Translation], given: Mapping[str, object]) -> dict[str, Any]:
    return {name: translate(name, given[name]) for name, translate in table.items() if name in given}


def _require_known(options: Mapping[str, object], known: Set[str]) -> None:
    unknown = sorted(set(options) - known)
    if "n" in unknown:
        raise TypeError("this call makes one continuation and takes no n; `continuations` makes several")
    if unknown:
        raise TypeError(f"unknown option {', '.join(unknown)}; the options are {', '.join(sorted(known))}")
