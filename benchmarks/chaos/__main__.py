"""Attacks on a server, one after the other: what did each do to somebody else, and was anything lost?

    python -m benchmarks.chaos [--seconds 4] [--only WORDS] [--json]

Each attack has a server process of its own, a bystander (`benchmarks/chaos/bystander.py`) with one stream and short
calls, and `SESSIONS` sessions that were made before. Server, bystander and attackers share this machine, so what an
attacker costs by itself is in the figures. The bystander is watched for some seconds before the attack, under it, and
after it. What has to hold: the server's process lives, the sessions go on as they would have, no call fails after the
attack, the work that is left ends (the server's CPU time stands still within `MOST_LEFT_SECONDS` once the bystander is
gone), and its memory is at most `MOST_GROWTH_MIB` more than before. The last line is one JSON object; the exit status
is 1 where one of these does not.

Attacks on networks and disks take place in namespaces of Linux, which only root may make; others leave them out.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.chaos import exhausted, http1, http2, networks
from benchmarks.chaos.attack import Attack
from benchmarks.chaos.bystander import Bystander
from benchmarks.processes import CHARLOOM, Process, hardware, memory_measure, running
from benchmarks.reporting import at_least_one, finish, new_parser, say
from charloom.client import Client
from charloom.models import BUNDLED_MODEL

SESSIONS = 20
MOST_GROWTH_MIB = 100.0
IDLE_SECONDS, MOST_IDLE_CORES = 1.0, 0.05
"""How long CPU time has to stand still, and what of it counts as nothing."""
MOST_LEFT_SECONDS = 20.0
"""When it has to. What arrived before an attack's end is worked off after it. A compressed message, for one, is
inflated up to --max-message-bytes before it is refused: 0.2 s of CPU time at 64 MiB, longer on a busy machine."""
DISK_MIB = 64
NAMESPACED = {*networks.ATTACKS, *(attack for attack in exhausted.ATTACKS if attack.name == "disk full")}


def server_of(attack: Attack, folder: Path) -> contextlib.AbstractContextManager[Process]:
    """A server to be attacked."""
    flags = [flag.format(folder=folder) for flag in attack.flags]
    command = [*CHARLOOM, "serve", str(BUNDLED_MODEL), "--port", "0", *flags]
    if attack.user is None:
        return running(*command)
    user = str(attack.user)
    words = ["--reuid", user, "--regid", user, "--clear-groups", sys.executable, *command]
    return running(*words, python="setpriv")


def texts_to_come(client: Client) -> dict[str, str]:
    """Make sessions; returns how the text of each will go on, by their ids."""
    found = {}
    for number in range(SESSIONS):
        session = client.session(id=f"kept-{number}", seed=number, keep=True)
        session.complete("The ", max_tokens=30)
        found[session.info.id] = client.complete(state=session.export().state, max_tokens=30).text
    return found


@contextlib.contextmanager
def memory_of(server: Process, samples: list[int]) -> Iterator[None]:
    """Look at the server's memory, in KiB, while the context is open."""
    over = threading.Event()

    def run() -> None:
        while server.alive and not over.wait(0.1):
            samples.append(server.memory_kib())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def work_left(server: Process) -> tuple[float, float]:
    """Wait until nothing is left to do; returns after how many seconds that was, and the CPU seconds that it took."""
    began, cpu, at = time.monotonic(), [server.cpu_seconds()], 0.0
    while server.alive and at < MOST_LEFT_SECONDS:
        time.sleep(IDLE_SECONDS)
        cpu.append(server.cpu_seconds())
        if cpu[-1] - cpu[-2] <= MOST_IDLE_CORES * IDLE_SECONDS:
            break
        at = time.monotonic() - began
    return at, cpu[-1] - cpu[0]


