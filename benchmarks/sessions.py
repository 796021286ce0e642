"""What an idle session costs: memory of the server, and speed of the others.

    python -m benchmarks.sessions [--counts 1000,10000,100000] [--repeat 3] [--minutes 10] [--json]

Sessions are made and used once each through a real server process, so that each holds a state of its own. There is one
server for all counts: the sessions of a larger count are added to those of the smaller ones. "bytes_per_session" is the
growth of the server's resident memory since before the first of them, and "ratio" is to the state's own bytes. The
server is warm before: it has served as many calls at a time as it does while sessions are made. The sessions of this
warm-up are not counted, and deleted only after the last figure, because others would take the memory that they leave.

Then 64 long streams run on that server and on one without sessions, by turns; "active_throughput_ratio" is that of the
best runs. The last line is one JSON object.

After `--minutes` no more sessions are made; counts that were not reached by then are named in "not_reached". The long
streams come after that, once, and again while there is time: "active_runs" is how often.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc

from benchmarks.processes import Process, bench, hardware, memory_measure, serving
from benchmarks.reference import write_reference_bundle
from benchmarks.reporting import Budget, at_least_one, best, counts, finish, new_parser, say, some_minutes
from charloom.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
)

AT_A_TIME, CHANNELS = 64, 4
WARM_SESSIONS, WARM_USES = 100, 20
SETTLED_KIB, SETTLED_SECONDS, SETTLING_SECONDS = 256, 1.0, 15.0
STREAMS, ROUNDS = 64, 3
LONGEST = 7 * 24 * 3600


class Sessions:
    """Makes, uses and deletes sessions, many at a time."""

    def __init__(self, target: str) -> None:
        self._channels = [
            grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(CHANNELS)
        ]

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def state_bytes(self) -> int:
        """What the server says that a state takes."""
        stub: Any = models_pb2_grpc.ModelServiceStub(self._channels[0])
        return int((await stub.GetModel(models_pb2.GetModelRequest())).model.state_bytes)

    async def make(self, numbers: Sequence[int], uses: int = 1) -> None:
        """Make sessions and generate one character in each, `uses` times."""
        await self._spread(numbers, lambda channel, number: self._make(channel, number, uses))

    async def delete(self, numbers: Sequence[int]) -> None:
        await self._spread(numbers, self._delete)

    async def _spread(self, numbers: Sequence[int], act: Any) -> None:
        waiting = iter(numbers)

        async def worker(channel: grpc.aio.Channel, waiting: Iterator[int]) -> None:
            for number in waiting:
                await act(channel, number)

        await asyncio.gather(*(worker(self._channels[n % CHANNELS], waiting) for n in range(AT_A_TIME)))

    @staticmethod
    async def _make(channel: grpc.aio.Channel, number: int, uses: int) -> None:
        sessions: Any = sessions_pb2_grpc.SessionServiceStub(channel)
        generation: Any = generation_pb2_grpc.GenerationServiceStub(channel)
        name = f"session-{number:07}"
        await sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id=name, seed=number))
        options = generation_pb2.GenerationOptions(session_id=name, max_tokens=1)
        for _ in range(uses):
            await generation.Complete(generation_pb2.CompleteRequest(options=options))

    @staticmethod
    async def _delete(channel: grpc.aio.Channel, number: int) -> None:
        sessions: Any = sessions_pb2_grpc.SessionServiceStub(channel)
        await sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(session_id=f"session-{number:07}"))


async def memory(server: Process) -> int:
    """KiB, once they change no more."""
    end = time.monotonic() + SETTLING_SECONDS
    before = server.memory_kib()
    while True:
        await asyncio.sleep(SETTLED_SECONDS)
        now = server.memory_kib()
        if abs(now - before) <= SETTLED_KIB or time.monotonic() > end:
            return now
        before = now


async def fill(server: Process, wanted: Sequence[int], budget: Budget) -> dict[str, dict[str, float]]:
    """Bytes per session at each of the wanted counts that the time reaches; leaves the sessions there."""
    found: dict[str, dict[str, float]] = {}
    sessions = Sessions(server.target)
    try:
        state = await sessions.state_bytes()
        await sessions.make(range(WARM_SESSIONS), WARM_USES)
        warm, there, began = await memory(server), 0, time.monotonic()
        say(f"warm: {warm:,} KiB; a state is {state:,} bytes")
        for count in sorted(wanted):
            more = sessions.make(range(WARM_SESSIONS + there, WARM_SESSIONS + count))
            try:
                await asyncio.wait_for(more, budget.seconds)
            except asyncio.TimeoutError:
                say(f"{count:,} sessions: broken off, the time is over")
                break
            there, now = count, await memory(server)
            each = (now - warm) * 1024 / count
            found[str(count)] = {"bytes_per_session": round(each), "ratio": round(each / state, 3)}
            say(f"{count:,} sessions after {time.monotonic() - began:.0f} s: {now:,} KiB, {found[str(count)]}")
        await sessions.delete(range(WARM_SESSIONS))
    finally:
        await sessions.close()
    return found


def active_ratio(full: Process, empty: Process, repeat: int, budget: Budget) -> tuple[float, int]:
    """Throughput of long streams on the one server in relation to the other, by turns; and how many there were."""
    runs: dict[str, list[float]] = {"full": [], "empty": []}
    for turn in range(repeat):
        if turn and not budget.seconds:
            break
        for name, server in (("empty", empty), ("full", full)):
            found = bench(server.target, workload="long", streams=STREAMS, rounds=ROUNDS)
            runs[name].append(found["chars_per_s"])
            say(f"{name}: {found['chars_per_s']:,} characters/s")
    return round(best(runs["full"], float) / best(runs["empty"], float), 3), len(runs["full"])


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument(
        "--counts", type=counts, default=[1000, 10_000, 100_000], help="of sessions (default: 1000,10000,100000)"
    )
    parser.add_argument("--repeat", type=at_least_one, default=3, help="runs of the streams (default: 3)")
    parser.add_argument("--minutes", type=some_minutes, default=10.0, help="when to stop (default: after 10)")
    arguments = parser.parse_args()
    budget = Budget(arguments.minutes)
    flags = ["--max-sessions", str(max(arguments.counts) + WARM_SESSIONS), "--session-seconds", str(LONGEST)]
    with ExitStack() as stack:
        bundle = write_reference_bundle(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "reference")
        full = stack.enter_context(serving(bundle, *flags))
        found = asyncio.run(fill(full, arguments.counts, budget))
        empty = stack.enter_context(serving(bundle, *flags))
        ratio, turns = active_ratio(full, empty, arguments.repeat, budget)
    table: list[tuple[object, ...]] = [("sessions", "bytes each", "to the state's bytes")]
    table += [(int(count), *each.values()) for count, each in found.items()]
    missing = [count for count in sorted(arguments.counts) if str(count) not in found]
    table += [(f"not reached: {count}", "-", "-") for count in missing]
    figures = {"sessions": found, "active_throughput_ratio": ratio, "active_runs": turns, "not_reached": missing}
    figures |= {"minutes": arguments.minutes, "memory_measure": memory_measure(), "hardware": hardware()}
    finish(figures, table, only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
