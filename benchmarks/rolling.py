"""A rolling update, and back: are sessions, streams and sealed tokens of each version good for the other?

    python -m benchmarks.rolling --before PYTHON [--streams 8] [--seconds 4] [--json]

PYTHON is the interpreter of an environment in which the version before is installed, such as that of
`git worktree add OLD COMMIT; python -m venv ENV; ENV/bin/pip install 'OLD[server]'`. Redis, two replicas of that
version and HAProxy are started. While clients stream one text after the other into sessions, each replica is replaced
by one of this version, and then each by one of the version before again. Each text is compared with the uninterrupted
one. While both serve, a session and a sealed token of one go on in the other ("passed_on"). The last line is one JSON
object. The command fails where a text differs, a session is missing at the end, or what is passed on does not go on.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cluster import ScaleOut
from benchmarks.failover import Counts, compared, stream
from benchmarks.processes import Process, hardware
from benchmarks.reporting import at_least_one, finish, new_parser, say
from charloom.client import AsyncClient, Client
from charloom.models import BUNDLED_MODEL

LATER_FLAGS = {"--trust-proxy": 2, "--no-encrypt-records": 1}
"""Those that 0.1 does not know, and of how many words they are."""
LENGTH = 1000


def before(python: str, command: Sequence[str]) -> list[str]:
    """The command of a replica, as one of the version before."""
    words = [python, *command[1:]]
    for flag, count in LATER_FLAGS.items():
        at = words.index(flag)
        del words[at : at + count]
    return words


def passed_on(one: Process, other: Process) -> bool:
    """Whether a token of one replica and a session of it go on in the other one as they would have in it."""
    with Client(one.target) as client, Client(other.target) as there:
        session = client.session(seed=3, keep=True)
        session.complete("The ", max_tokens=50)
        token = session.export().state
        read = there.open_session(session.info.id).complete(max_tokens=50).text
        expected = client.complete(state=token, max_tokens=50).text
        return there.complete(state=token, max_tokens=50).text == expected == read


async def updated(cluster: ScaleOut, python: str, streams: int, seconds: int) -> dict[str, Any]:
    """The load, the update and the way back, the comparison."""
    this = [cluster.command(index) for index in (0, 1)]
    older = [before(python, command) for command in this]
    for index in (0, 1):
        await asyncio.to_thread(cluster.restart, index, older[index])
    counts, over, seeds = Counts(), asyncio.Event(), iter(range(10**9))
    mixed: dict[str, bool] = {}
    async with AsyncClient(cluster.address, timeout=None) as client:
        clients = [asyncio.create_task(stream(client, seeds, LENGTH, over, counts)) for _ in range(streams)]
        for step, commands, index in (("update", this, 0), ("update", this, 1), ("back", older, 0), ("back", older, 1)):
            await asyncio.sleep(seconds)
            await asyncio.to_thread(cluster.restart, index, commands[index])
            say(f"{step}: replica {index} is replaced, {len(counts.texts)} texts so far")
            if index == 0:
                new, old = cluster.replicas if step == "update" else cluster.replicas[::-1]
                mixed[f"{step}, from before"] = await asyncio.to_thread(passed_on, old, new)
                mixed[f"{step}, to before"] = await asyncio.to_thread(passed_on, new, old)
        await asyncio.sleep(seconds)
        over.set()
        await asyncio.gather(*clients)
        there = {session.id async for session in client.sessions()}
        missing = sum(f"seed-{seed}" not in there for seed in counts.texts)
        differences = await compared(client, counts, LENGTH)
    return {
        "hardware": hardware(),
        "replacements": 4,
        "texts": len(counts.texts),
        "resumptions": counts.resumptions,
        **differences,
        "sessions_missing": missing,
        "passed_on": mixed,
    }


def main() -> int:
    """Update, go back, print."""
    parser = new_parser(__doc__)
    parser.add_argument("--before", required=True, metavar="PYTHON", help="of an environment with the version before")
    parser.add_argument("--streams", type=at_least_one, default=8, help="clients at a time (default: 8)")
    parser.add_argument("--seconds", type=at_least_one, default=4, help="before each replacement (default: 4)")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        ScaleOut(BUNDLED_MODEL, Path(folder), flags=("--no-encrypt-records",)) as cluster,
    ):
        found = asyncio.run(updated(cluster, arguments.before, arguments.streams, arguments.seconds))
    names = ("texts", "resumptions", "lost", "repeated", "different", "sessions_missing")
    table = [(*names, "passed on"), (*(found[name] for name in names), str(all(found["passed_on"].values())))]
    finish(found, table, only_json=arguments.json)
    return int(bool(found["different"] or found["sessions_missing"]) or not all(found["passed_on"].values()))


if __name__ == "__main__":
    sys.exit(main())
