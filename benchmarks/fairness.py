"""What polite clients keep beside one that takes what it can.

    python -m benchmarks.fairness [--tenants] [--seconds 8] [--kinds streams unread resetting] [--repeat 1]
                                  [--processes 1] [--json]

Four polite clients with a connection each make one short call after the other: alone, and beside each kind of greedy
client (`benchmarks/callers.py`). All clients run on the server's cores, where a greedy one's own work is taken from
everybody, which no server can help. So there is a run beside a *neighbour* too for each: a process that uses as many
cores as the greedy client did, and does not call. What a polite client keeps is told of its speed alone, and of its
fair share: its speed beside the neighbour, or a fifth of what all were given, if that is less and the greedy client
reads. First characters are compared with those beside the neighbour. With `--tenants`, each client shows the key of a
tenant of its own, and the greedy one spreads what it does over ten connections. With `--processes`, the system gives
each connection to one of the server's processes by chance. The last line is one JSON object.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from benchmarks.processes import Process, hardware, new_key, output_of, serving
from benchmarks.reference import write_reference_bundle
from benchmarks.reporting import at_least_one, finish, new_parser, say, shown_times

CLIENTS = 4
KINDS = ("streams", "unread", "resetting")
TENANTS_CONNECTIONS = 10
"""Of a greedy client that shows a key on each."""
AHEAD = 3
"""Seconds that the greedy client has begun before."""


def run(
    server: Process, kind: str | None, seconds: int, keys: Sequence[str], cores: float | None = None
) -> dict[str, Any]:
    """The polite clients' figures, and those of what is beside them.

    Args:
        server: to call
        kind: of the greedy client; None: there is none
        seconds: length
        keys: of the polite clients, then of the greedy one; none: they show none
        cores: what a neighbour in place of the greedy client uses

    Raises:
        RuntimeError: the polite clients failed, or what is beside them; the message has what it said.
    """

    def take() -> dict[str, Any]:
        flags = ["--kind", str(kind), "--seconds", str(seconds + 2 * AHEAD)]
        if cores is not None:
            flags = ["--kind", "neighbour", "--seconds", str(seconds + 2 * AHEAD), "--cores", str(cores)]
        elif keys:
            flags += ["--connections", str(TENANTS_CONNECTIONS), "--tokens", keys[-1]]
        return output_of("-m", "benchmarks.callers", "--target", server.target, *flags)

    with ThreadPoolExecutor(1) as pool:
        taking = [pool.submit(take)] if kind else []
        wait(taking, AHEAD)
        flags = ["--kind", "polite", "--seconds", str(seconds), "--clients", str(CLIENTS), "--tokens", *keys[:-1]]
        found = output_of("-m", "benchmarks.callers", "--target", server.target, *flags)
        found["greedy"] = taking[0].result() if taking else {}
    say(f"{kind or 'alone'}{'' if cores is None else f', a neighbour that uses {cores} cores'}: {found}")
    return found


def compared(alone: dict[str, Any], beside: dict[str, Any], neighbour: dict[str, Any]) -> dict[str, Any]:
    """What the worst off of the polite clients keeps.

    Args:
        alone: a run with nothing beside them
        beside: one with a greedy client
        neighbour: one with a neighbour that used as much processor time as the greedy client
    """
    after, fair = min(beside["chars_per_s"]), min(neighbour["chars_per_s"])
    if read := beside["greedy"].get("chars_per_s"):
        fair = min(fair, (sum(beside["chars_per_s"]) + read) / (CLIENTS + 1))
    return {
        "kept_of_alone": round(after / min(alone["chars_per_s"]), 2),
        "kept_of_fair_share": round(after / max(1e-9, fair), 2),
        "ttfc_p99_ratio": beside["ttfc_ms"] and round(beside["ttfc_ms"]["p99"] / neighbour["ttfc_ms"]["p99"], 2),
        "ttfc_ms": beside["ttfc_ms"],
        "neighbour": {"chars_per_s": neighbour["chars_per_s"], "ttfc_ms": neighbour["ttfc_ms"]},
        "ends": beside["ends"],
        "greedy": beside["greedy"],
    }


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--seconds", type=at_least_one, default=8, help="length of a run (default: 8)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="greedy clients (default: all)")
    parser.add_argument("--tenants", action="store_true", help="each client has a key (default: none has)")
    parser.add_argument("--repeat", type=at_least_one, default=1, help="runs of each, the best counts (default: 1)")
    parser.add_argument("--processes", type=at_least_one, default=1, help="of the server (default: 1)")
    arguments = parser.parse_args()
    alone: list[dict[str, Any]] = []
    pairs: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {kind: [] for kind in arguments.kinds}
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_reference_bundle(Path(folder) / "reference")
        file = Path(folder) / "keys.json"
        names = [*(f"polite-{number}" for number in range(CLIENTS)), "greedy"] if arguments.tenants else []
        keys = [new_key(file, tenant, "generate") for tenant in names]
        flags = ["--keys", str(file)] if keys else []
        if arguments.processes > 1:
            flags += ["--processes", str(arguments.processes), "--store", f"sqlite:{Path(folder) / 'sessions.db'}"]
        with serving(bundle, *flags) as server:
            for _ in range(arguments.repeat):
                alone.append(run(server, None, arguments.seconds, keys))
                for kind in arguments.kinds:
                    beside = run(server, kind, arguments.seconds, keys)
                    pairs[kind].append((beside, run(server, kind, arguments.seconds, keys, beside["greedy"]["cores"])))
    reference = max(alone, key=lambda one: min(one["chars_per_s"]))
    against = {
        kind: max((compared(reference, *pair) for pair in runs), key=lambda one: float(one["kept_of_fair_share"]))
        for kind, runs in pairs.items()
    }
    found = {
        "clients": CLIENTS,
        "tenants": arguments.tenants,
        "processes": arguments.processes,
        "alone": reference,
        "beside": against,
        "hardware": hardware(),
    }
    table: list[tuple[object, ...]] = [
        ("beside", "kept of alone", "of fair share", "first character p50 / p99 ms", "ends")
    ]
    table.append(("nobody", 1.0, 1.0, shown_times(reference["ttfc_ms"]), reference["ends"]))
    for kind, one in against.items():
        table.append((kind, one["kept_of_alone"], one["kept_of_fair_share"], shown_times(one["ttfc_ms"]), one["ends"]))
    finish(found, table, only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
