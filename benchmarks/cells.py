"""What one product for all gates gains over four: two LSTM cells of the same function in torch.

    python -m benchmarks.cells [--repeats N] [--json]

A step from the same inputs and state is timed with both cells in turn, many times over; the ratio is of the best times.
Forward is inference; training is forward and backward. One thread. Needs the training extra.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.processes import hardware
from benchmarks.reporting import at_least_one, finish, new_parser, say
from charloom.lab.reference.torch_cells import Cell, CombinedCell, SeparateCell, State

SIZES = [(1, 64, 128), (32, 64, 128), (1, 64, 512), (32, 64, 512), (64, 512, 512)]
"""Rows, inputs, hidden."""
SECONDS = 0.05
"""How long one repeat of one cell lasts, about."""


def arguments() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--repeats", type=at_least_one, default=15, help="how often each is timed (default: 15)")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"hardware": hardware(), "torch": torch.__version__, "threads": 1, "best_of": args.repeats}
    found["cells"] = [
        measured(rows, inputs, hidden, training, args.repeats)
        for rows, inputs, hidden in SIZES
        for training in (False, True)
    ]
    table = [["rows", "inputs", "hidden", "", "four products, us", "one product, us", "ratio"]]
    finish(found, [*table, *([*cell.values()] for cell in found["cells"])], only_json=args.json)


def measured(rows: int, inputs: int, hidden: int, training: bool, repeats: int) -> dict[str, Any]:
    """Microseconds of a step with either cell, and how many times faster the combined one is."""
    mode = "training" if training else "forward"
    say(f"{rows} rows, {inputs} inputs, {hidden} hidden, {mode}")
    torch.manual_seed(0)
    x, state = torch.randn(rows, inputs), State(torch.randn(rows, hidden), torch.randn(rows, hidden))
    steps = [step_of(make(inputs, hidden), x, state, training) for make in (SeparateCell, CombinedCell)]
    calls = [max(1, int(SECONDS / seconds(step, 3))) for step in steps]
    times = [[seconds(step, count) for step, count in zip(steps, calls, strict=True)] for _ in range(repeats)]
    four, one = (min(column) for column in zip(*times, strict=True))
    sizes = {"rows": rows, "inputs": inputs, "hidden": hidden, "mode": mode}
    return sizes | {"four_us": round(1e6 * four, 1), "one_us": round(1e6 * one, 1), "ratio": round(four / one, 2)}


def step_of(cell: Cell, x: torch.Tensor, state: State, training: bool) -> Callable[[], object]:
    """A step to be timed."""

    def train() -> None:
        cell.zero_grad()
        h, c = cell(x, state)
        (h.sum() + c.sum()).backward()

    def infer() -> None:
        with torch.inference_mode():
            cell(x, state)

    return train if training else infer


def seconds(step: Callable[[], object], count: int) -> float:
    """Of one call, over `count`."""
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count


if __name__ == "__main__":
    main()
