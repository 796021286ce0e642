"""What a caller may ask of generated text, and why it may be refused."""

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
    """The whole text is to be one of those that this allows."""

    kind: Kind
    content: tuple[str, ...]
    """The texts to choose from; of the other kinds, one string."""
    field: str = field(default="", compare=False)
    """The name that a refusal gives to where it stands; empty: that of its kind under `constraint`."""

    def __post_init__(self) -> None:
        if not self.field:
            object.__setattr__(self, "field", f"constraint.{self.kind.value}")


class BadConstraint(Exception):
    """A constraint cannot be kept. Its message can be sent, whatever of the constraint is in it.

    Args:
        problem: what is wrong, and what to do
        where: the place in it: a number of characters, or a JSON pointer; empty: the whole of it
    """

    def __init__(self, problem: str, where: str = "") -> None:
        super().__init__(f"{_sent(where, 100)}: {_sent(problem, 400)}" if where else _sent(problem, 500))


def _sent(text: str, most: int) -> str:
    """A text without half surrogates, and not longer than that."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= most else f"{text[:most]}..."
