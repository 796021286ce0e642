"""Command-line flags from a settings class: names, help and defaults are stated once, where the settings are."""

from __future__ import annotations

import argparse
import enum
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


def add_settings_flags(parser: argparse._ActionsContainer, settings: type[BaseModel]) -> None:
    """Add one `--flag` per field; a flag that is not given sets no attribute, so that other sources can set it."""
    for name, field in settings.model_fields.items():
        flag = _flag(name)
        default = field.get_default(call_default_factory=True, validated_data={})
        shown = default.value if isinstance(default, enum.Enum) else default
        if isinstance(shown, tuple):
            shown = ",".join(map(str, shown))
        text = (field.description or "") if shown is None else f"{field.description} (default: {shown})"
        text = text.replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(
                flag, dest=name, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
            )
        else:
            parser.add_argument(
                flag, dest=name, default=argparse.SUPPRESS, help=text, metavar=_metavar(field.annotation)
            )


def given_settings(arguments: argparse.Namespace, settings: type[BaseModel]) -> dict[str, Any]:
    """The flags that were given, by field name."""
    return {name: value for name, value in vars(arguments).items() if name in settings.model_fields}


def explain(problem: ValidationError, settings: type[BaseModel] | None = None) -> str:
    """Say which flags are at fault and why, in one line; the settings are those that have the flags."""
    return "; ".join(mistakes(problem, settings))


def mistakes(problem: ValidationError, settings: type[BaseModel] | None = None) -> list[str]:
    """What is wrong with which flag, a sentence each."""
    fields: Iterable[str] = () if settings is None else settings.model_fields
    parts = []
    for error in problem.errors():
        name = ".".join(part for part in error["loc"] if isinstance(part, str))  # without indices of lists
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":  # no flag has such a name, so it comes from a file
            parts.append(_unknown(name, error["input"]))
            continue
        parts.append(f"{_flag(name)} {error['input']}: {message}" if name else _with_flags(message, fields))
    return parts


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _with_flags(message: str, fields: Iterable[str]) -> str:
    """What is said of several fields, said of flags; a name that is a word too is a field's before its value."""
    for name in fields:
        message = re.sub(rf"\b{name}\b" if "_" in name else rf"\b{name}\b(?= \()", _flag(name), message)
    return message


def _unknown(name: str, value: object) -> str:
    if isinstance(value, dict):
        return f"there is no setting {name!r}; settings stand at the top of the file, and in no table"
    hint = f"; in a file its words have underscores: {name.replace('-', '_')}" if "-" in name else ""
    return f"there is no setting {name!r}{hint}"


def _metavar(annotation: Any) -> str:
    if type(None) in get_args(annotation):
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
    if get_origin(annotation) is Literal:
        return "{" + ",".join(str(choice) for choice in get_args(annotation)) + "}"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return "{" + ",".join(str(member.value) for member in annotation) + "}"
    if get_origin(annotation) is tuple:
        return "X,X,..." if float in get_args(get_args(annotation)[0]) else "N,N,..."
    return {int: "N", float: "X"}.get(annotation, "VALUE")
