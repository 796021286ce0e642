"""Replicas of one server on this machine: `charloom serve` several times, Redis for sessions, HAProxy in front."""

from __future__ import annotations

import base64
import csv
import os
import shutil
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.ending import ends_on_sigterm
from benchmarks.processes import CHARLOOM, HOST, STOPPING_SECONDS, Process, free_ports

TEMPLATE = Path(__file__).resolve().parent.parent / "deploy" / "haproxy.cfg.template"
PROGRAMS = ("redis-server", "haproxy")
STARTING_SECONDS = 60.0
POLL_SECONDS = 0.02


class MissingProgram(RuntimeError):
    """A program has to be installed first."""


class ScaleOut:
    """Replicas behind one address: a context manager, or `start` and `stop`.

    Args:
        bundle: the bundle that all serve
        folder: where the logs go, a file for each process, and the proxy's configuration; made if it is not there
        replicas: how many
        port: of the address; 0 takes a free one
        flags: further flags of `charloom serve`
        store: URL of a session store that is there already; without one, a Redis is started, and ends with the rest

    Raises:
        MissingProgram: one of `PROGRAMS` is needed and not there.
    """

    def __init__(
        self,
        bundle: Path,
        folder: Path,
        *,
        replicas: int = 2,
        port: int = 0,
        flags: Sequence[str] = (),
        store: str | None = None,
    ) -> None:
        self._paths = {name: find_program(name) for name in PROGRAMS if store is None or name == "haproxy"}
        self._folder, self._store = folder, store
        own, self._redis_port, *ports = free_ports(replicas + 2)
        self.address = f"{HOST}:{port or own}"
        """Where clients connect."""
        self._targets = [f"{HOST}:{port}" for port in ports]
        own_flags = ("--host", HOST, "--trust-proxy", HOST)
        self._serve = [sys.executable, *CHARLOOM, "serve", str(bundle), *own_flags, *flags]
        self._private: tempfile.TemporaryDirectory[str] | None = None
        self._redis: _Program | None = None
        self._proxy: _Program | None = None
        self._replicas: list[_Program] = []

    def __enter__(self) -> ScaleOut:
        with ExitStack() as stack:
            stack.enter_context(ends_on_sigterm())
            self.start()
            stack.callback(self.stop)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def replicas(self) -> list[Process]:
        """The replicas' own addresses and processes, by index. Some may have ended."""
        return [Process(target, program.pid) for target, program in zip(self._targets, self._replicas, strict=True)]

    def start(self) -> None:
        """Start everything; returns when the proxy has seen all replicas serve.

        Raises:
            RuntimeError: a program ended, or was not ready in time; the message has what it said.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._private = tempfile.TemporaryDirectory(prefix="charloom-", ignore_cleanup_errors=True)
        try:
            keys = self._own("sealing-keys")
            keys.touch(mode=0o600)
            keys.write_bytes(base64.b64encode(os.urandom(32)) + b"\n")
            common = [*self._serve, "--store", self._store or self._start_redis(), "--sealing-keys", str(keys)]
            for index, target in enumerate(self._targets):
                command = [*common, "--port", target.rpartition(":")[2]]
                self._replicas.append(_Program(command, self._folder / f"replica-{index}.log"))
            for program in self._replicas:
                program.wait_until_listening()
            self._start_proxy()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End everything: the replicas within their grace time, then the proxy, then Redis."""
        for program in self._replicas:
            program.ask_to_stop()
        for program in self._replicas:
            program.end()
        for last in (self._proxy, self._redis):
            if last is not None:
                last.end()
        self._replicas.clear()
        self._proxy = self._redis = None
        if self._private is not None:
            self._private.cleanup()

    def kill(self, index: int) -> None:
        """End a replica at once, as a crash would."""
        self._replicas[index].kill()

    def terminate(self, index: int) -> None:
        """Ask a replica to stop in order. It ends when its calls have, or when its grace time is over."""
        self._replicas[index].ask_to_stop()

    def command(self, index: int) -> Sequence[str]:
        """What starts a replica."""
        return self._replicas[index].command

    def restart(self, index: int, command: Sequence[str] | None = None) -> None:
        """Start a replica again, after its end in order; returns when the proxy has seen it serve.

        Args:
            index: of the replica
            command: what is to start it from now on, in place of what did before

        Raises:
            RuntimeError: it ended, or was not ready in time; the message has what it said.
        """
        assert self._proxy is not None
        self._replicas[index].end()
        self._replicas[index].command = command or self._replicas[index].command
        self._replicas[index].start()
        self._replicas[index].wait_until_listening()
        self._proxy.wait_until(lambda: self.serving()[index])

    def serving(self) -> list[bool]:
        """Which replicas are given calls: what the proxy's health checks found last."""
        try:
            found = self._seen_by_proxy("spread")
        except OSError:  # there is no proxy, or not yet
            return [False] * len(self._targets)
        return [row["status"].startswith("UP") and row["check_status"] == "L7OK" for row in found]

    def calls(self) -> list[int]:
        """How many calls the proxy has given to each replica so far."""
        rows = zip(self._seen_by_proxy("spread"), self._seen_by_proxy("sticky"), strict=True)
        return [sum(int(row["stot"]) for row in pair) for pair in rows]

    def require_running(self) -> None:
        """See to it that Redis and the proxy are there.

        Raises:
            RuntimeError: one of them has ended; the message has what it said.
        """
        for program in (self._redis, self._proxy):
            if program is not None:
                program.require_running()

    def _seen_by_proxy(self, backend: str) -> list[dict[str, str]]:
        """The proxy's statistics of each replica."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._own("proxy")))
            connection.sendall(b"show stat\n")
            with connection.makefile() as answer:
                rows = {(row["# pxname"], row["svname"]): row for row in csv.DictReader(answer)}
        return [rows[backend, f"replica-{index}"] for index in range(len(self._targets))]

    def _own(self, name: str) -> Path:
        """A file that nobody else is to read."""
        assert self._private is not None
        return Path(self._private.name, name)

    def _start_redis(self) -> str:
        """A Redis that keeps nothing on disk; returns its URL."""
        where = ["--bind", HOST, "--port", str(self._redis_port), "--dir", str(self._own("."))]
        command = [self._paths["redis-server"], *where, "--save", "", "--appendonly", "no"]
        self._redis = _Program(command, self._folder / "redis.log")
        self._redis.wait_until(lambda: answers_ping(self._redis_port))
        return f"redis://{HOST}:{self._redis_port}/0"

    def _start_proxy(self) -> None:
        servers = [f"    server replica-{index} {target}" for index, target in enumerate(self._targets)]
        values = {
            "bind": self.address,
            "stats": str(self._own("proxy")),
            "servers": "\n".join(servers),
            "sticky_servers": "\n".join(f"{line} track spread/{line.split()[1]}" for line in servers),
        }
        config = self._folder / "haproxy.cfg"
        config.write_text(string.Template(TEMPLATE.read_text("utf-8")).substitute(values), "utf-8")
        self._proxy = _Program([self._paths["haproxy"], "-db", "-f", str(config)], self._folder / "haproxy.log")
        self._proxy.wait_until(lambda: all(self.serving()))


class _Program:
    """A child process, started. What it says goes to a file."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command = command
        """What `start` runs."""
        self._log = log
        self.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        self._asked = False
        with self._log.open("ab") as log:
            self._began = log.tell()
            # Ctrl-C in a terminal reaches its whole group. This one is ended in its turn, by whoever started it.
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait for what this program is to bring about."""
        end = time.monotonic() + STARTING_SECONDS
        while not ready():
            self.require_running()
            if time.monotonic() > end:
                raise RuntimeError(f"{self._log.stem} is not ready after {STARTING_SECONDS:g} s. {self._last_words()}")
            time.sleep(POLL_SECONDS)

    def wait_until_listening(self) -> None:
        """Wait for the line with which `charloom serve` tells its address."""
        self.wait_until(lambda: "listening on " in self._said())

    def require_running(self) -> None:
        if self._process.poll() is not None:
            raise RuntimeError(f"{self._log.stem} has ended. {self._last_words()}")

    def ask_to_stop(self) -> None:
        """Once: a server takes a second signal as the wish to end at once."""
        if not self._asked:
            self._asked = True
            self._process.terminate()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        self.ask_to_stop()
        try:
            self._process.wait(STOPPING_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def _said(self) -> str:
        """Since the last start."""
        with self._log.open("rb") as log:
            log.seek(self._began)
            return log.read().decode(errors="replace")

    def _last_words(self) -> str:
        return f"Its last words, from {self._log}:\n{self._said().strip()[-2000:]}"


def find_program(name: str) -> str:
    """The path of a program.

    Raises:
        MissingProgram: it is not installed.
    """
    # Debian puts servers where only root's PATH looks.
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
    if path is None:
        raise MissingProgram(f"{name} is not there: install the Debian packages {' and '.join(PROGRAMS)}")
    return path


def answers_ping(port: int) -> bool:
    """Whether a Redis is there."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
