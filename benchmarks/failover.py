"""Servers killed at random moments under load: does any client lose a character, or get one twice?

    python -m benchmarks.failover [--kills 100] [--minutes 8] [--streams 16] [--replicas 2] [--length 2000]
                                  [--processes] [--json]

Redis, replicas of `charloom serve` and HAProxy in front, all on this machine, as `deploy/scale_out.py` starts them. All
the time, that many clients of the SDK each stream one text after the other into a session of its own. Replicas end by
SIGKILL, one after the other, and are started again. Each text is compared with the uninterrupted one of the same seed,
which is generated at the end. "resume_ms" is the time between the last piece of a text before a break and the first one
after it. The last line is one JSON object. The command fails where a text differs.

With `--processes` it is one server without a proxy, of that many processes (`--replicas`) that share a SQLite file.
They are killed, and their parent replaces them, after a pause that doubles as long as none lives for a minute.

After `--minutes` no more replicas are killed: "kills" is how many were, of the "kills_wanted". What was written is
compared then, which takes less time than the kills did, as nothing breaks off.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.cluster import ScaleOut
from benchmarks.processes import HOST, Process, free_ports, hardware, serving
from benchmarks.reporting import Budget, at_least_one, finish, new_parser, say, shown_times, some_minutes
from charloom.cli.serving.load import milliseconds
from charloom.client import AlreadyExists, AsyncClient, AsyncSession, ConnectionFailed, Unavailable
from charloom.models import BUNDLED_MODEL

SHORTEST_PAUSE, LONGEST_PAUSE = 0.2, 1.2
"""Seconds between a replica's start and the next kill."""
RESTART_SECONDS = 120.0
"""How long it may take until a process that was killed is replaced."""
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"repetition_penalty": 1.2, "frequency_penalty": 0.1},
    {"stop": ["zzzz"], "top_k": 20},
)
"""What texts are asked for, in turn."""


@dataclass
class Counts:
    """What the clients saw."""

    texts: dict[int, str] = field(default_factory=dict)
    """By seed."""
    pauses: list[float] = field(default_factory=list)
    """Seconds from the last piece before a break to the first one after it."""
    resumptions: int = 0


def options_of(seed: int) -> dict[str, Any]:
    """What the text of a seed is asked for with."""
    return OPTIONS[seed % len(OPTIONS)]


async def new_session(client: AsyncClient, seed: int) -> AsyncSession:
    """A session. Only streams are resumed by the SDK; making one is safe to repeat because it has a name."""
    while True:
        try:
            return await client.session(id=f"seed-{seed}", seed=seed, keep=True, timeout=None)
        except (ConnectionFailed, Unavailable):
            await asyncio.sleep(0.05)
        except AlreadyExists:
            return await client.open_session(f"seed-{seed}")


async def stream(client: AsyncClient, seeds: Any, length: int, over: asyncio.Event, counts: Counts) -> None:
    """One client: text after text, until it is over."""
    while not over.is_set():
        seed = next(seeds)
        session = await new_session(client, seed)
        text, known, last = "", 0, time.perf_counter()
        reading = session.generate("The ", max_tokens=length, timeout=None, **options_of(seed))
        async for piece in reading:
            now = time.perf_counter()
            if reading.resumptions > known:
                counts.pauses.append(now - last)
                known = reading.resumptions
            text, last = text + piece, now
        counts.resumptions += reading.resumptions
        counts.texts[seed] = text


class Replicas(Protocol):
    """What is killed and started again."""

    address: str
    """That clients call."""

    def kill(self, index: int) -> None:
        """End one at once, as a crash would."""

    def restart(self, index: int) -> object:
        """Have it started again; returns once all serve."""


class Children:
    """The processes of one running server.

    Args:
        server: their parent
        metrics: where it tells how many of them take calls
        count: how many there are
    """

    def __init__(self, server: Process, metrics: str, count: int) -> None:
        self.address = server.target
        self._server = server
        self._metrics = metrics
        self._count = count
        self._replaced = 0

    def kill(self, index: int) -> None:
        """See `Replicas`."""
        os.kill(self._server.pids()[1:][index], signal.SIGKILL)
        self._replaced += 1

    def restart(self, index: int) -> None:
        """See `Replicas`. The parent does it."""
        end = time.monotonic() + RESTART_SECONDS
        while self._told() != (self._count, self._replaced):
            if time.monotonic() > end:
                raise TimeoutError(f"no process has taken the place of the killed one within {RESTART_SECONDS:g} s")
            time.sleep(0.1)

    def _told(self) -> tuple[float, float]:
        with urllib.request.urlopen(self._metrics, timeout=30) as answer:
            families = [*text_string_to_metric_families(answer.read().decode())]
        values = {one.name: one.value for family in families for one in family.samples}
        return values["charloom_processes"], values["charloom_processes_replaced_total"]


