"""Which score of a line tells alerts best, judged on the first 1,000 lines of BGL alone.

    python -m benchmarks.watch_scores --logs FOLDER [--json]

FOLDER has the samples of loghub (`benchmarks.watch_logs`). Each half of these lines is scored by a model of
`--preset log` that has learnt the other half, once as it is and once without its alerts; the area of each score is
told for each, and their mean. The lines 1,001 to 2,000, by which `benchmarks.watch` judges, are not looked at. The
second half has 2 alerts only, the first one 94. Needs the training extra and scikit-learn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.processes import hardware
from benchmarks.reporting import at_least_one, finish, new_parser, say
from benchmarks.watch import MASK, Numbers, Speed, area, surprisals, trained
from benchmarks.watch_logs import HALF, Line, read_log
from charloom.training.presets import PRESETS

WIDTH, PLACES, FEW = 4, 64, 20
"""Tokens of a place in the line, places, and how many tokens one has to have been seen with for a mean of its own."""
RECENT = 50
"""Lines after which one that came before counts half."""
STRETCHES = (1, 2, 3, 4, 6, 8, 16, 32)


def arguments() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--logs", type=Path, required=True, help="the folder with the samples")
    parser.add_argument("--epochs", type=at_least_one, default=PRESETS["log"]["epochs"], help="of each training")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    lines = read_log(args.logs, "BGL")[:HALF]
    halves = lines[: HALF // 2], lines[HALF // 2 :]
    areas: dict[str, dict[str, float]] = {}
    for known, scored, name in ((halves[1], halves[0], "first half"), (halves[0], halves[1], "second half")):
        for clean in (False, True):
            learnt = [line for line in known if not (clean and line.alert)]
            case = f"{name}{', no alerts learnt' * clean}"
            say(case)
            model = trained([line.text for line in learnt], args.epochs, Speed())
            alerts = np.array([line.alert for line in scored])
            told = scores(surprisals(model, scored), scored, *by_place(surprisals(model, learnt)))
            for score, values in told.items():
                areas.setdefault(score, {})[case] = area(alerts, values)
    means = {name: round(float(np.mean(list(of.values()))), 3) for name, of in areas.items()}
    best_first = sorted(means, key=lambda name: -means[name])
    rows = [{"score": name, "mean": means[name], **areas[name]} for name in best_first]
    finish(
        {"hardware": hardware(), "rows": rows},
        [list(rows[0]), *(list(row.values()) for row in rows)],
        only_json=args.json,
    )


def by_place(learnt: Sequence[Numbers]) -> tuple[Numbers, Numbers]:
    """Mean and deviation of the nats at each place of the lines; of places that are rare, those of the place before."""
    seen: list[list[float]] = [[] for _ in range(PLACES)]
    for nats in learnt:
        for at, value in zip(_places(nats), nats, strict=True):
            seen[at].append(float(value))
    means, deviations = np.zeros(PLACES), np.ones(PLACES)
    for at, values in enumerate(seen):
        if len(values) > FEW:
            means[at], deviations[at] = np.mean(values), np.std(values) + 0.1
        elif at:
            means[at], deviations[at] = means[at - 1], deviations[at - 1]
    return means, deviations


def scores(nats: Sequence[Numbers], lines: Sequence[Line], means: Numbers, deviations: Numbers) -> dict[str, Numbers]:
    """What each score makes of each line."""

    def each(score: Callable[[Numbers], float]) -> Numbers:
        return np.array([score(one) for one in nats])

    found = {f"stretch of {length}": each(partial(stretch, length=length)) for length in STRETCHES}
    found["stretch of 4 above the mean at its place"] = each(lambda one: stretch(one - means[_places(one)], 4))
    found["the same, in deviations"] = each(
        lambda one: stretch((one - means[_places(one)]) / deviations[_places(one)], 4)
    )
    found["stretch of 4, less where the line came before"] = found["stretch of 4"] / np.sqrt(1 + repeated(lines))
    found["mean"] = each(lambda one: float(one.mean()))
    found["root mean square"] = each(lambda one: float(np.sqrt((one**2).mean())))
    found["sum"] = each(lambda one: float(one.sum()))
    return found


def stretch(nats: Numbers, length: int) -> float:
    """The mean over the highest stretch of so many tokens."""
    if len(nats) <= length:
        return float(nats.sum()) / length
    sums = np.concatenate([np.zeros(1), np.cumsum(nats)])
    return float((sums[length:] - sums[:-length]).max()) / length


def repeated(lines: Sequence[Line]) -> Numbers:
    """How often each line came before, masked; of one that is long ago less."""
    seen, found = dict[str, float](), list[float]()
    for line in lines:
        text = MASK.apply(line.text)
        found.append(seen.get(text, 0.0))
        for other in seen:
            seen[other] *= 0.5 ** (1 / RECENT)
        seen[text] = seen.get(text, 0.0) + 1
    return np.array(found)


def _places(nats: Numbers) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.minimum(np.arange(len(nats)) // WIDTH, PLACES - 1)


if __name__ == "__main__":
    main()
