"""Anomalies in the logs of many machines on one stream: lines that are unlike those that their machine wrote before.

    charloom serve MODEL                    # in another terminal; a model trained on such logs does best
    journalctl --follow --output cat | python examples/log_anomalies.py

What stands before the first colon of a line is its source, as in "sshd: connection closed". Each source has a state of
the network and a threshold of its own, which stay on the server: run it again, and it goes on with what it knows.
`charloom watch` does the same for files that are rotated, with webhooks, and also where no line comes for so long that
the server ends the watch; docs/watching-streams.md tells how it works.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator

from charloom.client import Client, Verdict

AT_A_TIME = 100
"""Lines of one message."""
WARM_UP = 10
"""Lines of a source before its own threshold."""


def batches(lines: Iterable[str]) -> Iterator[list[tuple[str, str]]]:
    """Pairs of source and text, some at a time; at a terminal or a pipe that goes on, line by line."""
    found: list[tuple[str, str]] = []
    for line in lines:
        source, colon, text = line.rstrip("\n").partition(": ")
        found.append((source, text) if colon else ("", source))
        if len(found) == AT_A_TIME or not sys.stdin.seekable():
            yield found
            found = []
    if found:
        yield found


def told(verdict: Verdict) -> str:
    """A verdict in a line."""
    threshold = "-" if verdict.threshold is None else f"{verdict.threshold:.2f}"
    return f"{'!' if verdict.alert else ' '} {verdict.surprise:5.2f} {threshold:>5} {verdict.source}: {verdict.text}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="localhost:50051")
    parser.add_argument("--name", default="log-anomalies", help="of the watch (default: log-anomalies)")
    parser.add_argument("--rate", type=float, default=0.01, help="share of lines that may be alerts (default: 0.01)")
    parser.add_argument("--all", action="store_true", help="show every line")
    arguments = parser.parse_args()
    drifting: set[str] = set()
    judged = False
    name, rate = arguments.name, arguments.rate
    with Client(arguments.target) as client, client.watch(name, rate=rate, warm_up=WARM_UP) as watch:
        for lines in batches(sys.stdin):
            for verdict in watch.read(lines):
                judged |= verdict.threshold is not None
                if verdict.alert or arguments.all:
                    print(told(verdict), flush=True)
                if verdict.drifting and verdict.source not in drifting:
                    drifting.add(verdict.source)
                    print(f"{verdict.source} is no more what it was", file=sys.stderr)
    if not judged:
        needed = max(WARM_UP, math.ceil(1 / rate))
        print(f"no line was judged, for a threshold takes {needed:,} lines before; --all shows them", file=sys.stderr)


if __name__ == "__main__":
    main()
