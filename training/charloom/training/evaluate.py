"""Validation loss, by named protocols. All figures are nats per token.

Where there are documents, the state is zero at the start of each one, whatever the protocol.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from charloom.bundle import Tokens
from charloom.network.model import CharLSTM
from charloom.training.data.stream import Ints, Stream
from charloom.training.data.texts import CorpusError
from charloom.training.precision import full_precision

WINDOW = 256
"""Length of a window of the `windows-256` protocol."""
WINDOW_BATCHES, WINDOW_BATCH_SIZE, WINDOW_SEED = 200, 64, 1337
READINGS = 32
"""How often `windows-256` reads each token of a short text on average: as 200 batches do with 100,000 tokens."""
ESTIMATE_STREAMS, ESTIMATE_WARMUP = 32, 256


def _total_loss(logits: Tensor, targets: Tensor) -> float:
    return float(cross_entropy(logits.reshape(-1, logits.size(-1)).float(), targets.reshape(-1), reduction="sum"))


def _read(model: CharLSTM, stream: Stream, places: Ints, state: Tensor) -> tuple[float, Tensor]:
    """The summed loss of predicting the tokens at these places, [B, T + 1], but for the first of each row.

    The last of each row is not read: the state that is returned is the one before it.
    """
    full_precision()
    device = model.head.bias.device
    block = torch.from_numpy(stream[places]).to(device)
    resets = stream.resets(places[:, :-1])
    logits, state = model(block[:, :-1], state, None if resets is None else torch.from_numpy(resets).to(device))
    return _total_loss(logits, block[:, 1:]), state


@torch.no_grad()
def tail_loss(model: CharLSTM, tokens: Stream | Tokens, chunk: int = 2048) -> float:
    """Protocol `tail`: read all tokens once, in order, one row, from the zero state, state carried throughout."""
    _needs(tokens, 2, "tail")
    model.eval()
    stream, last = Stream.of(tokens), len(tokens) - 1
    state, total = model.zero_state(1), 0.0
    for start in range(0, last, chunk):
        loss, state = _read(model, stream, np.arange(start, min(start + chunk, last) + 1)[None], state)
        total += loss
    return total / last


@torch.no_grad()
def windows_loss(model: CharLSTM, tokens: Stream | Tokens, batches: int | None = None) -> float:
    """Protocol `windows-256`: mean over `batches` random batches of 64 windows of 256 tokens, each from zero state.

    This is nanoGPT's evaluation (`estimate_loss` with `eval_iters=200`), with a seed of its own. `batches` that is not
    given is `window_batches`.
    """
    _needs(tokens, WINDOW + 1, "windows-256")
    model.eval()
    stream, random = Stream.of(tokens), np.random.default_rng(WINDOW_SEED)
    batches = batches or window_batches(len(tokens))
    total = 0.0
    for _ in range(batches):
        starts = random.integers(len(tokens) - WINDOW, size=WINDOW_BATCH_SIZE)
        places = starts[:, None] + np.arange(WINDOW + 1)
        loss, _ = _read(model, stream, places, model.zero_state(WINDOW_BATCH_SIZE))
        total += loss / (WINDOW_BATCH_SIZE * WINDOW)
    return total / batches


def window_batches(tokens: int) -> int:
    """How many batches `windows-256` reads of so many tokens: 200, or fewer where these would only repeat others."""
    return min(WINDOW_BATCHES, math.ceil(READINGS * tokens / (WINDOW_BATCH_SIZE * WINDOW)))


def losses(model: CharLSTM, tokens: Stream | Tokens) -> dict[str, float]:
    """Both protocols, by name; `windows-256` is left out when there is too little text for one window."""
    found = {"tail": tail_loss(model, tokens)}
    if len(tokens) >= WINDOW + 1:
        found["windows-256"] = windows_loss(model, tokens)
    return found


@torch.no_grad()
def tail_estimate(model: CharLSTM, tokens: Stream | Tokens, chunk: int = 512) -> float:
    """An estimate of `tail` at a fraction of its time, for use while training.

    The tokens are cut into parallel streams, each read from a zero state that was warmed on the text before it.
    """
    streams = min(ESTIMATE_STREAMS, max(1, (len(tokens) - 1) // (2 * ESTIMATE_WARMUP)))
    if streams == 1:
        return tail_loss(model, tokens)
    model.eval()
    stream = Stream.of(tokens)
    length = (len(tokens) - 1) // streams
    starts = np.arange(streams)[:, None] * length
    _, state = _read(model, stream, np.maximum(starts + np.arange(-ESTIMATE_WARMUP, 1), 0), model.zero_state(streams))
    state[:, :, 0] = 0.0  # the first stream has nothing before it
    total = 0.0
    for start in range(0, length, chunk):
        loss, state = _read(model, stream, starts + np.arange(start, min(start + chunk, length) + 1), state)
        total += loss
    return total / (length * streams)


def _needs(tokens: Stream | Tokens, count: int, protocol: str) -> None:
    if len(tokens) < count:
        raise CorpusError(
            f"there are {len(tokens)} tokens to measure on; the {protocol} protocol needs at least {count}: "
            "give more text"
        )
