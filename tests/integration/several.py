"""A real server of two processes, and clients of each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import grpc

from charloom.client import Client
from charloom.v1 import models_pb2, models_pb2_grpc

T = TypeVar("T")
COMMAND = ("-m", "charloom.cli.main")
OWN_CONNECTION = {"grpc.use_local_subchannel_pool": 1}
"""Clients of one process share a connection otherwise."""


class Processes:
    """A running server of two processes.

    Args:
        path: of the bundle
        folder: for its log and its sessions
        options: of the command
        parent: what Python is to run instead of the command, for another parent
    """

    def __init__(self, path: Path, folder: Path, *options: str, parent: Sequence[str] = COMMAND) -> None:
        self._log = folder / "log"
        command = [sys.executable, *parent, "serve", str(path), "--port", "0", "--processes", "2"]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--store", f"sqlite:{folder / 'sessions.db'}", *options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log
        self.address = line.split()[-1]

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def children(self) -> list[int]:
        """Their process ids."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def connections(self, child: int) -> int:
        """How many connections of clients a child has."""
        port = f":{int(self.address.rpartition(':')[2]):04X}"
        established = {
            f"socket:[{fields[9]}]"
            for table in ("tcp", "tcp6")
            for fields in map(str.split, Path(f"/proc/{child}/net/{table}").read_text().splitlines()[1:])
            if fields[1].endswith(port) and fields[3] == "01"
        }
        return sum(link in established for link in map(_link, Path(f"/proc/{child}/fd").iterdir()))

    def each(self, opened: Callable[[], T], used: Callable[[T], object]) -> dict[int, T]:
        """Something with a connection to each child, by its process id; the system chooses, so some are in vain."""
        found: dict[int, T] = {}
        while len(found) < len(self.children):
            before = {child: self.connections(child) for child in self.children}
            one = opened()
            used(one)
            found |= {child: one for child in before if self.connections(child) > before[child]}
        return found

    @contextmanager
    def clients(self, **options: Any) -> Iterator[dict[int, Client]]:
        """A client of each child."""
        with ExitStack() as stack:
            client = partial(Client, self.address, channel_options=OWN_CONNECTION, **options)
            yield self.each(lambda: stack.enter_context(client()), lambda client: client.models())

    @contextmanager
    def channels(self) -> Iterator[list[grpc.Channel]]:
        """A channel to each child."""
        with ExitStack() as stack:
            channel = partial(grpc.insecure_channel, self.address, list(OWN_CONNECTION.items()))
            found = self.each(
                lambda: stack.enter_context(channel()),
                lambda channel: models_pb2_grpc.ModelServiceStub(channel).ListModels(
                    models_pb2.ListModelsRequest(), timeout=60
                ),
            )
            yield list(found.values())

    def stop(self) -> int:
        """The exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=120)


def _link(file: Path) -> str:
    try:
        return os.readlink(file)
    except FileNotFoundError:  # it was closed meanwhile
        return ""


@contextmanager
def serving(path: Path, folder: Path, *options: str, parent: Sequence[str] = COMMAND) -> Iterator[Processes]:
    server = Processes(path, folder, *options, parent=parent)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()  # its children see that it is gone, and end
