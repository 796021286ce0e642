"""How messages become one text: by a template that a bundle may hold, or as a transcript."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from charloom.bundle.errors import UnknownSymbolsError
from charloom.bundle.vocabulary import Vocabulary

Role = Literal["system", "user", "assistant"]
Piece = Annotated[str, Field(max_length=256)]
"""Text around a message."""


class Turn(BaseModel):
    """What stands around a message of one role."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: Piece
    after: Piece


class ChatTemplate(BaseModel):
    """What stands around the messages of each role."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: Turn
    user: Turn
    assistant: Turn
    stop: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(default=(), max_length=8)
    """Strings that end the assistant's text."""

    def prompt(self, messages: Sequence[tuple[Role, str]]) -> str:
        """The text that the assistant's next message goes on from.

        Args:
            messages: role and text of each; where the last one is the assistant's, it is not closed, and goes on
        """
        text = ""
        for role, content in messages:
            turn: Turn = getattr(self, role)
            text += turn.before + content + turn.after
        if not messages or messages[-1][0] != "assistant":
            return text + self.assistant.before
        return text.removesuffix(self.assistant.after) if self.assistant.after else text

    def problem(self, vocabulary: Vocabulary) -> str | None:
        """What a model of this vocabulary cannot read around messages, and in which part; None where it reads all."""
        turns = {"system": self.system, "user": self.user, "assistant": self.assistant}
        parts = {f"{role}.{side}": getattr(turn, side) for role, turn in turns.items() for side in ("before", "after")}
        for name, text in parts.items():
            try:
                vocabulary.encode(text)
            except UnknownSymbolsError as lacking:
                return f"{name} is {text!r}, and {lacking}"
        return None


TRANSCRIPT = ChatTemplate(
    system=Turn(before="", after="\n\n"),
    user=Turn(before="User: ", after="\n"),
    assistant=Turn(before="Assistant: ", after="\n"),
    stop=("\nUser:",),
)
"""Template for models without one of their own, which have not learnt to converse, but may have read dialogues."""
