"""The character-level LSTM language model.

Knows: the network and its initialisation. Does not know: data, optimisation, text, export.

Axis letters: B rows, T time, L layers, H hidden, V vocabulary, E embedding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from charloom.training.config import ModelConfig


class State(NamedTuple):
    """The carried state, passed in and returned, never hidden in the module."""

    h: Tensor
    """[L, B, H], float32"""
    c: Tensor
    """[L, B, H], float32"""

    def detach(self) -> State:
        """The same values, cut off from the graph: where backpropagation through time is truncated."""
        return State(self.h.detach(), self.c.detach())


class CharLSTM(nn.Module):
    """Embedding, L stacked LSTM layers, and a linear output layer over the vocabulary.

    Dropout is applied to the embeddings, between layers and before the output layer; the recurrent connections stay
    untouched (Zaremba et al., 2014, "Recurrent Neural Network Regularization").
    """

    def __init__(self, vocabulary_size: int, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vocabulary_size = vocabulary_size
        self.embedding = nn.Embedding(vocabulary_size, config.embedding_size)
        self.lstm = nn.LSTM(
            config.embedding_size,
            config.hidden_size,
            config.layers,
            batch_first=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden_size, vocabulary_size)
        self._initialise()
        if config.tie_weights:
            self.head.weight = self.embedding.weight

    def _initialise(self) -> None:
        """Orthogonal recurrent and Xavier input weights, gate by gate; forget bias 1, other biases 0."""
        hidden = self.config.hidden_size
        scale = 1 / math.sqrt(self.config.embedding_size)
        nn.init.normal_(self.embedding.weight, std=scale)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("weight_hh"):
                for gate in parameter.data.chunk(4):
                    nn.init.orthogonal_(gate)
            elif name.startswith("weight_ih"):
                for gate in parameter.data.chunk(4):
                    nn.init.xavier_uniform_(gate)
            else:
                nn.init.zeros_(parameter)
                if name.startswith("bias_ih"):  # the gates are stacked in the order i, f, g, o
                    parameter.data[hidden : 2 * hidden] = 1.0

    def zero_state(self, rows: int) -> State:
        """The state before any text, [L, rows, H]."""
        shape = (self.config.layers, rows, self.config.hidden_size)
        device = self.head.bias.device
        return State(torch.zeros(shape, device=device), torch.zeros(shape, device=device))

    def forward(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Run tokens [B, T] from `state`; returns logits [B, T, V] and the state after the last token."""
        embedded = self.dropout(self.embedding(tokens))
        outputs, (h, c) = self.lstm(embedded, tuple(state))
        logits = self.head(self.dropout(outputs))
        return logits, State(h.float(), c.float())

    def parameter_count(self) -> int:
        """Number of trained values; shared weights count once."""
        return sum(parameter.numel() for parameter in self.parameters())
