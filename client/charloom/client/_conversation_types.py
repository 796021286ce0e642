"""Events of a conversation: plain frozen values that know neither gRPC nor protobuf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from charloom.client._generation_types import Result


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversationText:
    """A piece of text that was generated."""

    text: str
    """One or more whole characters."""

    position: int
    """Tokens fed and generated since the state was zero, after the piece."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """A message of the client took effect: text before this was generated without it, text after it with it."""

    number: int
    """The message's number: 0 is the start, later ones are what the methods returned."""

    position: int
    """Position at which it took effect; injected text comes after it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """Generating has ended by itself; `generate` continues."""

    result: Result
    """How it ended."""

    position: int
    """Tokens fed and generated since the state was zero, after the last token."""


ConversationEvent: TypeAlias = ConversationText | Applied | Ended
"""An item of the iteration over a conversation."""
