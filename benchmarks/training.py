"""What a training step costs against bare `torch.nn.LSTM`, forward, backward and optimiser, on the same shapes.

    python -m benchmarks.training [--device cpu|cuda] [--threads N] [--repeats N] [--cells] [--json]

The bare network is `nn.Embedding`, `nn.LSTM` with its own dropout, `nn.Linear`, cross-entropy, AdamW; no carried state,
no clipping, no loss that leaves the device, no data. Ours is `Learner.step`: all that `charloom train` does in a step.
Both take turns, step by step; `ratio` is ours over bare, of the medians. `--cells` measures the other cells too.
"""

from __future__ import annotations

import argparse
import string
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.processes import hardware
from benchmarks.reporting import at_least_one, finish, new_parser, say
from charloom.bundle import CellKind
from charloom.training.config import TrainingConfig
from charloom.training.data.batches import Batches
from charloom.training.learner import Learner

VOCABULARY = len(string.printable)


class Bare(nn.Module):
    """The network in torch's own modules."""

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, config.embedding_size)
        self.lstm = nn.LSTM(
            config.embedding_size, config.hidden_size, config.layers, batch_first=True, dropout=config.dropout
        )
        self.head = nn.Linear(config.hidden_size, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        outputs, _ = self.lstm(self.embedding(tokens))
        logits: torch.Tensor = self.head(outputs)
        return logits


def arguments() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=at_least_one, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=at_least_one, default=30, help="steps of each (default: 30)")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    parser.add_argument("--cells", action="store_true", help="measure the other cells and zoneout too")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    ways: dict[str, dict[str, Any]] = {"lstm": {}}
    if args.cells:
        ways |= {cell.value: {"cell": cell} for cell in CellKind if cell is not CellKind.LSTM}
        ways["lstm, weight drop"] = {"weight_drop": 0.3}
        ways["lstm, zoneout"] = {"zoneout_cell": 0.3}
    rows = [measured(name, TrainingConfig(precision=args.precision, **way), args) for name, way in ways.items()]
    found: dict[str, Any] = {"hardware": hardware(), "torch": torch.__version__, "device": args.device}
    found |= {"threads": args.threads, "median_of": args.repeats, **rows[0], "ways": rows}
    table = [["", "bare, ms", "ours, ms", "ratio", "characters/s"]]
    shown = ("name", "bare_ms", "step_ms", "ratio", "chars_per_s")
    finish(found, [*table, *([row[name] for name in shown] for row in rows)], only_json=args.json)


def measured(name: str, config: TrainingConfig, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of a step of either, and what ours makes of it."""
    say(f"{name}: {config.layers} x {config.hidden_size}, {config.batch_size} x {config.sequence_length}")
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=config.batch_size * config.sequence_length * 8)
    batches = Batches(tokens, config.batch_size, config.sequence_length, config.seed)
    learner = Learner(VOCABULARY, config, torch.device(args.device))
    ours, bare = step_of(learner, batches), bare_step_of(config, learner, batches)
    for step in (ours, bare):
        seconds(step, 0, args.device)
    times = [[seconds(step, repeat, args.device) for step in (ours, bare)] for repeat in range(1, args.repeats + 1)]
    step_s, bare_s = (median(column) for column in zip(*times, strict=True))
    return {
        "name": name,
        "precision": learner.precision,
        "bare_ms": round(1e3 * bare_s, 1),
        "step_ms": round(1e3 * step_s, 1),
        "ratio": round(step_s / bare_s, 3),
        "chars_per_s": round(config.batch_size * config.sequence_length / step_s),
    }


def step_of(learner: Learner, batches: Batches) -> Callable[[int], object]:
    """A step of ours."""
    return lambda index: learner.step(index, batches.batch(index % batches.per_epoch), 1e-3)


def bare_step_of(config: TrainingConfig, learner: Learner, batches: Batches) -> Callable[[int], object]:
    """A step of the bare network, in the same precision, its data ready on the device."""
    model = Bare(config).to(learner.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(learner.precision)
    inputs, targets = (torch.from_numpy(part.copy()).to(learner.device) for part in batches.batch(0)[:2])

    def step(_: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(learner.device.type, dtype=dtype, enabled=dtype is not None):
            logits = model(inputs)
        cross_entropy(logits.float().flatten(0, 1), targets.flatten()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def seconds(step: Callable[[int], object], index: int, device: str) -> float:
    """Of one step, until the device is done."""
    start = time.perf_counter()
    step(index)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
