"""From the bytes of a body to a checked value: strict JSON, ignored fields are reported, errors name the field."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from charloom.engine.errors import shown
from charloom.server.http.problems import Refused

Whole = Annotated[int, Field(ge=-(2**63), lt=2**64)]
"""A whole number that the engine can check."""
Count = Annotated[int, Field(ge=0, lt=2**63)]

T = TypeVar("T")
Items = Annotated[list[T], Field(fail_fast=True)]
"""A list, with an error for the first wrong item only: a body has room for a million of them."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""How JSON writes half of a character outside the basic plane."""

IN_JSON = {
    "dict_type": "it is no object; give {...}",
    "model_type": "it is no object; give {...}",
    "list_type": "it is no list; give [...]",
}
"""Replaces pydantic's messages that speak of Python's types."""


class Body(BaseModel):
    """A JSON object. What is null counts as left out; what has no name here is kept, to be named in a warning."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: part for name, part in value.items() if part is not None}


class ReadingBody(Body):
    """The fields of every body that has a model read text."""

    unknown_characters: Literal["reject", "refuse", "skip"] = Field(
        "reject", description="what is done with characters that the model lacks; `refuse` is an older name of `reject`"
    )

    @property
    def skip_unknown(self) -> bool:
        """Whether characters that the model lacks are left out."""
        return self.unknown_characters == "skip"


B = TypeVar("B", bound=Body)


def at_most(entries: int) -> BeforeValidator:
    """Limit the entries of an object before any of them is validated; `max_length` counts only afterwards."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > entries:
            raise ValueError(f"it has {len(value)} entries; up to {entries} are allowed")
        return value

    return BeforeValidator(check)


STRING = "str"
"""How pydantic's error location names the `str` branch of a union; names of other branches have brackets."""


def parsed(content: bytes, headers: Mapping[str, str], form: type[B]) -> tuple[B, list[str]]:
    """Parse a body; returns its value and the names of ignored fields.

    Args:
        content: the bytes
        headers: headers of the request, whose content type is checked
        form: the expected type

    Raises:
        Refused: they are not JSON, or not of this form.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "NOT_JSON", f"the body is {shown(kind) if kind else 'of no type'}; send application/json")
    return parsed_json(content, form)


def parsed_json(content: bytes, form: type[B]) -> tuple[B, list[str]]:
    """Like `parsed`, but without a look at the headers."""
    value = _read(content)
    if not isinstance(value, dict):
        raise Refused(400, "NOT_JSON", "the body is JSON, but no object; send {...}")
    try:
        body = form.model_validate(value)
    except ValidationError as problem:
        raise _refusal(problem) from problem
    return body, _unknown(body)


def _unknown(body: Body) -> list[str]:
    names = list(body.model_extra or {})
    for name in type(body).model_fields:
        part = getattr(body, name)
        if isinstance(part, Body):
            names += [f"{name}.{inner}" for inner in _unknown(part)]
        elif isinstance(part, list):
            for number, one in enumerate(part):
                if isinstance(one, Body):
                    names += [f"{name}[{number}].{inner}" for inner in _unknown(one)]
    return names


def _read(content: bytes) -> Any:
    try:
        # `json.loads` would also accept bytes in UTF-16 and UTF-32, with unpaired surrogates.
        value = json.loads(content.decode("utf-8-sig"), parse_constant=_no_number)
        if _SURROGATE.search(content):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise Refused(400, "NOT_JSON", "the body is nested too deeply") from None
    except ValueError as problem:
        raise Refused(400, "NOT_JSON", f"the body is not JSON: {problem}") from problem
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _refusal(problem: ValidationError) -> Refused:
    """The first thing that is wrong, under the name of its field."""
    errors = problem.errors(include_url=False, include_context=False)
    error = errors[0]
    if error["loc"][-1:] == (STRING,) and isinstance(error["input"], list):
        # For a field that may be a text or a list, pydantic reports first why it is no text.
        field = error["loc"][:-1]
        error = next((one for one in errors[1:] if one["loc"][: len(field)] == field), error)
    place = [part for part in error["loc"] if not (isinstance(part, str) and (part == STRING or "[" in part))]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    what = IN_JSON.get(error["type"], error["msg"].removeprefix("Value error, "))
    return Refused(400, "INVALID_REQUEST", f"{shown(name)[1:-1]}: {what}", param=name[:80] or None)
