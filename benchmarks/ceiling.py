"""What the decoder alone can do on this machine, without a server.

Two things are timed: the *bare step* of the network, from token and state to logits and state, which no decoder can be
faster than; and the *decoder* of the engine's contract, many steps a call with loop and sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.reference import HIDDEN, LAYERS, SYMBOLS, reference_weights
from charloom.bundle import DecoderKind
from charloom.engine.decoding.invariance import generating_inputs
from charloom.engine.decoding.onnx_decoder import OnnxDecoder
from charloom.engine.decoding.speed import calls_per_second
from charloom.export.onnx_graph import build_bare_step

BATCHES = (16, 32, 64, 128)
COST_BATCHES = (1, 4, 16, 64, 256)
STEPS = 32
"""Steps of one decoder call."""
SECONDS = 1.5


def characters_per_second(*, int8: bool, rows: int, threads: int, seconds: float = SECONDS) -> float:
    """Rows times steps per second of the bare step, over all threads."""
    step = bare_step(int8=int8, rows=rows)
    return rows * calls_per_second(step, threads=threads, seconds=seconds)


def ceiling(*, int8: bool, threads: int) -> tuple[int, float]:
    """The number of rows with which the bare step is fastest, and how fast that is."""
    speeds = {rows: characters_per_second(int8=int8, rows=rows, threads=threads) for rows in BATCHES}
    return max(speeds.items(), key=lambda one: one[1])


def step_microseconds(bundle: Path, kind: DecoderKind, *, seconds: float = SECONDS) -> dict[str, dict[str, float]]:
    """Microseconds of one step of all rows, on one thread, by the number of rows: of the decoder and of the bare step.

    Args:
        bundle: the reference bundle
        kind: which of its ONNX decoders
        seconds: how long each is timed
    """
    decoder = OnnxDecoder(bundle / kind.file, kind.value)
    found: dict[str, dict[str, float]] = {"step_us": {}, "bare_step_us": {}}
    for rows in COST_BATCHES:
        inputs = generating_inputs(decoder, rows, STEPS)  # reading would cost less
        calls = calls_per_second(partial(decoder.run, inputs), threads=1, seconds=seconds)
        bare = calls_per_second(bare_step(int8=kind is DecoderKind.ONNX_INT8, rows=rows), threads=1, seconds=seconds)
        found["step_us"][str(rows)] = round(1e6 / (calls * STEPS), 1)
        found["bare_step_us"][str(rows)] = round(1e6 / bare, 1)
    return found


def bare_step(*, int8: bool, rows: int) -> Callable[[], object]:
    """What takes one step of the network with this many rows."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    graph = build_bare_step(reference_weights(), int8=int8).SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    inputs = {"token": np.zeros(rows, np.int64)} | {
        name: np.random.default_rng(0).uniform(-1, 1, (rows, HIDDEN)).astype(np.float32) for name in names[1:]
    }
    assert len(names) == 1 + 2 * LAYERS
    assert inputs["token"].max() < len(SYMBOLS)
    return lambda: session.run(None, inputs)
