"""A language model over one sequence at a time: one-hot inputs, an LSTM layer, a softmax over the symbols.

Knows: tokens, cross-entropy, and the symbols that stand for characters or words. Does not know: optimisers, batches,
torch.

Axis letters: T targets, V vocabulary, H hidden. All losses are in nats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from charloom.lab.reference.numpy_lstm import LSTM, Array, Parameters, Trace

Tokens = npt.NDArray[np.int64]
"""Token ids, shape [T]."""
Unit = Literal["character", "word"]


def split(text: str, unit: Unit) -> list[str]:
    """The text's characters; or its words, punctuation marks and stretches of white space. Joined, they are `text`."""
    return list(text) if unit == "character" else re.findall(r"\w+|\s+|[^\w\s]", text)


class Symbols:
    """The different symbols of a text, sorted; a token is the index of one."""

    def __init__(self, text: str, unit: Unit = "character") -> None:
        self.unit: Unit = unit
        self.symbols = sorted(set(split(text, unit)))
        self._tokens = {symbol: token for token, symbol in enumerate(self.symbols)}

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> Tokens:
        """The tokens of `text`. Raises KeyError at a symbol that the first text did not have."""
        return np.array([self._tokens[symbol] for symbol in split(text, self.unit)], np.int64)

    def decode(self, tokens: Sequence[int] | Tokens) -> str:
        """The text of these tokens."""
        return "".join(self.symbols[token] for token in tokens)


def sequences(tokens: Tokens, length: int) -> list[Tokens]:
    """Cut a text into sequences with `length` targets each, fewer in the last: each begins with the last one's end."""
    return [tokens[start : start + length + 1] for start in range(0, len(tokens) - 1, length)]


def log_softmax(logits: Array) -> Array:
    """Log-probabilities along the last axis, finite for any finite logits: no probability is ever rounded to zero."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


class LanguageModel:
    """Predicts each next token of a sequence from the tokens before it.

    Args:
        layer: the LSTM, with V inputs
        w_v, b_v: the output layer [V, H] and [V]
    """

    def __init__(self, layer: LSTM, w_v: Array, b_v: Array) -> None:
        self.layer = layer
        self.w_v, self.b_v = w_v, b_v

    @classmethod
    def initialised(
        cls, vocabulary_size: int, hidden_size: int, random: np.random.Generator, *, forget_bias: float = 1.0
    ) -> LanguageModel:
        """Orthogonal layer, Xavier normal output weights, output biases 0."""
        layer = LSTM.initialised(vocabulary_size, hidden_size, random, forget_bias=forget_bias)
        scale = np.sqrt(2 / (vocabulary_size + hidden_size))
        return cls(layer, random.normal(0, scale, (vocabulary_size, hidden_size)), np.zeros(vocabulary_size))

    @property
    def parameters(self) -> Parameters:
        """All trained arrays by name: the arrays themselves, to be changed in place."""
        return self.layer.parameters | {"w_v": self.w_v, "b_v": self.b_v}

    def forward(self, tokens: Tokens, h0: Array | None = None, c0: Array | None = None) -> tuple[Array, Trace]:
        """Logits [T, V] after each of `tokens` [T], and the layer's trace."""
        trace = self.layer.forward(np.eye(len(self.b_v))[tokens], h0, c0)
        return trace.h[1:] @ self.w_v.T + self.b_v, trace

    def loss(self, sequence: Tokens) -> float:
        """Cross-entropy of a sequence [T + 1], summed over its T targets."""
        logits, _ = self.forward(sequence[:-1])
        return self.cross_entropy(logits, sequence[1:])

    def loss_and_gradients(self, sequence: Tokens) -> tuple[float, Parameters]:
        """The same loss, and its gradient in every parameter."""
        logits, trace = self.forward(sequence[:-1])
        targets = sequence[1:]
        dv = np.exp(log_softmax(logits))
        dv[np.arange(len(targets)), targets] -= 1
        w_v = np.zeros_like(self.w_v)
        for t in range(len(targets)):
            w_v += np.outer(dv[t], self.h_after(trace, t))
        through = self.layer.backward(trace, dv @ self.w_v)
        gradients = through.parameters | {"w_v": w_v, "b_v": dv.sum(axis=0)}
        return self.cross_entropy(logits, targets), gradients

    def cross_entropy(self, logits: Array, targets: Tokens) -> float:
        """Summed over the targets [T], from logits [T, V]."""
        return -float(log_softmax(logits)[np.arange(len(targets)), targets].sum())

    def h_after(self, trace: Trace, t: int) -> Array:
        """The h [H] that step t made, which is what the output layer saw."""
        h: Array = trace.h[t + 1]
        return h

    def generate(self, prompt: Tokens, count: int, random: np.random.Generator, temperature: float = 1.0) -> list[int]:
        """Go on after `prompt`, each token drawn from the softmax and read as the next input."""
        made: list[int] = []
        logits, trace = self.forward(prompt)
        for _ in range(count):
            probabilities = np.exp(log_softmax(logits[-1] / temperature))
            made.append(int(random.choice(len(probabilities), p=probabilities)))
            logits, trace = self.forward(np.array(made[-1:]), trace.h[-1], trace.c[-1])
        return made
