"""How an adaptive session learns from its text: the constants of the rule, and the layout of its state.

The rule itself is stated in NumPy by `charloom.engine.decoding.adaptation`, and written as a graph by
`charloom.export.adaptation_graph`.

Axis letters: N contexts, D tokens of the longest one, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

ORDERS = (2, 3, 4, 6, 8, 12)
"""Tokens of each context: what is looked up are the last 2 tokens, the last 3, and so on."""
LONGEST = max(ORDERS)
"""D"""
BUCKETS = 1021
"""Places that each context's table has, a prime."""
COEFFICIENTS = tuple(
    tuple(pow(619, age + 1, BUCKETS) if age < order else 0 for age in range(LONGEST)) for order in ORDERS
)
"""[N, D]: a context's place is the sum of its tokens, the latest first, times these, modulo `BUCKETS`."""
TRUSTS = 2
"""How well a prediction is known: the token came after the context once, or the last two times."""
LEVELS = 6
"""How improbable the network finds a predicted token: 0 to 1 nats, 1 to 2, and so on, 5 or more."""
WEIGHT_RATE, BIAS_RATE = 0.06, 0.01
"""The learning rates of predictions' weights and of the bias."""
LARGEST_STATE = 2**14
"""Numbers of a state, 64 KiB."""


class Layout(NamedTuple):
    """What a state holds, one after the other: how many numbers of each."""

    seen: int
    """[N, BUCKETS] what came after a context last: 1 + TRUSTS * token + trust; 0 where nothing has come yet"""
    weights: int
    """[N, TRUSTS, LEVELS] what a prediction adds to the logit of its token"""
    bias: int
    """[V] what is added to each logit; nothing where the vocabulary is too large for that"""
    history: int
    """[D] the last tokens, the latest first, each plus 1; 0 before the text"""


def layout(vocabulary: int) -> Layout:
    """The parts of a state."""
    whole = Layout(len(ORDERS) * BUCKETS, len(ORDERS) * TRUSTS * LEVELS, vocabulary, LONGEST)
    return whole if sum(whole) <= LARGEST_STATE else whole._replace(bias=0)


def state_size(vocabulary: int) -> int:
    """S, numbers of a state; they are float32."""
    return sum(layout(vocabulary))
