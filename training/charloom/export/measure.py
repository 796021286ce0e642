"""What an exported decoder loses on validation text."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some builds report usage unless told not to

import onnxruntime

from charloom.bundle import Manifest, Tokens
from charloom.controls import CONSTRAINT_INPUTS, FREE, INPUTS
from charloom.training.data.corpus import Stream


def decoder_tail_loss(path: Path, manifest: Manifest, tokens: Stream | Tokens, chunk: int = 2048) -> float:
    """Protocol `tail` (nats per token) through an ONNX decoder: every token forced, state carried, one row.

    The state is zero at the start of each document.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    cell = manifest.cell
    zero = np.zeros((len(cell.arrays), cell.layers, 1, cell.hidden_size), np.float32)
    state = zero
    sampling = {
        name: np.full(entry.shape(1, manifest.vocabulary_size), entry.neutral, entry.dtype)
        for name, entry in INPUTS.items()
    }
    table = [np.full((1, manifest.vocabulary_size), FREE, np.int32), np.full(1, -1, np.int32)]
    constraints = dict(zip(CONSTRAINT_INPUTS, [*table, np.array([FREE]), np.array([1])], strict=True))
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
            **sampling,
            **constraints,
            "logprobs": np.array(True),
        }
        logprob, state = session.run(["logprob", "state_out"], inputs)
        total -= float(logprob.sum(dtype=np.float64))
    return total / (len(tokens) - 1)


def _stretches(stream: Stream, longest: int) -> Iterator[tuple[int, int, bool]]:
    """Where each call starts and ends in the tokens that are read, and whether it starts from the zero state."""
    last = len(stream) - 1
    begins = [0] if stream.starts is None else stream.starts.tolist()
    for begin, after in itertools.pairwise([*(place for place in begins if place < last), last]):
        for start in range(begin, after, longest):
            yield start, min(start + longest, after), start == begin
