"""What a caller may ask for. Names and types only: the server knows the limits and the defaults."""

from __future__ import annotations

import enum
from typing import Literal, TypeAlias, TypedDict


class NotGiven(enum.Enum):
    """Tells a timeout that was not given from `None`, which means no deadline."""

    NOT_GIVEN = "not given"

    def __repr__(self) -> str:
        return "NOT_GIVEN"


NOT_GIVEN = NotGiven.NOT_GIVEN

Timeout: TypeAlias = float | NotGiven | None
"""Seconds; `None` is no deadline; not given is the client's own."""


class GenerateOptions(TypedDict, total=False):
    """What to generate. An option that is left out, or is `None`, takes the server's default."""

    model: str | None
    """Name of the model. Default: the session's model or, without a session, the server's first one."""

    max_tokens: int | None
    """How many tokens to generate, from 1 up to the server's limit. Default 256, or the limit if that is lower."""

    temperature: float | None
    """Divides the logits, 0 to 100: below 1 more conservative, above 1 more varied, 0 always the most probable
    token. Default 1."""

    top_k: int | None
    """Only the k most probable tokens; 0 is off. Default 0."""

    top_p: float | None
    """Only the most probable tokens that together reach this probability; above 0 up to 1, 1 is off. Default 1."""

    min_p: float | None
    """Only tokens at least this probable in relation to the most probable one; 0 to 1, 0 is off. Default 0."""

    seed: int | None
    """Of the random numbers, 64 bits. In a session it becomes the session's seed. Default: the session's own seed
    or, without a session, one that the server draws; the result says which."""

    unknown_characters: Literal["reject", "skip"] | None
    """What to do with characters of the prompt that the model lacks: refuse the call, or leave them out.
    Default "reject"."""

    expected_position: int | None
    """Refuse the call (`Conflict`) unless the session stands at this position. Default: any."""
