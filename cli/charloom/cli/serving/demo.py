"""`charloom demo`: a server in its own process, a completion through the SDK, a clean stop."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from charloom.cli import CommandError
from charloom.cli.connection import connect
from charloom.cli.thread_limit import check_threads, grpc_threads
from charloom.engine.python_process import python_running
from charloom.models import BUNDLED_MODEL

STOP_SECONDS = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("prompt", nargs="?", default="ROMEO:", help="text to go on from (default: ROMEO:)")
    parser.add_argument("--bundle", default=str(BUNDLED_MODEL), help="bundle to serve (default: the bundled model)")
    parser.add_argument(
        "--max-tokens", type=int, default=500, metavar="N", help="characters to generate (default: 500)"
    )
    parser.add_argument("--temperature", type=float, default=0.7, metavar="X", help="0 is greedy (default: 0.7)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the random numbers (default: drawn by the server)")


def run(arguments: argparse.Namespace) -> int:
    """Serve, stream, stop."""
    began = time.monotonic()
    with _server(arguments.bundle) as target, connect(target) as client:
        print(arguments.prompt, end="", flush=True)
        first = 0.0
        with client.generate(
            arguments.prompt, max_tokens=arguments.max_tokens, temperature=arguments.temperature, seed=arguments.seed
        ) as stream:
            for text in stream:
                first = first or time.monotonic() - began
                print(text, end="", flush=True)
            result = stream.result()
        print(flush=True)
        total = result.timings.total
        print(
            f"\n{result.usage.completion_tokens} characters in {total:.3f} s "
            f"({result.usage.completion_tokens / max(total, 1e-9):,.0f} per second, {result.model} on {target}), "
            f"the first {first:.2f} s after the start of the server process; seed {result.seed}",
            file=sys.stderr,
        )
    print("the server has stopped cleanly", file=sys.stderr)
    return 0


@contextmanager
def _server(bundle: str) -> Iterator[str]:
    """A server process on a free port; yields its address."""
    command = [*python_running("charloom.cli.main"), "serve", bundle, "--port", "0", "--log-format", "json"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CHARLOOM_HOST": "127.0.0.1"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline().strip()
        if not line.startswith("listening on "):
            raise CommandError(f"the server did not start: {process.stderr.read().strip()}")
        check_threads(grpc_threads())  # beside those that the server has by now
        yield line.removeprefix("listening on ")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            _, errors = process.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise CommandError(f"the server did not stop within {STOP_SECONDS:g} s and was killed") from None
    if process.returncode != 0:
        raise CommandError(f"the server ended with status {process.returncode}: {errors.strip()}")
