"""A real Redis that a test may stop, kill and starve."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.programs import needed


class RedisServer:
    """Runs in a folder, on a free port, and keeps nothing on disk; further options as on its command line."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.socket = folder / "redis.sock"
        self._command = [
            *(needed("redis-server"), "--bind", "127.0.0.1", "--dir", str(folder), "--unixsocket", str(self.socket)),
            *("--save", "", "--appendonly", "no", "--daemonize", "no", *options),
        ]
        self.port = free_port()
        if not self.start():
            pytest.fail("redis-server did not start")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> bool:
        """Whether it runs now; it does not where its port is taken."""
        self._process = subprocess.Popen([*self._command, "--port", str(self.port)], stdout=subprocess.DEVNULL)
        while self._process.poll() is None:
            # Its own socket comes last. (Its port could be answered by somebody else, or by the one who asks.)
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
                asking.connect(str(self.socket))
                return True
            time.sleep(0.01)
        return False

    def told(self, *command: str) -> None:
        """Tell it what it has to agree to."""
        answer = self.ask(*command)
        assert answer == "+OK\r\n", answer

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, *command: str) -> str:
        """What it answers to one command, as it is on the wire."""
        return ask(self.port, *command)


class Sentinel:
    """One that watches a master under the name `charloom`; further settings are lines of its file."""

    def __init__(self, folder: Path, master_port: int, *settings: str) -> None:
        self.port = free_port()
        watch = f"sentinel monitor charloom 127.0.0.1 {master_port} 1"
        file = folder / "sentinel.conf"
        file.write_text("\n".join([f"port {self.port}", "bind 127.0.0.1", f"dir {folder}", *settings, watch, ""]))
        self._process = subprocess.Popen([needed("redis-server"), str(file), "--sentinel"], stdout=subprocess.DEVNULL)
        self._until(lambda: self._master() == master_port)

    def fail_over(self, old: int, new: int) -> None:
        """Make the replica on the port `new` the master, and the master on `old` its replica."""
        self._until(lambda: ask(self.port, "SENTINEL", "FAILOVER", "charloom") == "+OK\r\n")
        self._until(lambda: self._master() == new)
        self._until(lambda: "role:slave" in ask(old, "INFO", "replication"))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _master(self) -> int:
        answer = ask(self.port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "charloom").split()
        return int(answer[-1])

    def _until(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if reached():
                    return
            assert self._process.poll() is None
            time.sleep(0.05)
        pytest.fail("the sentinel does not do what it was asked to")


def ask(port: int, *command: str) -> str:
    """What a Redis answers to one command, as it is on the wire."""
    words = b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in command)
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.sendall(b"*%d\r\n%s" % (len(command), words))
        return connection.recv(65536).decode()
