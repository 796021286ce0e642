"""Constraints on generated text, and the error of a constraint that is refused."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Kind(enum.Enum):
    """How a constraint is written; the value is its name in requests."""

    REGEX = "regex"
    CHOICES = "choices"
    JSON_SCHEMA = "json_schema"


@dataclass(frozen=True)
class Constraint:
    """A condition that the whole text has to match."""

    kind: Kind
    content: tuple[str, ...]
    """For CHOICES, the texts to choose from; for the other kinds, one string."""
    field: str = field(default="", compare=False)
    """The name of the request's field, for errors; empty: `constraint.` and the kind."""

    def __post_init__(self) -> None:
        if not self.field:
            object.__setattr__(self, "field", f"constraint.{self.kind.value}")


class BadConstraint(Exception):
    """A constraint is not supported, or cannot be met. The message is short and without surrogates, so it can be sent.

    Args:
        problem: what is wrong, and what to do
        where: the place in the constraint: an offset in characters, or a JSON pointer; empty: the whole
    """

    def __init__(self, problem: str, where: str = "") -> None:
        super().__init__(f"{_sent(where, 100)}: {_sent(problem, 400)}" if where else _sent(problem, 500))


def _sent(text: str, most: int) -> str:
    """The text without surrogates, cut to `most` characters."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= most else f"{text[:most]}..."
