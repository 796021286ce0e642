"""What an exported decoder loses on validation text."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some builds report usage unless told not to

import onnxruntime

from charloom.bundle import Manifest, Tokens
from charloom.controls import ADAPTATION_INPUTS, CONSTRAINT_INPUTS, FREE, INPUTS
from charloom.controls.adaptation import state_size
from charloom.training.data.stream import Stream

ROWS = 64
"""Texts that are read at a time."""


def decoder_tail_loss(path: Path, manifest: Manifest, tokens: Stream | Tokens, chunk: int = 2048) -> float:
    """Protocol `tail` (nats per token) through an ONNX decoder: every token forced, state carried, one row.

    The state is zero at the start of each document.
    """
    session, zero = _opened(path), _zero_state(manifest, 1)
    state = zero
    neutral = _neutral(1, manifest.network_tokens) | {"logprobs": np.array(True)}
    total = 0.0
    stream = Stream.of(tokens)
    for start, end, fresh in _stretches(stream, chunk):
        if fresh:
            state = zero
        forced = stream[start + 1 : end + 1][:, None]
        inputs = {
            "token": stream[start : start + 1],
            "state": state,
            "forced": forced,
            "steps": np.array([len(forced)]),
            "uniform": np.zeros(forced.shape, np.float32),
            **neutral,
        }
        logprob, state = session.run(["logprob", "state_out"], inputs)
        total -= float(logprob.sum(dtype=np.float64))
    return total / (len(tokens) - 1)


def final_hidden(path: Path, manifest: Manifest, texts: Sequence[Tokens]) -> npt.NDArray[np.float32]:
    """What the last layer holds (h) after each text, [N, H], through an ONNX decoder, from the zero state.

    Args:
        path: of the decoder
        manifest: what it reads
        texts: N texts of at least one token
    """
    session = _opened(path)
    found = np.empty((len(texts), manifest.cell.hidden_size), np.float32)
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    for start in range(0, len(order), ROWS):
        numbers = order[start : start + ROWS]
        steps = np.array([len(texts[number]) for number in numbers])
        # A row's last step reads its last token; what is fed in that step is read by none.
        fed = np.zeros((steps.max() + 1, len(numbers)), np.int64)
        for row, number in enumerate(numbers):
            fed[: steps[row], row] = texts[number]
        inputs = {
            "token": fed[0],
            "state": _zero_state(manifest, len(numbers)),
            "forced": fed[1:],
            "steps": steps,
            "uniform": np.zeros(fed[1:].shape, np.float32),
            **_neutral(len(numbers), manifest.network_tokens),
            "logprobs": np.array(False),
        }
        (state,) = session.run(["state_out"], inputs)
        found[numbers] = state[0, -1]
    return found


def _opened(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _zero_state(manifest: Manifest, rows: int) -> npt.NDArray[np.float32]:
    cell = manifest.cell
    return np.zeros((len(cell.arrays), cell.layers, rows, cell.hidden_size), np.float32)


def _neutral(rows: int, vocabulary: int) -> dict[str, Any]:
    """The inputs of who asks for nothing."""
    sampling = {
        name: np.full(entry.shape(rows, vocabulary), entry.neutral, entry.dtype) for name, entry in INPUTS.items()
    }
    table = [np.full((1, vocabulary), FREE, np.int32), np.full(1, -1, np.int32)]
    free = [*table, np.full(rows, FREE), np.ones(rows, np.int64)]
    nobody = [np.zeros(0, np.int64), np.zeros((0, state_size(vocabulary)), np.float32)]
    return {
        **sampling,
        **dict(zip(CONSTRAINT_INPUTS, free, strict=True)),
        **dict(zip(ADAPTATION_INPUTS, nobody, strict=True)),
    }


def _stretches(stream: Stream, longest: int) -> Iterator[tuple[int, int, bool]]:
    """Where each call starts and ends in the tokens that are read, and whether it starts from the zero state."""
    last = len(stream) - 1
    begins = [0] if stream.starts is None else stream.starts.tolist()
    for begin, after in itertools.pairwise([*(place for place in begins if place < last), last]):
        for start in range(begin, after, longest):
            yield start, min(start + longest, after), start == begin
