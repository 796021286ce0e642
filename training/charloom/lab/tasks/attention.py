"""Sequences into sequences: a bidirectional encoder, and a decoder that looks back at all of its states.

The attention is that of Bahdanau, Cho and Bengio (2015, "Neural Machine Translation by Jointly Learning to Align and
Translate"). With h_j the encoder's states, s_i the decoder's, y_i the symbols that it writes:

    e_ij = v . tanh(W s_(i-1) + U h_j)      a_i = softmax over j of e_i, padding left out      c_i = sum over j a_ij h_j
    s_i  = LSTM([y_(i-1); c_i], s_(i-1))    logits_i = V [s_i; c_i] + b
    s_0  = tanh(W_0 h), h the last states of both directions; its cell state is zero

Axis letters: B rows, S source steps, T target steps, H hidden, E embedding, V symbols.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from charloom.lab.tasks.symbols import END, PADDING, START, UNKNOWN, Padded, initialise

NEVER_WRITTEN = [PADDING, UNKNOWN, START]
"""Marks that no target has."""


class Encoded(NamedTuple):
    """What the encoder made of some sources."""

    states: Tensor
    """[B, S, 2H], both directions"""
    keys: Tensor
    """[B, S, H], U h_j"""
    mask: Tensor
    """[B, S], true where there is a symbol"""


class State(NamedTuple):
    """The decoder's state."""

    h: Tensor
    """[B, H]"""
    c: Tensor
    """[B, H]"""


class Written(NamedTuple):
    """What greedy decoding wrote."""

    tokens: Tensor
    """[B, T], `PADDING` behind the `END` of each row"""
    weights: Tensor
    """[B, T, S], what each step attended to"""


class AttentionModel(nn.Module):
    """Encoder, attention and decoder.

    Args:
        source_size, target_size: symbols V of either side, marks included
        embedding, hidden: E and H, the same on both sides
    """

    def __init__(self, source_size: int, target_size: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.source_embedding = nn.Embedding(source_size, embedding, padding_idx=PADDING)
        self.target_embedding = nn.Embedding(target_size, embedding, padding_idx=PADDING)
        self.encoder = nn.LSTM(embedding, hidden, batch_first=True, bidirectional=True)
        self.first_state = nn.Linear(2 * hidden, hidden)
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.key = nn.Linear(2 * hidden, hidden)
        self.energy = nn.Linear(hidden, 1, bias=False)
        self.decoder = nn.LSTMCell(embedding + 2 * hidden, hidden)
        self.head = nn.Linear(3 * hidden, target_size)
        initialise(self.encoder)
        initialise(self.decoder)

    def encode(self, source: Padded) -> tuple[Encoded, State]:
        """Read the sources [B, S]; also the state that the decoder starts from."""
        packed = pack_padded_sequence(
            self.source_embedding(source.tokens), source.lengths, batch_first=True, enforce_sorted=False
        )
        outputs, (last, _) = self.encoder(packed)
        states, _ = pad_packed_sequence(outputs, batch_first=True, total_length=source.tokens.size(1))
        h = torch.tanh(self.first_state(torch.cat([last[0], last[1]], dim=1)))
        mask = torch.arange(source.tokens.size(1)) < source.lengths[:, None]
        return Encoded(states, self.key(states), mask), State(h, torch.zeros_like(h))

    def attend(self, state: State, encoded: Encoded) -> Tensor:
        """Weights [B, S]: each row sums to 1, and is 0 on padding."""
        energies = self.energy(torch.tanh(self.query(state.h)[:, None] + encoded.keys)).squeeze(2)
        weights: Tensor = energies.masked_fill(~encoded.mask, -torch.inf).softmax(dim=1)
        return weights

    def step(self, tokens: Tensor, state: State, encoded: Encoded) -> tuple[Tensor, State, Tensor]:
        """Read the tokens [B] written last; returns logits [B, V], the next state and the weights [B, S]."""
        weights = self.attend(state, encoded)
        context = torch.bmm(weights[:, None], encoded.states).squeeze(1)
        state = State(*self.decoder(torch.cat([self.target_embedding(tokens), context], dim=1), tuple(state)))
        return self.head(torch.cat([state.h, context], dim=1)), state, weights

    def forward(self, source: Padded, target: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher forcing: each step is told the target's token before; logits [B, T, V] and weights [B, T, S].

        Args:
            source: what to read
            target: [B, T], as it should be written, `END` included
        """
        encoded, state = self.encode(source)
        tokens = torch.full_like(target[:, 0], START)
        logits, weights = [], []
        for step in range(target.size(1)):
            found, state, attention = self.step(tokens, state, encoded)
            logits.append(found)
            weights.append(attention)
            tokens = target[:, step]
        return torch.stack(logits, dim=1), torch.stack(weights, dim=1)

    @torch.no_grad()
    def write(self, source: Padded, longest: int) -> Written:
        """Greedy decoding: the most probable symbol at each step, until `END` or for `longest` steps.

        Of the marks it writes none but `END`, however probable another is.
        """
        encoded, state = self.encode(source)
        tokens = torch.full_like(source.lengths, START)
        ended = torch.zeros_like(tokens, dtype=torch.bool)
        written: list[Tensor] = []
        weights: list[Tensor] = []
        while len(written) < longest and not bool(ended.all()):
            logits, state, attention = self.step(tokens, state, encoded)
            logits[:, NEVER_WRITTEN] = -torch.inf
            tokens = logits.argmax(dim=1).masked_fill(ended, PADDING)
            ended = ended | (tokens == END)
            written.append(tokens)
            weights.append(attention)
        return Written(torch.stack(written, dim=1), torch.stack(weights, dim=1))
