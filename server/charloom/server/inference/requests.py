"""Parses a request of the Open Inference Protocol: its text, its sequence, and the options of its generation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.constraints.constraint import Constraint, Kind
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.errors import InvalidRequest, shown
from charloom.server.inference.tensors import Tensor, text_of

Parameter = bool | int | float | str

TEXT_INPUT = "text_input"
OUTPUTS = {"text_output": "BYTES", "finish_reason": "BYTES", "position": "INT64"}
"""The outputs, with their datatypes; each has the shape [1]."""
MOST_TENSORS, MOST_VALUES, MOST_PARAMETERS = 8, 8, 64
"""Limits of a request: inputs or outputs; sizes of a shape or values of a tensor; parameters."""
IGNORED = frozenset({"priority", "timeout", "headers", "binary_data_output", "triton_enable_empty_final_response"})
"""Parameters that clients set by themselves, and that change nothing here."""


@dataclass(frozen=True)
class InferenceRequest:
    """A request, as it came."""

    model: str
    version: str
    """Empty: any."""
    id: str
    parameters: Mapping[str, Parameter]
    inputs: Sequence[Tensor]
    outputs: Sequence[str]
    """Names of the outputs that are wanted; empty: all."""


@dataclass(frozen=True)
class SequenceStep:
    """The sequence that a request is a part of."""

    id: str
    start: bool
    end: bool


@dataclass(frozen=True)
class ParsedRequest:
    """A request, parsed. Its `generation` names no session yet."""

    generation: GenerationRequest
    sequence: SequenceStep | None
    outputs: Sequence[str]
    pieces: bool
    """Whether a stream gets the text as it is generated, or at once."""


def parse_request(request: InferenceRequest, tenant: str) -> ParsedRequest:
    """Parse a request.

    Raises:
        InvalidRequest: the request is malformed or a value is out of range.
    """
    given = dict(request.parameters)
    identity = given.pop("sequence_id", 0)
    start, end = (_flag(given, name) for name in ("sequence_start", "sequence_end"))
    # Clients number sequences, or name them; 0 and the empty name stand for none.
    sequence = None if identity in (0, "") or isinstance(identity, bool) else SequenceStep(str(identity), start, end)
    if sequence is None and (start or end):
        raise InvalidRequest("sequence_id", "a request with sequence_start or sequence_end has to name its sequence")
    pieces = _flag(given, "stream", default=True)
    values: dict[str, Any] = {"constraint": _constraint(given)}
    sampling: dict[str, Any] = {}
    for name, value in given.items():
        if name in _OPTIONS:
            values[_RENAMED.get(name, name)] = _OPTIONS[name](name, value)
        elif name in _CONTROLS:
            sampling[name] = _CONTROLS[name](name, value)
        elif name not in IGNORED:
            known = sorted(
                {*_OPTIONS, *_CONTROLS, *_CONSTRAINTS, "stream", "sequence_id", "sequence_start", "sequence_end"}
            )
            raise InvalidRequest(f"parameters[{shown(name)}]", f"there is no such parameter; there are {known}")
    generation = GenerationRequest(
        model=request.model,
        tenant=tenant,
        prompt=_text(request.inputs),
        sampling=Sampling(**sampling),
        **values,
    )
    return ParsedRequest(generation, sequence, _outputs(request.outputs), pieces)


def _constraint(given: dict[str, Parameter]) -> Constraint | None:
    """Take the constraint of the whole text out of the parameters."""
    found = [
        Constraint(Kind(name), _CONSTRAINTS[name](name, given.pop(name)), f"parameters[{name!r}]")
        for name in _CONSTRAINTS
        if name in given
    ]
    if len(found) > 1:
        raise InvalidRequest(found[1].field, f"{found[0].field} says already what the text is to match; leave one out")
    return found[0] if found else None


def _text(inputs: Sequence[Tensor]) -> str:
    if [tensor.name for tensor in inputs] != [TEXT_INPUT]:
        names = [tensor.name[:80] for tensor in inputs[:8]]
        raise InvalidRequest("inputs", f"they are {names}; give {TEXT_INPUT!r} alone: the rest are parameters")
    return text_of(inputs[0])


def _outputs(wanted: Sequence[str]) -> Sequence[str]:
    for name in wanted:
        if name not in OUTPUTS:
            raise InvalidRequest("outputs", f"there is no output {shown(name)}; there are {list(OUTPUTS)}")
    return list(wanted or OUTPUTS)


def _flag(given: dict[str, Parameter], name: str, *, default: bool = False) -> bool:
    value = given.pop(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"parameters[{name!r}]", f"{shown(str(value))} is not true or false")
    return value


def _whole(name: str, value: Parameter) -> int:
    """A whole number: some clients send numbers as text, or whole ones as floats."""
    number = _number(name, value)
    if not number.is_integer():
        raise InvalidRequest(f"parameters[{name!r}]", f"{shown(str(value))} is not a whole number")
    return value if isinstance(value, int) else int(value) if isinstance(value, str) and _digits(value) else int(number)


def _digits(value: str) -> bool:
    return value.isascii() and value.removeprefix("-").isdecimal() and len(value) <= 20


def _number(name: str, value: Parameter) -> float:
    if not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise InvalidRequest(f"parameters[{name!r}]", f"{shown(str(value))} is not a number")


def _characters(name: str, value: Parameter) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"parameters[{name!r}]", f"{shown(str(value))} is not a text")
    return value


def _truth(name: str, value: Parameter) -> bool:
    return _flag({name: value}, name)


def _one(name: str, value: Parameter) -> tuple[str, ...]:
    return (_characters(name, value),)


def _texts(name: str, value: Parameter) -> tuple[str, ...]:
    """One string, or several as a JSON list: a parameter has one value."""
    text = _characters(name, value)
    if not text.startswith("["):
        return (text,)
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()  # halves of characters are no text
    except (ValueError, RecursionError):
        return (text,)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        return (text,)
    return tuple(found)


def _skips(name: str, value: Parameter) -> bool:
    if value not in ("reject", "refuse", "skip"):
        raise InvalidRequest(f"parameters[{name!r}]", f"{shown(str(value))} is neither 'reject' nor 'skip'")
    return value == "skip"


Read = Callable[[str, Parameter], Any]
_OPTIONS: Mapping[str, Read] = {
    "max_tokens": _whole,
    "min_tokens": _whole,
    "seed": _whole,
    "stop": _texts,
    "include_stop": _truth,
    "unknown_characters": _skips,
}
_CONSTRAINTS: Mapping[str, Read] = {"regex": _one, "choices": _texts, "json_schema": _one}
_RENAMED = {"unknown_characters": "skip_unknown"}
_READ: Mapping[type, Read] = {int: _whole, float: _number, str: _characters, type(None): _characters}
_CONTROLS = {field.name: _READ[type(field.default)] for field in fields(Sampling) if type(field.default) in _READ}
"""How each control of sampling is read, by its name in the engine."""
