"""Validation loss, by named protocols. All figures are nats per token.

Knows: a model and the validation tokens. Does not know: training, files.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from charloom.bundle import Tokens
from charloom.training.corpus import CorpusError
from charloom.training.model import CharLSTM

WINDOW = 256
"""Length of a window of the `windows-256` protocol."""
WINDOW_BATCHES, WINDOW_BATCH_SIZE, WINDOW_SEED = 200, 64, 1337
ESTIMATE_STREAMS, ESTIMATE_WARMUP = 32, 256


def _total_loss(logits: Tensor, targets: Tensor) -> float:
    return float(cross_entropy(logits.reshape(-1, logits.size(-1)).float(), targets.reshape(-1), reduction="sum"))


@torch.no_grad()
def tail_loss(model: CharLSTM, tokens: Tokens, chunk: int = 2048) -> float:
    """Protocol `tail`: read all tokens once, in order, one row, from the zero state, state carried throughout."""
    _needs(tokens, 2, "tail")
    model.eval()
    data = torch.from_numpy(tokens).to(model.head.bias.device)
    state, total = model.zero_state(1), 0.0
    for start in range(0, len(data) - 1, chunk):
        end = min(start + chunk, len(data) - 1)
        logits, state = model(data[None, start:end], state)
        total += _total_loss(logits, data[None, start + 1 : end + 1])
    return total / (len(data) - 1)


@torch.no_grad()
def windows_loss(model: CharLSTM, tokens: Tokens, batches: int = WINDOW_BATCHES) -> float:
    """Protocol `windows-256`: mean over `batches` random batches of 64 windows of 256 tokens, each from zero state.

    This is nanoGPT's evaluation (`estimate_loss` with `eval_iters=200`), with a seed of its own.
    """
    _needs(tokens, WINDOW + 1, "windows-256")
    model.eval()
    data = torch.from_numpy(tokens).to(model.head.bias.device)
    random = np.random.default_rng(WINDOW_SEED)
    total = 0.0
    for _ in range(batches):
        starts = torch.from_numpy(random.integers(len(tokens) - WINDOW, size=WINDOW_BATCH_SIZE))
        block = data[starts[:, None] + torch.arange(WINDOW + 1)]
        logits, _ = model(block[:, :-1], model.zero_state(WINDOW_BATCH_SIZE))
        total += _total_loss(logits, block[:, 1:]) / (WINDOW_BATCH_SIZE * WINDOW)
    return total / batches


def losses(model: CharLSTM, tokens: Tokens) -> dict[str, float]:
    """Both protocols, by name; `windows-256` is left out when there is too little text for one window."""
    found = {"tail": tail_loss(model, tokens)}
    if len(tokens) >= WINDOW + 1:
        found["windows-256"] = windows_loss(model, tokens)
    return found


@torch.no_grad()
def tail_estimate(model: CharLSTM, tokens: Tokens, chunk: int = 512) -> float:
    """An estimate of `tail` at a fraction of its time, for use while training.

    The tokens are cut into parallel streams, each read from a zero state that was warmed on the text before it.
    """
    streams = min(ESTIMATE_STREAMS, max(1, (len(tokens) - 1) // (2 * ESTIMATE_WARMUP)))
    if streams == 1:
        return tail_loss(model, tokens)
    model.eval()
    data = torch.from_numpy(tokens).to(model.head.bias.device)
    length = (len(data) - 1) // streams
    starts = torch.arange(streams) * length
    warm = (starts[:, None] + torch.arange(-ESTIMATE_WARMUP, 0)).clamp(min=0)
    _, state = model(data[warm], model.zero_state(streams))
    state.h[:, 0] = 0.0  # the first stream has nothing before it
    state.c[:, 0] = 0.0
    total = 0.0
    for start in range(0, length, chunk):
        steps = torch.arange(start, min(start + chunk, length) + 1)
        block = data[starts[:, None] + steps]
        logits, state = model(block[:, :-1], state)
        total += _total_loss(logits, block[:, 1:])
    return total / (length * streams)


def _needs(tokens: Tokens, count: int, protocol: str) -> None:
    if len(tokens) < count:
        raise CorpusError(
            f"the validation part has {len(tokens)} tokens; the {protocol} protocol needs at least {count}: "
            "give more text, or raise --validation-share"
        )
