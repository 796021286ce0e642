"""What a server makes of the lines of a log: plain frozen values that know neither gRPC nor protobuf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mask = Literal["none", "digits", "numbers"]
"""What becomes of numbers before a model reads them: nothing; each digit becomes 0; each number becomes one 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What is made of a line."""

    source: str
    """Who wrote it."""

    text: str
    """The line as it was read: the beginning of a very long one, without what is no Unicode."""

    surprise: float
    """The mean over its most surprising stretch of four tokens, in nats per token."""

    threshold: float | None
    """Above which a line is an alert; `None` while too few lines are known."""

    alert: bool
    """Whether it is one."""

    own_threshold: bool
    """Whether the threshold is the source's own, and not that of all sources together."""

    drifting: bool
    """Whether the source has lately been unlike what it was before."""

    cut: bool
    """Whether only the beginning was read."""

    nats: float
    """The negative log-probability of the line and its break."""

    tokens: int
    """How many tokens that is the sum of."""

    lines: int
    """Of this source so far, with this one."""

    characters: tuple[float, ...]
    """Where asked for: nats of each character of the text; those of a masked number are all told of its first one. In a
    model with a Unicode form of its own, of each character in that form."""
