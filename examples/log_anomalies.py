"""Anomalies in a log, by surprisal: lines that the model did not expect.

    charloom serve MODEL                    # in another terminal; a model trained on such logs does best
    tail -f some.log | python examples/log_anomalies.py

Each line is read by a session that carries its state from line to line; its surprisal is the mean number of bits per
character. A line stands out when it lies far above those before it: by median and median absolute deviation, so that
the anomalies themselves do not raise the bar.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections import deque
from collections.abc import Iterable, Iterator

from charloom.client import Client

WINDOW, WARM_UP = 200, 10
"""Lines that are compared with, at most and at least."""


def scored(client: Client, lines: Iterable[str]) -> Iterator[tuple[str, float]]:
    """Each line with its bits per character."""
    with client.observe(unknown_characters="skip", timeout=None) as observer:
        for line in lines:
            surprisals = observer.read(line.rstrip("\n") + "\n").surprisals
            yield line.rstrip("\n"), sum(surprisals) / math.log(2) / max(1, len(surprisals))


def anomalies(lines: Iterable[tuple[str, float]], threshold: float) -> Iterator[tuple[str, float, bool]]:
    """Each line with its bits per character, and whether it stands out."""
    before: deque[float] = deque(maxlen=WINDOW)
    for line, bits in lines:
        unusual = False
        if len(before) >= WARM_UP:
            middle = statistics.median(before)
            spread = statistics.median(abs(one - middle) for one in before)
            unusual = bits > middle + threshold * max(spread, 0.05)
        before.append(bits)
        yield line, bits, unusual


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="localhost:50051")
    parser.add_argument("--threshold", type=float, default=6.0, help="median absolute deviations (default: 6)")
    parser.add_argument("--all", action="store_true", help="show every line")
    arguments = parser.parse_args()
    with Client(arguments.target) as client:
        for line, bits, unusual in anomalies(scored(client, sys.stdin), arguments.threshold):
            if unusual or arguments.all:
                print(f"{'!' if unusual else ' '} {bits:5.2f} {line}", flush=True)


if __name__ == "__main__":
    main()
