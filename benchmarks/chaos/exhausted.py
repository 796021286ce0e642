"""Attacks while the server's process may have no more descriptors, threads, room on its disk, or memory."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks.chaos.attack import Attack, Did, by_threads
from benchmarks.chaos.http2 import idle_connections
from benchmarks.processes import Process
from charloom.client import CharloomError, Client, RequestError

NOBODY = 65_534
"""A user other than root, for whom alone the system counts threads."""
FEW = 8
"""How many descriptors more than it has the server may open."""
CLIENTS = 8
PATIENCE_SECONDS = 5.0


@contextmanager
def limited(server: Process, what: str, most: int, user: int | None = None) -> Iterator[None]:
    """A limit of the server's process, which is that user's, while the context is open."""
    as_user = [] if user is None else ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"]
    command = [*as_user, "prlimit", "--pid", str(server.pid)]
    asked = subprocess.run(
        [*command, f"--{what}", "--raw", "--noheadings", "-o", "SOFT"], capture_output=True, text=True
    )
    subprocess.run([*command, f"--{what}={most}:"], check=True)
    try:
        yield
    finally:
        subprocess.run([*command, f"--{what}={asked.stdout.strip()}:"], check=True)


@contextmanager
def asking(server: Process, did: Did, act: Callable[[Client], object]) -> Iterator[None]:
    """Clients, each with a connection of its own, that make a call again and again; the answers are counted."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            with Client(server.target, timeout=PATIENCE_SECONDS) as client:
                for _ in range(5):
                    try:
                        act(client)
                        did["answered"] += 1
                    except RequestError as problem:
                        did[problem.reason or type(problem).__name__] += 1
                        over.wait(0.02)
                    except CharloomError as problem:
                        did[type(problem).__name__] += 1
                        over.wait(0.02)

    threads = [threading.Thread(target=run) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def everything(client: Client) -> None:
    """Calls that the server answers in threads of their own, and others."""
    client.inspect("The king")
    client.score("The king")
    client.complete("The ", max_tokens=5)


def keep_sessions(client: Client) -> None:
    """Sessions with long histories, which are kept for a minute."""
    session = client.session(keep=True, time_to_live=60)
    session.complete("The king and the queen " * 50, max_tokens=200)


def ask_for_memory(client: Client) -> None:
    """A call that needs as much as a call may."""
    client.complete("The " * 15_000, max_tokens=4000, logprobs=True, top_logprobs=20)


@contextmanager
def without_descriptors(server: Process, folder: Path, did: Did) -> Iterator[None]:
    """Connections and calls, of which the server can accept a few."""
    used = len([*Path(f"/proc/{server.pid}/fd").iterdir()])
    with (
        limited(server, "nofile", used + FEW),
        by_threads("", idle_connections).under(server, folder, did),
        asking(server, did, everything),
    ):
        yield


@contextmanager
def without_threads(server: Process, _: Path, did: Did) -> Iterator[None]:
    """Calls of many kinds where the server cannot start a thread."""
    used = len([*Path(f"/proc/{server.pid}/task").iterdir()])
    with limited(server, "nproc", used, NOBODY), asking(server, did, everything):
        yield


@contextmanager
def without_disk(server: Process, folder: Path, did: Did) -> Iterator[None]:
    """Sessions on a disk that is full, up to the last byte, and is emptied at the end."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, asking(server, did, keep_sessions):
        for size in (1 << 20, 1 << 10, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
        yield
    filler.unlink()
    time.sleep(1)


def without_memory(server: Process, _: Path, did: Did) -> AbstractContextManager[None]:
    """Calls that need more memory than the server may use."""
    return asking(server, did, ask_for_memory)


ATTACKS: tuple[Attack, ...] = (
    Attack("no descriptors left", without_descriptors),
    Attack("no threads left", without_threads, user=NOBODY),
    Attack("disk full", without_disk, ("--store", "sqlite:{folder}/sessions.db"), settling=5.0),
    Attack("memory used up", without_memory, ("--memory-bytes", str(2**28)), settling=5.0),
)
