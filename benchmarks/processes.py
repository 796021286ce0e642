"""Processes to measure, and the machine that they run on."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ending import ends_on_sigterm
from charloom.server.processor import processor

CHARLOOM = ("-m", "charloom.cli.main")
"""The command, as the words after a Python."""
HOST = "127.0.0.1"
PORTS = range(20_000, 32_768)
"""Where free ports are looked for. Higher ones are given to outgoing connections: a server that is started later, or
once more, could find its own in use."""
STOPPING_SECONDS = 30.0
"""How long a server may take to end before it is killed."""
SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class Process:
    """A server process."""

    target: str
    """Its address."""
    pid: int

    def pids(self) -> list[int]:
        """It and its children: a server may have several processes. None once it has ended and was waited for."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except FileNotFoundError:
            return []
        return [self.pid, *map(int, children)]

    def cpu_seconds(self) -> float:
        """Time on processors so far, all threads of all its processes."""
        return sum(_cpu_seconds(Path(f"/proc/{pid}/stat")) for pid in self.pids())

    def loop_cpu_seconds(self) -> float:
        """That of their first threads, which run event loops. Names of threads are not to be seen from outside."""
        return sum(_cpu_seconds(Path(f"/proc/{pid}/task/{pid}/stat")) for pid in self.pids())

    def memory_kib(self) -> int:
        """Resident memory of all its processes, by `memory_measure`; those that have ended have none."""
        return sum(map(_memory_kib, self.pids()))

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return Path(f"/proc/{self.pid}/stat").exists() and _fields(Path(f"/proc/{self.pid}/stat"))[0] != "Z"


class CpuMeter:
    """Watches the CPU time of a server while the context is open.

    A load begins with a warm-up that is not to be counted, so that the difference over the context would say too much.
    """

    def __init__(self, server: Process) -> None:
        self._server = server
        self._samples: list[tuple[float, float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> CpuMeter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def shares(self, began: float, seconds: float) -> tuple[float, float]:
        """Cores that the server used from `began` on (seconds since the epoch): all its threads, and its event loop."""
        times, whole, loop = np.array(self._samples).T
        ends = [began, began + seconds]
        used = [float(np.diff(np.interp(ends, times, cpu))[0]) for cpu in (whole, loop)]
        return round(used[0] / seconds, 2), round(used[1] / seconds, 2)

    def _run(self) -> None:
        while True:
            self._samples.append((time.time(), self._server.cpu_seconds(), self._server.loop_cpu_seconds()))
            if self._stop.wait(SAMPLE_SECONDS):
                return


@contextmanager
def running(*command: str, python: str = sys.executable) -> Iterator[Process]:
    """Run a Python command that prints its address as the last word of its first line. It ends with this program.

    Args:
        command: the words after the interpreter
        python: the interpreter; that of another environment runs what is installed there

    Raises:
        RuntimeError: it ended without an address; the message has what it said.
    """
    with ends_on_sigterm(), tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([python, *command], stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                process.wait()
                errors.seek(0)
                raise RuntimeError(f"{' '.join(command)} did not start: {errors.read().strip()[-2000:]}")
            yield Process(line.split()[-1], process.pid)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=STOPPING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


@contextmanager
def serving(bundle: Path, *flags: str, python: str = sys.executable) -> Iterator[Process]:
    """Run `charloom serve` with a bundle on a free port; `python` as of `running`."""
    with running(*CHARLOOM, "serve", str(bundle), "--port", "0", *flags, python=python) as server:
        yield server


def new_key(file: Path, tenant: str, scopes: str) -> str:
    """A key, made by the command; the file need not be there."""
    command = [sys.executable, *CHARLOOM, "keys", "create", "--file", str(file)]
    done = subprocess.run(
        [*command, "--tenant", tenant, "--scopes", scopes], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def bench(target: str, *, within: float | None = None, **flags: object) -> dict[str, Any]:
    """The figures of `charloom bench`, in a process of its own.

    Args:
        target: the server
        within: seconds that it may take
        flags: `prompt=32` is the flag `--prompt 32`, `shared_stream=True` is `--shared-stream`

    Raises:
        RuntimeError: the command failed; the message has what it said.
        TimeoutError: it was ended because it took longer than `within` seconds.
    """
    words: list[str] = []
    for name, value in flags.items():
        words += [f"--{name.replace('_', '-')}"] if value is True else [f"--{name}", str(value)]
    return output_of(*CHARLOOM, "bench", "--target", target, "--json", *words, within=within)


def output_of(*command: str, within: float | None = None, python: str = sys.executable) -> dict[str, Any]:
    """The last line that a Python command prints, a JSON object; `python` as of `running`.

    Raises:
        RuntimeError: the command failed; the message has what it said.
        TimeoutError: it was ended because it took longer than `within` seconds.
    """
    try:
        done = subprocess.run([python, *command], capture_output=True, text=True, check=False, timeout=within)
    except subprocess.TimeoutExpired as problem:
        raise TimeoutError(f"{' '.join(command)} took longer than {within:.1f} s") from problem
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def free_ports(count: int) -> list[int]:
    """Different ports on which nobody listens."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        if len(found) == count:
            break
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        found.append(port)
    return found


def status_kib(pid: int, name: str) -> int:
    """Resident memory of one process: VmRSS as it is, VmHWM at most.

    Raises:
        OSError: there is no such process.
        KeyError: it has ended, and has no memory.
    """
    return _kib(Path(f"/proc/{pid}/status").read_text(), name)


def memory_measure() -> str:
    """What `memory_kib` is the sum of: PSS, where pages that are shared count in part, or RSS where nobody tells it."""
    return "PSS" if Path("/proc/self/smaps_rollup").exists() else "RSS"


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def hardware() -> str:
    """Processor, cores and vector instructions of this machine: what a figure depends on most."""
    found = processor()
    return ", ".join(
        part
        for part in (found.name or found.architecture, f"{cores()} cores", " ".join(found.vector_instructions))
        if part
    )


def _fields(stat: Path) -> list[str]:
    """The fields of a stat file from the third on: the second is a name that may hold anything."""
    return stat.read_text().rpartition(")")[2].split()


def _cpu_seconds(stat: Path) -> float:
    fields = _fields(stat)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_kib(pid: int) -> int:
    """0 of a process that has ended: until it is waited for, its files are there and tell nothing of memory."""
    try:
        if memory_measure() == "PSS":
            return _kib(Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss")
        return status_kib(pid, "VmRSS")
    except (OSError, KeyError):
        return 0


def _kib(text: str, name: str) -> int:
    lines = {key: value for key, _, value in (line.partition(":") for line in text.splitlines())}
    return int(lines[name].split()[0])