def tried(attack: Attack, seconds: float) -> dict[str, Any]:
    """What an attack did."""
    did: Counter[str] = Counter()
    times: list[float] = []
    cpu: list[float] = []
    peak: list[int] = []

    def watched() -> None:
        for at_end in (False, True):
            times.append(time.time())
            cpu.append(server.cpu_seconds())
            if not at_end:
                time.sleep(seconds)

    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        if attack in NAMESPACED:
            networks.run("mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", name)
            stack.callback(networks.run, "umount", name)
        started = stack.enter_context(server_of(attack, folder))
        server = Process(started.target.replace("0.0.0.0", "127.0.0.1"), started.pid)
        with Client(server.target) as client:
            expected = texts_to_come(client)
        bystander = Bystander(server.target)
        with bystander:
            time.sleep(1.5)
            watched()
            before = server.memory_kib()
            with memory_of(server, peak), attack.under(server, folder, did):
                time.sleep(0.5)
                watched()
            time.sleep(attack.settling)
            watched()
        alive = server.alive
        left_seconds, left_cpu_seconds = work_left(server)
        after = server.memory_kib()
        goes_on: dict[str, str] = {}
        if alive:
            with Client(server.target) as client:
                goes_on = {id: client.open_session(id).complete(max_tokens=30).text for id in expected}
    seen = [bystander.between(*times[at : at + 2]) for at in (0, 2, 4)]
    return {
        "attack": attack.name,
        "did": dict(did),
        "characters_per_s": [one.characters_per_s for one in seen],
        "call_ms": [one.call_ms for one in seen],
        "calls_failed": [one.failed for one in seen],
        "server_cores": [round((cpu[at + 1] - cpu[at]) / seconds, 2) for at in (0, 2, 4)],
        "memory_mib": [round(kib / 1024) for kib in (before, max(peak, default=before), after)],
        "alive": alive,
        "sessions_as_before": goes_on == expected,
        "work_left": {"seconds": round(left_seconds, 1), "cpu_seconds": round(left_cpu_seconds, 2)},
    }


def broken(found: dict[str, Any]) -> list[str]:
    """What does not hold after an attack."""
    growth = found["memory_mib"][2] - found["memory_mib"][0]
    wrong = {
        "the server has ended": not found["alive"],
        "sessions are not as before": not found["sessions_as_before"],
        "calls fail after it": found["calls_failed"][2] > 0,
        f"work is left after {MOST_LEFT_SECONDS:g} s": found["work_left"]["seconds"] >= MOST_LEFT_SECONDS,
        f"memory has grown by {growth} MiB": growth > MOST_GROWTH_MIB,
    }
    return [what for what, holds in wrong.items() if holds]


def chosen(words: str, namespaces: bool) -> tuple[list[Attack], list[str]]:
    """The attacks whose names have these words, and the names of those that this machine does not allow."""
    every: Sequence[Attack] = (*http2.ATTACKS, *http1.ATTACKS, *exhausted.ATTACKS, *networks.ATTACKS)
    wanted = [attack for attack in every if words in attack.name]
    barred = [attack for attack in wanted if not namespaces and (attack in NAMESPACED or attack.user is not None)]
    return [attack for attack in wanted if attack not in barred], [attack.name for attack in barred]


def main() -> int:
    """Attack, watch, print."""
    parser = new_parser(__doc__)
    parser.add_argument("--seconds", type=at_least_one, default=4, help="to watch, three times (default: 4)")
    parser.add_argument("--only", default="", metavar="WORDS", help="attacks whose names have these words")
    arguments = parser.parse_args()
    attacks, left_out = chosen(arguments.only, networks.enter_own_namespaces())
    found = []
    for attack in attacks:
        one = tried(attack, arguments.seconds)
        one["broken"] = broken(one)
        say(f"{one}")
        found.append(one)
    figures = {
        "memory_measure": memory_measure(),
        "hardware": hardware(),
        "seconds": arguments.seconds,
        "left_out": left_out,
        "attacks": found,
    }
    columns = ("characters_per_s", "calls_failed", "server_cores", "memory_mib")
    rows = [
        (
            one["attack"],
            *(" / ".join(map(str, one[column])) for column in columns),
            " / ".join(f"{ms['p50']:.0f}, {ms['p99']:.0f}" if ms else "-" for ms in one["call_ms"]),
            "; ".join(one["broken"]) or "nothing",
        )
        for one in found
    ]
    finish(figures, [("attack", *columns, "call_ms p50, p99", "broken"), *rows], only_json=arguments.json)
    return int(any(one["broken"] for one in found))


if __name__ == "__main__":
    sys.exit(main())
