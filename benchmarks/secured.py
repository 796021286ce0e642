"""What TLS and keys cost: the same load on a server with both and on one with neither, by turns.

    python -m benchmarks.secured [--streams 64] [--repeat 3] [--json]

Server processes and clients of their own on this machine, with the bundled model. "ratio" is characters/s with TLS and
a key to those without, of the best runs; "cpu_us" is what a character takes of the server's CPU time in all runs, which
other work on the machine changes less, and "cpu_ratio" that without to that with. "long" are long streams, "short"
sessions with short calls. The last line is one JSON object. Needs the dev extra, for certificates.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import trustme

from benchmarks.fuzz import keys_in
from benchmarks.processes import Process, bench, hardware, serving
from benchmarks.reporting import at_least_one, best, finish, new_parser, say
from charloom.models import BUNDLED_MODEL

LOADS: dict[str, dict[str, Any]] = {
    "long": {"workload": "long", "rounds": 2},
    "short": {"workload": "short", "rounds": 2},
}


def certificates_in(folder: Path) -> tuple[Path, Path, Path]:
    """Files of an authority, of a server's certificate and of its key."""
    authority = trustme.CA()
    made = authority.issue_cert("localhost", "127.0.0.1")
    ca, chain, key = (folder / name for name in ("ca.pem", "server.crt", "server.key"))
    authority.cert_pem.write_to_path(str(ca))
    chain.write_bytes(b"".join(one.bytes() for one in made.cert_chain_pems))
    key.touch(mode=0o600)
    key.write_bytes(made.private_key_pem.bytes())
    return ca, chain, key


def microseconds(runs: Sequence[dict[str, Any]]) -> float:
    """CPU time of the server for each character, in all runs."""
    characters = sum(float(run["chars_per_s"] * run["seconds"]) for run in runs)
    return round(1e6 * sum(float(run["cpu"]) for run in runs) / characters, 2)


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--streams", type=at_least_one, default=64, help="clients at a time (default: 64)")
    parser.add_argument("--repeat", type=at_least_one, default=3, help="runs of a load, the best counts (default: 3)")
    arguments = parser.parse_args()
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ca, chain, key = certificates_in(folder)
        token = keys_in(folder / "keys.json")[0]
        flags = ("--tls-cert", str(chain), "--tls-key", str(key), "--keys", str(folder / "keys.json"))
        plain = stack.enter_context(serving(BUNDLED_MODEL))
        secured = stack.enter_context(serving(BUNDLED_MODEL, *flags))
        for _ in range(arguments.repeat):
            for load, what in LOADS.items():
                sides: list[tuple[str, Process, dict[str, Any]]] = [
                    ("plain", plain, {}),
                    ("secured", secured, {"ca": ca, "token": token}),
                ]
                for name, server, access in sides:
                    cpu = server.cpu_seconds()
                    run = bench(server.target, streams=arguments.streams, **what, **access)
                    run["cpu"] = server.cpu_seconds() - cpu
                    runs.setdefault((load, name), []).append(run)
                    say(f"{load}, {name}: {run['chars_per_s']:,} characters/s")
    top = {place: best(found, lambda run: float(run["chars_per_s"]))["chars_per_s"] for place, found in runs.items()}
    figures: dict[str, Any] = {"hardware": hardware(), "streams": arguments.streams, "repeat": arguments.repeat}
    for load in LOADS:
        ratio = round(top[load, "secured"] / top[load, "plain"], 3)
        cpu_us = {name: microseconds(runs[load, name]) for name in ("plain", "secured")}
        figures[load] = {name: top[load, name] for name in cpu_us} | {
            "ratio": ratio,
            "cpu_us": cpu_us,
            "cpu_ratio": round(cpu_us["plain"] / cpu_us["secured"], 3),
        }
    rows = [(load, *map(str, figures[load].values())) for load in LOADS]
    headings = ("load", "characters/s without", "with TLS and a key", "ratio", "CPU us a character", "ratio")
    finish(figures, [headings, *rows], only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
