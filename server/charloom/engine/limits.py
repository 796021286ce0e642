"""What the engine accepts, in one place: `Limits` can be set for each engine, the others are fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

MOST_STOPS, LONGEST_STOP = 16, 256
"""Stop strings of one call, and characters of each."""
MOST_CHOICES, LONGEST_CONSTRAINT = 1024, 65_536
"""Texts that a call may choose from; characters of all of them, of a regular expression and of a JSON schema."""
MOST_BIASES, MOST_CHARACTERS = 1024, 65_536
"""Entries of `logit_bias`; characters of all of them, of `allowed_characters` and of `forbidden_characters`."""
MOST_CONTINUATIONS = 64
"""Continuations that one call may ask for."""
MOST_ALTERNATIVES = 20
"""Alternatives that a call may ask to be told of each token."""
MOST_TOGETHER = 256
"""Texts that may be read at a time: that one call may have ranked, or one message of many have scored or labelled."""
MOST_SUGGESTIONS, WIDEST_BEAM = 20, 64
"""Texts that one call may have suggested, and texts that may be open while they are looked for."""
DEFAULT_SUGGESTIONS, DEFAULT_BEAM, DEFAULT_SUGGESTED = 5, 16, 32
"""How many are suggested, how many are open, and tokens of each, where a call does not say."""
MOST_PEEKED = 256
"""Tokens that one call may look ahead."""
MOST_FORKS = 1000
"""Copies of a session that one call may make."""
DEFAULT_PAGE, LARGEST_PAGE = 100, 1000
"""Sessions of a page of their list, where a call does not say, and at most."""
MOST_BLENDED = 16
"""Sessions whose states may be blended to one."""
MOST_LINES, LONGEST_LINE = 1024, 4096
"""Lines that a watch reads at a time, and characters of each that it reads; of a longer one the beginning."""
MOST_INSPECTED = 4096
"""Tokens of an inspected text: two layers of 512 make a hundred megabytes of them."""
MOST_INSPECTIONS = 8
"""Inspections at a time; further ones are told to come back."""


@dataclass(frozen=True)
class Limits:
    """What one engine accepts. These defaults are the only ones: settings and constructors take theirs from here."""

    max_tokens: int = 65_536
    """Most tokens that one call may generate."""
    default_max_tokens: int = 256
    """What a call generates that does not say."""
    max_prompt_characters: int = 65_536
    """Longest prompt."""
    default_time_to_live: timedelta = timedelta(minutes=30)
    """How long a session is kept without use."""
    max_time_to_live: timedelta = timedelta(days=7)
    """The longest that a session may ask for."""
    max_sessions: int = 100_000
    """Most sessions that are kept."""
    workers: int = 1
    """Decoder calls at a time: one per core on a CPU, of all models together; elsewhere of each model."""
    model_weights: Mapping[str, float] = field(default_factory=dict)
    """Parts of the cores that models get while several have work, by name; 1 for those that are not named."""
    max_rows: int = 256
    """Most rows in one decoder call."""
    max_waiting: int = 1024
    """Most calls that wait for a row, per model; and most that are paused because nobody reads them."""
    unread_tokens: int = 8192
    """Tokens that a reader may leave unread before its generation is paused."""
    tick_seconds: float = 0.02
    """How long a decoder call should take when there is work for longer."""
    rewind_tokens: int = 1024
    """How many positions a session can at least be put back by."""