@contextmanager
def one_server(folder: Path, processes: int) -> Iterator[Children]:
    """A server of several processes with the bundled model."""
    (port,) = free_ports(1)
    flags = ["--store", f"sqlite:{folder / 'sessions.db'}", "--processes", str(processes), "--metrics-port", str(port)]
    with serving(BUNDLED_MODEL, *flags) as server:
        yield Children(server, f"http://{HOST}:{port}/metrics", processes)


async def kill(cluster: Replicas, kills: int, replicas: int, budget: Budget) -> int:
    """Kill one replica after the other, at random moments, and start each again; returns how many the time allowed."""
    draw = random.Random(0)
    for number in range(kills):
        if not budget.seconds:
            say(f"{number} kills, the time is over")
            return number
        await asyncio.sleep(draw.uniform(SHORTEST_PAUSE, LONGEST_PAUSE))
        index = draw.randrange(replicas)
        await asyncio.to_thread(cluster.kill, index)
        await asyncio.to_thread(cluster.restart, index)
        if (number + 1) % 10 == 0:
            say(f"{number + 1} kills")
    return kills


async def uninterrupted(client: AsyncClient, seed: int, length: int) -> str:
    """The text of a seed, without a break."""
    session = await client.session(seed=seed, keep=True)
    return (await session.complete("The ", max_tokens=length, timeout=None, **options_of(seed))).text


async def compared(client: AsyncClient, counts: Counts, length: int) -> dict[str, int]:
    """How the texts differ from those without a break: "lost" and "repeated" characters, and texts that differ."""
    found = {"lost": 0, "repeated": 0, "different": 0}
    work = list(counts.texts.items())
    for begin in range(0, len(work), 32):
        part = work[begin : begin + 32]
        wanted = await asyncio.gather(*(uninterrupted(client, seed, length) for seed, _ in part))
        for (seed, text), expected in zip(part, wanted, strict=True):
            if text != expected:
                say(f"seed {seed}: {len(text)} characters in place of {len(expected)}")
            found["different"] += text != expected
            found["lost"] += max(0, len(expected) - len(text))
            found["repeated"] += max(0, len(text) - len(expected))
    return found


async def figures(
    cluster: Replicas, kills: int, streams: int, replicas: int, length: int, budget: Budget
) -> dict[str, Any]:
    """Everything: the load, the kills, the comparison."""
    counts, over, seeds = Counts(), asyncio.Event(), iter(range(10**9))
    async with AsyncClient(cluster.address, timeout=None) as client:
        clients = [asyncio.create_task(stream(client, seeds, length, over, counts)) for _ in range(streams)]
        killing = asyncio.create_task(kill(cluster, kills, replicas, budget))
        await asyncio.wait([killing, *clients], return_when=asyncio.FIRST_COMPLETED)
        over.set()
        killed = await killing
        await asyncio.gather(*clients)
        say(f"{len(counts.texts)} texts, {counts.resumptions} resumptions; now the same without kills")
        differences = await compared(client, counts, length)
    return {
        "of": "processes" if isinstance(cluster, Children) else "replicas",
        "kills": killed,
        "kills_wanted": kills,
        "streams": len(counts.texts),
        "resumptions": counts.resumptions,
        **differences,
        "resume_ms": milliseconds(counts.pauses),
        "hardware": hardware(),
    }


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--kills", type=at_least_one, default=100, help="of replicas (default: 100)")
    parser.add_argument("--minutes", type=some_minutes, default=8.0, help="when to kill no more (default: after 8)")
    parser.add_argument("--streams", type=at_least_one, default=16, help="clients at a time (default: 16)")
    parser.add_argument("--replicas", type=at_least_one, default=2, help="servers (default: 2)")
    parser.add_argument("--length", type=at_least_one, default=2000, help="characters of a text (default: 2000)")
    parser.add_argument("--processes", action="store_true", help="kill processes of one server (default: replicas)")
    arguments = parser.parse_args()
    budget = Budget(arguments.minutes)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster: Replicas
        if arguments.processes:
            cluster = stack.enter_context(one_server(folder, arguments.replicas))
        else:
            cluster = stack.enter_context(ScaleOut(BUNDLED_MODEL, folder, replicas=arguments.replicas))
        sizes = arguments.kills, arguments.streams, arguments.replicas, arguments.length
        found = asyncio.run(figures(cluster, *sizes, budget))
    table: list[tuple[object, ...]] = [
        ("kills", "wanted", "texts", "resumptions", "lost", "repeated", "different", "resume p50 / p99 ms"),
        (
            *(
                found[name]
                for name in ("kills", "kills_wanted", "streams", "resumptions", "lost", "repeated", "different")
            ),
            shown_times(found["resume_ms"]),
        ),
    ]
    finish(found, table, only_json=arguments.json)
    return 1 if found["different"] else 0


if __name__ == "__main__":
    sys.exit(main())
