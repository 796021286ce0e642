"""What the decoder alone can do on this machine: the bare step, one thread per core, no Python between results.

Knows: onnxruntime and threads. Does not know: servers.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import onnxruntime

from benchmarks.reference import HIDDEN, LAYERS, SYMBOLS, reference_weights
from charloom.training.export.onnx_graph import build_bare_step

BATCHES = (16, 32, 64, 128)


def characters_per_second(*, int8: bool, rows: int, threads: int, seconds: float = 1.5) -> float:
    """Rows times steps per second of the bare step, over all threads."""
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
    for _ in range(5):
        session.run(None, inputs)
    counts = [0] * threads
    end = time.perf_counter() + seconds

    def run(number: int) -> None:
        while time.perf_counter() < end:
            session.run(None, inputs)
            counts[number] += 1

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) * rows / (time.perf_counter() - began)


def ceiling(*, int8: bool, threads: int) -> float:
    """The best over batch sizes."""
    return max(characters_per_second(int8=int8, rows=rows, threads=threads) for rows in BATCHES)
