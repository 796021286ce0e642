"""A text into one of C labels: embedding, LSTM, its final states, a linear layer.

    h = the last layer's h after the last symbol; and, read backwards, after the first one
    logits = W dropout(h) + b        probabilities = softmax(logits)

Rows are packed, so that the last symbol is the text's own and no state ever sees padding.

Axis letters: B rows, T time, L layers, H hidden, E embedding, C labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from charloom.lab.tasks.config import ClassifierConfig
from charloom.lab.tasks.symbols import PADDING, UNKNOWN, Padded, initialise


class Classifier(nn.Module):
    """The network.

    Args:
        symbols: how many there are, marks included
        labels: C
        config: its shape
    """

    def __init__(self, symbols: int, labels: int, config: ClassifierConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, config.embedding_size, padding_idx=PADDING)
        self.lstm = nn.LSTM(
            config.embedding_size,
            config.hidden_size,
            config.layers,
            batch_first=True,
            bidirectional=config.bidirectional,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden_size * (2 if config.bidirectional else 1), labels)
        initialise(self.lstm)
        with torch.no_grad():
            self.embedding.weight[UNKNOWN] = 0  # says nothing, until training says otherwise

    def forward(self, texts: Padded) -> Tensor:
        """Logits [B, C] of texts [B, T]."""
        packed = pack_padded_sequence(
            self.embedding(texts.tokens), texts.lengths, batch_first=True, enforce_sorted=False
        )
        _, (h, _) = self.lstm(packed)
        final = torch.cat([h[-2], h[-1]], dim=1) if self.lstm.bidirectional else h[-1]
        logits: Tensor = self.head(self.dropout(final))
        return logits

    def parameter_count(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for parameter in self.parameters())
