"""How the figures and texts of a run are written, wherever they are shown."""

from __future__ import annotations

import math


def kind_title(kind: str) -> str:
    """The title of one kind of activations."""
    return "|h|" if kind == "hidden" else kind


def bits(nats: float) -> float:
    """A loss in bits."""
    return nats / math.log(2)


def perplexity(nats: float) -> float:
    """A loss as perplexity, capped at e^50, so that it is always a number."""
    return math.exp(min(nats, 50))


def loss_figures(nats: float) -> str:
    """A loss in the three units that people compare."""
    return f"{nats:.4f} nats  {bits(nats):.4f} bits  perplexity {perplexity(nats):.3f}"


def clock(seconds: float) -> str:
    """A time as hours, minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def printable(text: str) -> list[str]:
    """The lines of a text that a model made; what could steer a terminal is shown as a dot."""
    return ["".join(c if c.isprintable() else "·" for c in line) for line in text.split("\n")]
