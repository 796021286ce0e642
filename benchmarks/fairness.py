"""What polite clients keep beside one that takes what it can.

    python -m benchmarks.fairness [--tenants] [--seconds 8] [--kinds streams unread resetting] [--repeat 1] [--json]

Four polite clients with a connection each make one short call after the other: alone, and beside each kind of greedy
client (`benchmarks/callers.py`). What a polite client keeps is told of its speed alone, and of its fair share: a fifth
of what all were given, or its speed alone, if that is less. All clients run on the server's cores, so the greedy one's
own work is taken from everybody. With `--tenants`, each client shows the key of a tenant of its own, and the greedy one
spreads what it does over ten connections. The last line is one JSON object.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Sequence
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


def run(server: Process, kind: str | None, seconds: int, keys: Sequence[str]) -> dict[str, Any]:
    """The polite clients' figures, and those of the greedy client beside them.

    Args:
        server: to call
        kind: of the greedy client; None: there is none
        seconds: length
        keys: of the polite clients, then of the greedy one; none: they show none
    """
    greedy: dict[str, Any] = {}

    def take() -> None:
        flags = ["--kind", str(kind), "--seconds", str(seconds + 2 * AHEAD)]
        if keys:
            flags += ["--connections", str(TENANTS_CONNECTIONS), "--tokens", keys[-1]]
        greedy.update(output_of("-m", "benchmarks.callers", "--target", server.target, *flags))

    taking = threading.Thread(target=take)
    if kind:
        taking.start()
        taking.join(AHEAD)
    flags = ["--kind", "polite", "--seconds", str(seconds), "--clients", str(CLIENTS), "--tokens", *keys[:-1]]
    found = output_of("-m", "benchmarks.callers", "--target", server.target, *flags)
    if kind:
        taking.join()
    found["greedy"] = greedy
    say(f"{kind or 'alone'}: {found}")
    return found


def compared(alone: dict[str, Any], beside: dict[str, Any]) -> dict[str, Any]:
    """What the worst off of the polite clients keeps."""
    before, after = min(alone["chars_per_s"]), min(beside["chars_per_s"])
    given = sum(beside["chars_per_s"]) + beside["greedy"].get("chars_per_s", 0.0)
    return {
        "kept_of_alone": round(after / before, 2),
        "kept_of_fair_share": round(after / max(1e-9, min(before, given / (CLIENTS + 1))), 2),
        "ttfc_p99_ratio": beside["ttfc_ms"] and round(beside["ttfc_ms"]["p99"] / alone["ttfc_ms"]["p99"], 2),
        "ttfc_ms": beside["ttfc_ms"],
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
    arguments = parser.parse_args()
    alone: list[dict[str, Any]] = []
    beside: dict[str, list[dict[str, Any]]] = {kind: [] for kind in arguments.kinds}
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_reference_bundle(Path(folder) / "reference")
        file = Path(folder) / "keys.json"
        names = [*(f"polite-{number}" for number in range(CLIENTS)), "greedy"] if arguments.tenants else []
        keys = [new_key(file, tenant, "generate") for tenant in names]
        with serving(bundle, *(["--keys", str(file)] if keys else [])) as server:
            for _ in range(arguments.repeat):
                alone.append(run(server, None, arguments.seconds, keys))
                for kind in arguments.kinds:
                    beside[kind].append(run(server, kind, arguments.seconds, keys))
    reference = max(alone, key=lambda one: min(one["chars_per_s"]))
    against = {
        kind: max((compared(reference, one) for one in runs), key=lambda one: float(one["kept_of_fair_share"]))
        for kind, runs in beside.items()
    }
    found = {
        "clients": CLIENTS,
        "tenants": arguments.tenants,
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
