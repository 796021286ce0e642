"""Whether a server stays as it was under hours of everything at once.

    python -m benchmarks.soak --minutes M [--max-slope KIB] [--json]

A real server process, the clients of `benchmarks.mixed` in another one, and clients that are killed in the middle of a
stream. When all load has stopped, the sessions that the server lists must be those that the clients left, its CPU time
must stand still (no row is left on the loom), and it must give as much text as before. "rss_slope_kib_per_min" is the
least-squares slope of the server's resident memory over the second half. The last line is one JSON object; the exit
status is 1 if a requirement fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import CHARLOOM, Process, bench, hardware, memory_measure, serving
from benchmarks.reference import write_reference_bundle
from benchmarks.reporting import best, finish, new_parser, say, some_minutes
from charloom.client import CharloomError, Client, Conflict

SAMPLE_SECONDS, KILL_SECONDS, SAY_SECONDS = 1.0, 3.0, 60.0
STREAMS, ROUNDS, REPEAT = 64, 2, 3
LONGEST = 7 * 24 * 3600
SETTLING_SECONDS = 20.0
"""The server forgets expired sessions every 10 seconds."""
IDLE_SECONDS = 3.0
MOST_IDLE_CORES = 0.05
LEAST_THROUGHPUT = 0.9

Sample = tuple[float, float]


def slope(samples: Sequence[Sample]) -> float:
    """Of the line through points (x, y) with the least squares; 0 where no line is determined."""
    x, y = np.array(samples, float).reshape(-1, 2).T
    if len(x) < 2 or x.min() == x.max():
        return 0.0
    x = x - x.mean()
    return float((x * (y - y.mean())).sum() / (x * x).sum())


def second_half(samples: Sequence[Sample]) -> list[Sample]:
    """Those of the second half of the time."""
    middle = (samples[0][0] + samples[-1][0]) / 2 if samples else 0.0
    return [sample for sample in samples if sample[0] >= middle]


def failures(found: dict[str, Any], most_slope: float | None) -> list[str]:
    """What is not as it should be."""
    if not found["alive"]:
        return ["the server died"]
    wrong = {
        "calls ended with INTERNAL or UNKNOWN": found["internal"] > 0,
        f"calls ended otherwise than they should: {found['unexpected']}": bool(found["unexpected"]),
        "sessions are there that nobody left": found["leaked_sessions"] > 0,
        "sessions are gone that somebody left": found["lost_sessions"] > 0,
        f"it uses more than {MOST_IDLE_CORES} cores when idle": found["idle_cpu"] > MOST_IDLE_CORES,
        f"it gives less than {LEAST_THROUGHPUT} of the text that it gave before": found["throughput_after_over_before"]
        < LEAST_THROUGHPUT,
        f"its memory grows by more than {most_slope} KiB a minute": most_slope is not None
        and found["rss_slope_kib_per_min"] > most_slope,
    }
    return [what for what, is_so in wrong.items() if is_so]


def throughput(server: Process) -> float:
    """Characters per second of long streams, the best of some runs."""
    runs = [bench(server.target, workload="long", streams=STREAMS, rounds=ROUNDS) for _ in range(REPEAT)]
    found = float(best(runs, lambda run: float(run["chars_per_s"]))["chars_per_s"])
    say(f"{STREAMS} long streams: {found:,.0f} characters/s")
    return found


def kill_a_client(target: str, number: int) -> None:
    """Start a client that streams into a session, kill it in the middle, and delete the session."""
    name = f"killed-{number}"
    command = ["generate", "--target", target, "--max-tokens", "60000", "--session", name]
    process = subprocess.Popen([sys.executable, *CHARLOOM, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.read(1)
    process.kill()
    process.communicate()
    with Client(target) as client:
        session = client.open_session(name)
        end = time.monotonic() + SETTLING_SECONDS
        while True:
            try:
                session.delete()
                return
            except Conflict:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)


def soak(server: Process, minutes: float) -> tuple[dict[str, Any], list[Sample]]:
    """Everything at once: what the clients counted, and memory in KiB over minutes."""
    command = ["-m", "benchmarks.mixed", "--target", server.target, "--seconds", str(minutes * 60)]
    clients = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    samples: list[Sample] = []
    unexpected: Counter[str] = Counter()
    killed, began, said = 0, time.monotonic(), 0.0
    try:
        while clients.poll() is None and server.alive:
            passed = time.monotonic() - began
            samples.append((passed / 60, server.memory_kib()))
            if passed - said >= SAY_SECONDS:
                said = passed
                say(f"{passed / 60:.0f} min: {samples[-1][1]:,} KiB, {killed} clients killed")
            if killed < passed // KILL_SECONDS < minutes * 60 // KILL_SECONDS:
                try:
                    kill_a_client(server.target, killed)
                except CharloomError as problem:
                    unexpected[f"session of a killed client: {problem}"] += 1
                killed += 1
            time.sleep(SAMPLE_SECONDS)
        printed, _ = clients.communicate()
    finally:
        clients.kill()
        clients.wait()
    if clients.returncode:
        raise RuntimeError("the clients ended with an error")
    found: dict[str, Any] = json.loads(printed)
    found["unexpected"] |= unexpected
    return found | {"killed_clients": killed}, samples


def sessions_left(target: str, expected: set[str]) -> tuple[int, int]:
    """How many sessions there are that nobody left, and how many are missing, once that changes no more."""
    end = time.monotonic() + SETTLING_SECONDS
    with Client(target) as client:
        while (there := {session.id for session in client.sessions()}) != expected and time.monotonic() < end:
            time.sleep(0.5)
    return len(there - expected), len(expected - there)


def idle_cores(server: Process) -> float:
    """Cores that the server uses while nobody asks for anything."""
    before = server.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    return round((server.cpu_seconds() - before) / IDLE_SECONDS, 3)


def measure(server: Process, minutes: float) -> dict[str, Any]:
    """The figures; those of the time after the load are missing if the server died."""
    before = throughput(server)
    clients, samples = soak(server, minutes)
    statuses = clients["statuses"]
    found = {
        "minutes": minutes,
        "calls": clients["calls"],
        "statuses": statuses,
        "unexpected": clients["unexpected"],
        "internal": statuses.get("INTERNAL", 0) + statuses.get("UNKNOWN", 0),
        "killed_clients": clients["killed_clients"],
        "alive": server.alive,
        "rss_kib": {"first": samples[0][1], "last": samples[-1][1], "max": max(rss for _, rss in samples)},
        "rss_slope_kib_per_min": round(slope(second_half(samples)), 1),
    }
    if server.alive:
        found["leaked_sessions"], found["lost_sessions"] = sessions_left(server.target, set(clients["sessions"]))
        found["idle_cpu"] = idle_cores(server)
        found["throughput_after_over_before"] = round(throughput(server) / before, 3)
    return found


def main() -> int:
    """Soak, check and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--minutes", type=some_minutes, required=True, help="how long the load lasts")
    parser.add_argument("--max-slope", type=float, metavar="KIB", help="most growth of memory, KiB a minute")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_reference_bundle(Path(folder) / "reference")
        with serving(bundle, "--session-seconds", str(LONGEST)) as server:
            found = measure(server, arguments.minutes)
    found |= {"memory_measure": memory_measure(), "hardware": hardware()}
    wrong = failures(found, arguments.max_slope)
    finish(found, [("status", "calls"), *sorted(found["statuses"].items())], only_json=arguments.json)
    for what in wrong:
        say(f"failed: {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
