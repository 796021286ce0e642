"""A `CharLSTM` with known units: one counts characters since the line break, the others are still."""

from __future__ import annotations

import torch

from charloom.bundle import CharacterVocabulary
from charloom.lab.studies.reading import Reading
from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM

COUNTER = 3
OPEN = 20.0


def counting(text: str) -> Reading:
    """In the last of two layers, unit `COUNTER` counts; its forget gate closes at a line break and is else open."""
    vocabulary = CharacterVocabulary.of_text(text)
    size = vocabulary.size
    model = CharLSTM(size, ModelConfig(layers=2, hidden_size=6, embedding_size=size, dropout=0.0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embedding.weight.copy_(torch.eye(size))
        below, last = model.layers
        newline = vocabulary.symbols.index("\n")
        # The layer below shows a line break as h[0] = 0.76 of 1, without memory: i and o open, f closed.
        below.bias.copy_(torch.tensor([OPEN, -OPEN, 0.0, OPEN]).repeat_interleave(6))
        below.weight_ih[2 * 6, newline] = OPEN
        # The counter adds 0.01 tanh(OPEN) with each step: i is 0.01, g is 1.
        gates = last.bias.view(4, 6)
        gates[1] = -OPEN
        gates[:, COUNTER] = torch.tensor([-4.595, OPEN / 2, OPEN, OPEN])
        last.weight_ih[6 + COUNTER, 0] = -3 * OPEN
    return Reading(model.eval(), vocabulary.encode(text), text)
