"""Verdicts on lines of a log: plain frozen values that know neither gRPC nor protobuf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mask = Literal["none", "digits", "numbers"]
"""How numbers are masked before a model reads them: not at all; each digit as 0; each number as one 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The server's judgement of a line."""

    source: str
    """The source that wrote the line."""

    text: str
    """The line as it was read: only the beginning of a very long one; bytes that are not UTF-8 are U+FFFD."""

    surprise: float
    """Mean surprisal of its most surprising four consecutive tokens, in nats per token."""

    threshold: float | None
    """Surprise above which a line is an alert; `None` while too few lines are known."""

    alert: bool
    """Whether the line is an alert."""

    own_threshold: bool
    """Whether the threshold is the source's own; if not, it is that of all sources together."""

    drifting: bool
    """Whether the source's recent lines differ from its earlier ones."""

    cut: bool
    """Whether only the beginning of the line was read."""

    nats: float
    """Negative log-probability of the line and its line break, in nats."""

    tokens: int
    """Number of tokens that `nats` sums over."""

    lines: int
    """Number of lines of this source so far, including this one."""

    characters: tuple[float, ...]
    """If `characters` was set: nats of each character of the text; those of a masked number are all on its first
    character. If the model brings text into a Unicode form first, of each character in that form."""
