"""The short calls of `charloom bench` made on an engine in its own process: sessions, calls, loom, and no gRPC.

    python -m benchmarks.engine_calls BUNDLE [--clients 64] [--rounds 3] [--json]

The engine and its clients are on one event loop. The last line is one JSON object, of the figures of `charloom bench
--workload short`; "loop_cpu" is the event loop's thread and "server_cpu" the process, in cores.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import cores
from benchmarks.reporting import at_least_one, finish, new_parser
from charloom.bundle import DecoderKind, read_bundle
from charloom.cli.serving.load import SHORT_CALLS, SHORT_LENGTH, SHORT_PROMPT, Seen, Span, prompt_text, summary
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.engine.engine import Engine
from charloom.engine.limits import Limits


async def measure(path: Path, clients: int, rounds: int) -> dict[str, Any]:
    """The figures of one run, after a warm-up."""
    bundle = read_bundle(path)
    decoder = open_decoder(bundle, kind=DecoderKind.ONNX_INT8)
    engine = Engine([(bundle, decoder)], Limits(workers=cores()))
    try:
        await asyncio.gather(*(short_session(engine, number) for number in range(min(4, clients))))
        span, thread = Span(), time.thread_time()
        found = await asyncio.gather(*(client(engine, number, clients, rounds) for number in range(clients)))
        thread, span = time.thread_time() - thread, span.end()
        figures = summary([seen for calls in found for seen in calls], span)
    finally:
        await engine.drain(0)
    figures["server_cpu"] = figures.pop("client_cpu")
    return figures | {"server_loop_cpu": round(thread / span.seconds, 3)}


async def client(engine: Engine, number: int, clients: int, rounds: int) -> list[Seen]:
    """The sessions of one client, one after the other."""
    found: list[Seen] = []
    for turn in range(rounds):
        found += await short_session(engine, number + turn * clients)
    return found


async def short_session(engine: Engine, number: int) -> list[Seen]:
    """A session and its calls, as `charloom bench --workload short` makes them."""
    session = await engine.sessions.create(seed=number)
    request = GenerationRequest(
        session_id=session.id, prompt=prompt_text(SHORT_PROMPT), skip_unknown=True, max_tokens=SHORT_LENGTH
    )
    calls = []
    for _ in range(SHORT_CALLS):
        calls.append(seen := Seen(time.perf_counter()))
        async for delta in await engine.generating.generate(request):
            seen.messages += 1
            seen.times.append(time.perf_counter())
            seen.characters += len(delta.text)
    return calls


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("bundle", type=Path, help="directory of the model")
    parser.add_argument("--clients", type=at_least_one, default=64, help="sessions at a time (default: 64)")
    parser.add_argument("--rounds", type=at_least_one, default=3, help="sessions of each client (default: 3)")
    arguments = parser.parse_args()
    found = asyncio.run(measure(arguments.bundle, arguments.clients, arguments.rounds))
    finish(found, list(found.items()), only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
