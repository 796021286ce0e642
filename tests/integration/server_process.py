"""A server as a process of its own, started as its users start it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from charloom.v1 import generation_pb2

WITHOUT_TORCH = (
    "import sys; sys.modules['torch'] = None; from charloom.cli.main import main; sys.exit(main(sys.argv[1:]))"
)
"""The command in an interpreter in which torch cannot be imported."""

Start = Callable[..., tuple[subprocess.Popen[str], str]]


@contextmanager
def starting(bundle: Path) -> Iterator[Start]:
    """What starts server processes and returns each with its address; those that still run at the end are killed."""
    processes: list[subprocess.Popen[str]] = []

    def run(*arguments: str, path: Path = bundle, **environment: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-c", WITHOUT_TORCH, "serve", str(path), "--port", "0", *arguments]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            return process, ""
        return process, line.split()[-1]

    try:
        yield run
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def request(**fields: object) -> generation_pb2.GenerateRequest:
    return generation_pb2.GenerateRequest(options=generation_pb2.GenerationOptions(**fields))  # type: ignore[arg-type]
