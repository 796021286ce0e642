"""Texts as rows of symbols, with the marks that rows of different lengths need.

Axis letters: B rows, T time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from charloom.bundle import Tokens, Unit, Vocabulary

PADDING, UNKNOWN, START, END = range(4)
MARKS = 4
"""How many marks stand before the symbols of the vocabulary."""


class Padded(NamedTuple):
    """Rows of different lengths."""

    tokens: Tensor
    """[B, T], int64, `PADDING` behind the end of each row"""
    lengths: Tensor
    """[B], int64, at least 1 each"""


class Symbols:
    """The symbols that a model knows: the marks, then those of a vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.size = MARKS + vocabulary.size

    @property
    def lacks_some(self) -> bool:
        """Whether a text may have what is `UNKNOWN`; bytes are all there are."""
        return self.vocabulary.unit is not Unit.BYTE

    def encode(self, text: str) -> Tokens:
        """The tokens of a text, [T]; a character or word that the vocabulary lacks is `UNKNOWN`."""
        tokens = self.vocabulary.encode_marked(text, UNKNOWN - MARKS).tokens
        return tokens + MARKS

    def decode(self, tokens: Sequence[int]) -> str:
        """The text up to the first `END`; the other marks have none."""
        tokens = list(tokens)
        if END in tokens:
            tokens = tokens[: tokens.index(END)]
        return self.vocabulary.decode([token - MARKS for token in tokens if token >= MARKS])


def padded(rows: Sequence[Tokens]) -> Padded:
    """Rows side by side, padded to the longest."""
    tensors = [torch.from_numpy(np.asarray(row, dtype=np.int64)) for row in rows]
    lengths = torch.tensor([len(row) for row in rows])
    return Padded(nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=PADDING), lengths)


def initialise(lstm: nn.LSTM | nn.LSTMCell) -> None:
    """Orthogonal recurrent and Xavier input weights, gate by gate; forget bias 1, other biases 0."""
    for name, parameter in lstm.named_parameters():
        if name.startswith("weight_hh"):
            for gate in parameter.data.chunk(4):
                nn.init.orthogonal_(gate)
        elif name.startswith("weight_ih"):
            for gate in parameter.data.chunk(4):
                nn.init.xavier_uniform_(gate)
        else:
            nn.init.zeros_(parameter)
            if name.startswith("bias_ih"):  # the gates are stacked in the order i, f, g, o
                parameter.data[lstm.hidden_size : 2 * lstm.hidden_size] = 1.0
