"""The sampling controls: one table of all that steers the choice of a token.

The decoders' inputs, the checks of a request, batches, the flags of the command and docs/sampling.md are made from it.
It imports the standard library alone: the command shows its flags where neither numpy nor a server is installed.

Axis letters: B rows, V vocabulary.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass


class Effect(enum.Enum):
    """What a control does to the logits, and so what a decoder has to do for it."""

    SCALES = "scales"
    """Every step does it, in the decoder's plain loop too."""
    PENALISES = "penalises"
    """It looks at what has occurred: a row that asks for it has counts, and takes the decoder's full loop."""
    FILTERS = "filters"
    """It leaves improbable tokens out: a row that asks for it takes the decoder's full loop."""


@dataclass(frozen=True, kw_only=True)
class DecoderInput:
    """An array that a decoder takes for the choice of tokens."""

    name: str
    type: type[int] | type[float]
    axes: str
    """"B", "BV", or "1" for one value that all rows share."""
    neutral: float
    """The value that changes nothing."""
    tried: tuple[float, ...]
    """Values that a check of a decoder draws from."""

    @property
    def dtype(self) -> str:
        """Of its array."""
        return "int64" if self.type is int else "float32"

    def shape(self, rows: int, vocabulary: int) -> tuple[int, ...]:
        """Of its array."""
        return tuple({"B": rows, "V": vocabulary, "1": 1}[axis] for axis in self.axes)


@dataclass(frozen=True, kw_only=True)
class Control(DecoderInput):
    """A number that a request sets, and one value of each row."""

    axes: str = "B"
    option: str
    """Its name in requests, on the wire and in the SDK; with dashes, the flag of the command."""
    effect: Effect
    lowest: float
    highest: float = math.inf
    greedy: float | None = None
    """A value below the range that is allowed too, and makes the decoder take the most probable token. Values between
    it and the range count as it: rounded to float32, they would arrive as it anyway."""
    up_to_vocabulary: bool = False
    """Whether it counts tokens, so that more than V of them are as many as V."""
    wanted: str
    """The range in words, after "give a number"."""
    words: str
    """What it does."""

    def allows(self, value: float) -> bool:
        """Whether a request may ask for this value."""
        return math.isfinite(value) and (self.lowest if self.greedy is None else self.greedy) <= value <= self.highest

    def of_row(self, value: float, vocabulary: int) -> float:
        """The value of a row's input, from the one that its request asks for."""
        if self.greedy is not None and value < self.lowest:
            return self.greedy
        return min(value, vocabulary) if self.up_to_vocabulary else value


LOWEST = 1e-30
"""Of a divisor or a probability; below it, float32 loses its digits."""

INPUTS: dict[str, DecoderInput] = {
    entry.name: entry
    for entry in (
        Control(
            name="temperature",
            option="temperature",
            type=float,
            effect=Effect.SCALES,
            neutral=1.0,
            lowest=LOWEST,
            highest=100.0,
            greedy=0.0,
            wanted="from 0 to 100 (0 is greedy, and so is all below 1e-30)",
            words="divides the logits: below 1 is more conservative, above 1 more varied; 0 always takes the most "
            "probable token",
            tried=(0, 0.5, 1, 1.5),
        ),
        Control(
            name="top_k",
            option="top_k",
            type=int,
            effect=Effect.FILTERS,
            neutral=0,
            lowest=0,
            up_to_vocabulary=True,
            wanted="0 (off) or more",
            words="only this many of the most probable tokens",
            tried=(0, 1, 3, 10),
        ),
        Control(
            name="top_p",
            option="top_p",
            type=float,
            effect=Effect.FILTERS,
            neutral=1.0,
            lowest=LOWEST,
            highest=1.0,
            wanted="above 0 (at least 1e-30), up to 1 (off)",
            words="only the most probable tokens that together reach this probability",
            tried=(0.5, 0.9, 1),
        ),
        Control(
            name="min_p",
            option="min_p",
            type=float,
            effect=Effect.FILTERS,
            neutral=0.0,
            lowest=0.0,
            highest=1.0,
            wanted="from 0 (off) to 1",
            words="only tokens at least this probable in relation to the most probable one",
            tried=(0, 0.05, 0.3),
        ),
        # From logit_bias, allowed_characters and forbidden_characters: added to the logits after the penalties; minus
        # infinity forbids a token.
        DecoderInput(name="bias", type=float, axes="BV", neutral=0.0, tried=(0, 0, 0, 1, -1)),
        Control(
            name="repetition",
            option="repetition_penalty",
            type=float,
            effect=Effect.PENALISES,
            neutral=1.0,
            lowest=0.01 * (1 - 1e-6),  # 0.01 arrives as float32, which is a little less
            highest=100.0,
            wanted="from 0.01 to 100 (1 is off)",
            words="divides a positive and multiplies a negative logit of tokens that have occurred in this call; above "
            "1 avoids repetition",
            tried=(1, 1, 1.3),
        ),
        Control(
            name="presence",
            option="presence_penalty",
            type=float,
            effect=Effect.PENALISES,
            neutral=0.0,
            lowest=-100.0,
            highest=100.0,
            wanted="from -100 to 100 (0 is off)",
            words="subtracted from the logits of tokens that have occurred in this call",
            tried=(0, 0, 0.5),
        ),
        Control(
            name="frequency",
            option="frequency_penalty",
            type=float,
            effect=Effect.PENALISES,
            neutral=0.0,
            lowest=-100.0,
            highest=100.0,
            wanted="from -100 to 100 (0 is off)",
            words="subtracted from the logits of tokens, times how often they have occurred in this call",
            tried=(0, 0, 0.5),
        ),
        # How often each token has occurred in the row's call, for the penalties; a decoder counts on from there.
        DecoderInput(name="counts", type=float, axes="BV", neutral=0.0, tried=(0, 0, 1, 4)),
        # How many of the most probable tokens to tell at each step: the most that any row asks for in top_logprobs.
        DecoderInput(name="top", type=int, axes="1", neutral=0, tried=(3,)),
    )
}
"""All of them by name, in the order in which the decoder contract has them; a new one goes to the end."""


FREE, ENDED = 0, 1
"""States of a row in the table of a decoder's constraints that belong to no automaton: the row has no constraint, or
its constraint has ended its text."""
CONSTRAINT_INPUTS = ("next_state", "distance", "automaton", "left")
"""What a decoder takes for the constraints of a call's rows: for each state of their automata the state after each
token (int32, [S, V]) and the tokens to the nearest end of a text (int32, [S]); for each row where it is and the steps
that it may take (int64, [B])."""


ADAPTATION_INPUTS = ("adaptive_rows", "adaptation")
"""What a decoder takes for rows that learn from their text, M of them: which they are (int64, [M]) and what they have
learnt (float32, [M, S]); see `charloom.controls.adaptation`."""


def controls(effect: Effect | None = None) -> list[Control]:
    """Those that a request sets, or of these the ones with one effect, in the order of the table."""
    return [entry for entry in INPUTS.values() if isinstance(entry, Control) and effect in (None, entry.effect)]
