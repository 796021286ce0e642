"""The character-level LSTM language model.

The carried state is passed in and returned, never hidden in the module: one tensor, its arrays those of the cell.

Axis letters: B rows, T time, A state arrays, L layers, H hidden, V vocabulary, E embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from charloom.network.cells import CELLS
from charloom.network.config import ModelConfig
from charloom.network.dropout import dropout


class CharLSTM(nn.Module):
    """Embedding, L stacked recurrent layers, and a linear output layer over the vocabulary.

    Dropout is applied to the embeddings, between layers and before the output layer, not to the recurrent connections
    (Zaremba et al., 2014, "Recurrent Neural Network Regularization"); `config.variational_dropout` has one mask for all
    steps of a sequence (Gal and Ghahramani, 2016). Weight drop and zoneout are
    in `charloom.network.cells.layer`.
    """

    def __init__(self, vocabulary_size: int, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.cell = config, CELLS[config.cell]
        self.vocabulary_size = vocabulary_size
        self.embedding = nn.Embedding(vocabulary_size, config.embedding_size)
        sizes = [config.embedding_size, *[config.hidden_size] * (config.layers - 1)]
        own = (config.hidden_size, config.weight_drop, config.zoneout)
        self.layers = nn.ModuleList([self.cell.layer(size, *own) for size in sizes])
        self.head = nn.Linear(config.hidden_size, vocabulary_size)
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(config.embedding_size))
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if config.tie_weights:
            self.head.weight = self.embedding.weight

    def zero_state(self, rows: int) -> Tensor:
        """The state before any text, [A, L, rows, H], float32."""
        shape = (len(self.cell.arrays), self.config.layers, rows, self.config.hidden_size)
        return torch.zeros(shape, device=self.head.bias.device)

    def forward(self, tokens: Tensor, state: Tensor, resets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run tokens [B, T] from `state` [A, L, B, H]; returns logits [B, T, V] and the state after the last token.

        `resets` [B, T], bool, is true where the state is zero before a token; None = nowhere.
        """
        x = self._dropout(self.embedding(tokens))
        after: list[Tensor] = []
        for layer, before in zip(self.layers, state.unbind(1), strict=True):
            outputs, own = layer(x, before.unbind(0), resets)
            after.append(torch.stack([part.to(state.dtype) for part in own]))
            x = self._dropout(outputs)
        return self.head(x), torch.stack(after, dim=1)

    def _dropout(self, x: Tensor) -> Tensor:
        if not self.config.variational_dropout:
            return dropout(x, self.config.dropout, self.training)
        return x * dropout(torch.ones_like(x[:, :1]), self.config.dropout, self.training)

    def parameter_count(self) -> int:
        """Number of trained values; shared weights count once."""
        return sum(parameter.numel() for parameter in self.parameters())
