"""The engine's limits: those in `Limits` can be set for each engine, the others are fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

MOST_STOPS, LONGEST_STOP = 16, 256
"""Stop strings of one call, and characters of each."""
MOST_CHOICES, LONGEST_CONSTRAINT = 1024, 65_536
"""Choices of a constraint; characters of all of them together, of a regular expression, and of a JSON schema."""
MOST_BIASES, MOST_CHARACTERS = 1024, 65_536
"""Entries of `logit_bias`; characters of all of them, of `allowed_characters` and of `forbidden_characters`."""
MOST_CONTINUATIONS = 64
"""Continuations that one call may ask for."""
MOST_ALTERNATIVES = 20
"""Alternatives of each token that a call may ask for."""
MOST_TOGETHER = 256
"""Texts that are read at a time: in one call that ranks, or in one message of a call that scores or labels many."""
MOST_SUGGESTIONS, WIDEST_BEAM = 20, 64
"""Texts that one call may suggest, and open texts of its beam search."""
DEFAULT_SUGGESTIONS, DEFAULT_BEAM, DEFAULT_SUGGESTED = 5, 16, 32
"""Defaults for suggestions: number of texts, open texts of the beam search, and tokens of each text."""
MOST_PEEKED = 256
"""Tokens that one call may look ahead."""
MOST_FORKS = 1000
"""Copies of a session that one call may make."""
DEFAULT_PAGE, LARGEST_PAGE = 100, 1000
"""Sessions in one page of a list: the default, and the most."""
MOST_BLENDED = 16
"""Sessions whose states may be blended into one."""
MOST_LINES, LONGEST_LINE = 1024, 4096
"""Lines that a watch reads at a time, and characters that it reads of each."""
MOST_INSPECTED = 4096
"""Tokens of an inspected text: with two layers of 512, the answer takes a hundred megabytes."""
MOST_INSPECTIONS = 8
"""Inspections at a time; further ones are refused, to be tried again later."""


@dataclass(frozen=True)
class Limits:
    """The limits of one engine. Settings and constructors take their defaults from here."""

    max_tokens: int = 65_536
    """Most tokens that one call may generate."""
    default_max_tokens: int = 256
    """Tokens that a call generates that names no `max_tokens`."""
    max_prompt_characters: int = 65_536
    """Longest prompt."""
    default_time_to_live: timedelta = timedelta(minutes=30)
    """How long a session is kept without use."""
    max_time_to_live: timedelta = timedelta(days=7)
    """Longest time to live that a session may ask for."""
    max_sessions: int = 100_000
    """Most sessions that are kept."""
    workers: int = 1
    """Decoder calls at a time: one per core on a CPU, of all models together; elsewhere of each model."""
    model_weights: Mapping[str, float] = field(default_factory=dict)
    """By model name, the weight with which models share the cores while several have work; default 1."""
    max_rows: int = 256
    """Most rows in one decoder call."""
    max_waiting: int = 1024
    """Most jobs of a model that wait for a row; and most that are paused because nobody reads them."""
    unread_tokens: int = 8192
    """Tokens that a reader may leave unread before its generation is paused."""
    tick_seconds: float = 0.02
    """Target duration of a decoder call."""
    rewind_tokens: int = 1024
    """Number of last positions to which every session can be put back, at least."""
