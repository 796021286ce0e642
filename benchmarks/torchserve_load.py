"""Short calls of sessions to TorchServe over HTTP, in one event loop; what `charloom bench --workload short` is for us.

    python -m benchmarks.torchserve_load HOST:PORT --models NAME[,NAME ...] [--clients 64] [--rounds 3] [--json]

A session's calls all go to one of the models, which has its state. Connections are read with asyncio alone, which
costs less than a client library does. The last line is one JSON object, of the figures of `charloom bench`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.http_load import HttpConnection
from benchmarks.reporting import at_least_one, finish, new_parser
from charloom.cli.serving.load import SHORT_CALLS, SHORT_LENGTH, SHORT_PROMPT, Seen, Span, prompt_text, summary


class Connection(HttpConnection):
    """A connection that is kept for one call after another."""

    async def call(self, model: str, session: str) -> Seen:
        """One short call.

        Raises:
            RuntimeError: it was refused, or did not give all characters.
        """
        seen = Seen(time.perf_counter())
        body = json.dumps({"session": session, "prompt": prompt_text(SHORT_PROMPT), "length": SHORT_LENGTH}).encode()
        await self.post(f"/predictions/{model}", body)
        await self._reader.readuntil(b"\r\n\r\n")
        while size := int(await self._reader.readline(), 16):
            chunk = await self._reader.readexactly(size + 2)
            seen.times.append(time.perf_counter())
            seen.messages += 1
            seen.characters += len(chunk) - 2
        await self._reader.readline()
        if seen.characters != SHORT_LENGTH:
            raise RuntimeError(f"{seen.characters} characters instead of {SHORT_LENGTH}")
        return seen


async def run_load(target: str, models: Sequence[str], clients: int, rounds: int) -> dict[str, Any]:
    """All clients at once, each with its sessions one after the other, after one session each that does not count."""
    connections = await asyncio.gather(*(Connection.to(target) for _ in range(clients)))

    async def session(number: int, turn: object) -> list[Seen]:
        name = f"{os.getpid()}-{number}-{turn}"
        return [await connections[number].call(models[number % len(models)], name) for _ in range(SHORT_CALLS)]

    async def client(number: int) -> list[Seen]:
        return [seen for turn in range(rounds) for seen in await session(number, turn)]

    await asyncio.gather(*(session(number, "warm-up") for number in range(clients)))
    span = Span()
    found = await asyncio.gather(*(client(number) for number in range(clients)))
    figures = summary([seen for calls in found for seen in calls], span.end())
    for connection in connections:
        connection.close()
    return figures


def main() -> int:
    """Do it and print its figures."""
    parser = new_parser(__doc__)
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument("--models", type=lambda text: text.split(","), required=True, help="that share the sessions")
    parser.add_argument("--clients", type=at_least_one, default=64, help="sessions at a time (default: 64)")
    parser.add_argument("--rounds", type=at_least_one, default=3, help="sessions of each, one by one (default: 3)")
    arguments = parser.parse_args()
    found = asyncio.run(run_load(arguments.target, arguments.models, arguments.clients, arguments.rounds))
    finish(found, list(found.items()), only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
