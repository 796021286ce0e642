"""Long streams over HTTP, in one event loop; what `charloom bench` is for gRPC.

    python -m benchmarks.http_load HOST:PORT [--streams 64] [--rounds 8] [--length 1000] [--json]

It reads connections with asyncio alone and each event with `json`, which costs less than a client library does. The
last line is one JSON object: "chars_per_s", "events", "seconds", and "client_cpu" in cores.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

from benchmarks.reporting import at_least_one, finish, new_parser
from charloom.cli.serving.load import Span

if TYPE_CHECKING:
    from typing_extensions import Self


class HttpConnection:
    """A connection that is kept for one request after another."""

    def __init__(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._target = target
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, target: str) -> Self:
        """Connect."""
        host, _, port = target.rpartition(":")
        return cls(target, *await asyncio.open_connection(host.strip("[]"), int(port)))

    async def post(self, path: str, body: bytes) -> None:
        """Send JSON; the headers of the answer are next to be read.

        Raises:
            RuntimeError: it was refused.
        """
        head = f"POST {path} HTTP/1.1\r\nHost: {self._target}\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        status = await self._reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"refused: {status.decode()}")

    def close(self) -> None:
        """It is not used any more."""
        self._writer.close()


class Connection(HttpConnection):
    """A connection that is kept for one stream after another."""

    async def stream(self, length: int, seed: int) -> tuple[int, int]:
        """Read a stream; returns its characters and its events.

        Raises:
            RuntimeError: it was refused, or broke off.
        """
        await self.post("/v1/completions", json.dumps({"max_tokens": length, "seed": seed, "stream": True}).encode())
        characters = events = 0
        while (line := await self._reader.readline()) != b"0\r\n":  # the chunk after the last one
            if not line:
                raise RuntimeError("the stream broke off")
            if line.startswith(b"data: {"):
                (choice,) = json.loads(line[6:])["choices"]
                characters += len(choice["text"])
                events += 1
        await self._reader.readline()
        return characters, events


async def run_load(target: str, streams: int, rounds: int, length: int) -> dict[str, float]:
    """All clients at once, each with its rounds one after the other, after a warm-up that does not count."""
    connections = await asyncio.gather(*(Connection.to(target) for _ in range(streams)))
    await asyncio.gather(*(connection.stream(length, 0) for connection in connections[:4]))

    async def client(number: int) -> list[tuple[int, int]]:
        return [await connections[number].stream(length, number + turn * streams) for turn in range(rounds)]

    span = Span()
    found = [one for calls in await asyncio.gather(*(client(number) for number in range(streams))) for one in calls]
    span.end()
    for connection in connections:
        connection.close()
    return {
        "chars_per_s": round(sum(characters for characters, _ in found) / span.seconds),
        "events": sum(events for _, events in found),
        "seconds": round(span.seconds, 2),
        "began": span.began,
        "client_cpu": round(span.cpu / span.seconds, 2),
    }


def main() -> int:
    """Do it and print its figures."""
    parser = new_parser(__doc__)
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument("--streams", type=at_least_one, default=64, help="clients at a time (default: 64)")
    parser.add_argument("--rounds", type=at_least_one, default=8, help="streams of each, one by one (default: 8)")
    parser.add_argument("--length", type=at_least_one, default=1000, help="characters of a stream (default: 1000)")
    arguments = parser.parse_args()
    found = asyncio.run(run_load(arguments.target, arguments.streams, arguments.rounds, arguments.length))
    finish(found, [tuple(found), tuple(found.values())], only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
