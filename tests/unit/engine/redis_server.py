"""A real Redis that a test may stop, kill and starve."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest


class RedisServer:
    """Runs in a folder, on a free port, and keeps nothing on disk."""

    def __init__(self, folder: Path, *options: str) -> None:
        program = shutil.which("redis-server")
        if program is None:
            missing = "redis-server is not installed (Debian: apt-get install redis-server)"
            if os.environ.get("CI"):
                pytest.fail(missing)
            pytest.skip(missing)
        self.socket = folder / "redis.sock"
        self._command = [
            *(program, "--bind", "127.0.0.1", "--dir", str(folder), "--unixsocket", str(self.socket)),
            *("--save", "", "--appendonly", "no", "--daemonize", "no", *options),
        ]
        for _ in range(5):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            if self.start():
                return
        pytest.fail("redis-server did not start; has somebody else taken each port?")

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

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, *command: str) -> str:
        """What it answers to one command, as it is on the wire."""
        words = b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in command)
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(b"*%d\r\n%s" % (len(command), words))
            return connection.recv(65536).decode()
