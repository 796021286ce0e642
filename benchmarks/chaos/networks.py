"""Attacks by a bad network: clients in a network namespace of their own, and between them and the server one wire.

The wire is two TUN devices and a process that carries packets from one to the other: late, not all of them, or, from
some moment on, none. (Not all kernels have a queueing discipline for that.) Needs root, and `ip` of iproute2.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import itertools
import json
import os
import random
import selectors
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.chaos.attack import Attack, Did
from benchmarks.processes import CHARLOOM, Process

NEAR, FAR, BITS = "10.199.0.1", "10.199.0.2", 30
CLIENTS = 8
LATE_SECONDS, LOST = 0.1, 0.02
BEFORE_IT_BREAKS_SECONDS = 1.5
KEEPALIVE = ("--keepalive-seconds", "1", "--keepalive-timeout-seconds", "1")
_NEWNET, _NEWNS = 0x4000_0000, 0x0002_0000
_TUNSETIFF, _TUN_WITHOUT_HEADER = 0x4004_54CA, 0x1001


def enter_own_namespaces() -> bool:
    """Move this process, before it has threads, to a network and mounts of its own; False where it may not."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEWNET | _NEWNS):
        return False
    run("ip", "link", "set", "lo", "up")
    run("mount", "--make-rprivate", "/")
    return True


def run(*command: str) -> None:
    """Run a command that has to succeed."""
    subprocess.run(command, check=True, capture_output=True)


def tun(name: str, address: str) -> int:
    """A TUN device in this process's network; returns its descriptor."""
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TUN_WITHOUT_HEADER))
    run("ip", "address", "add", f"{address}/{BITS}", "dev", name)
    run("ip", "link", "set", name, "up")
    return device


def carry(near: int, far: int, late: float, lost: float) -> dict[str, int]:
    """Carry packets until standard input ends; a line on it ends all carrying and nothing else."""
    chance, order = random.Random(0), itertools.count()
    waiting: list[tuple[float, int, int, bytes]] = []
    found = {"packets": 0, "packets lost": 0}
    with selectors.DefaultSelector() as ready:
        for one, other in ((near, far), (far, near)):
            ready.register(one, selectors.EVENT_READ, other)
        ready.register(sys.stdin.fileno(), selectors.EVENT_READ, None)
        while True:
            pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            for key, _ in ready.select(pause):
                if key.data is None:
                    if not os.read(key.fd, 100):
                        return found
                    lost = 1.0
                    continue
                packet = os.read(key.fd, 2048)
                found["packets"] += 1
                if chance.random() < lost:
                    found["packets lost"] += 1
                else:
                    heapq.heappush(waiting, (time.monotonic() + late, next(order), key.data, packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(waiting)
                os.write(end, packet)


def far_side(near: int, port: str, late: float, lost: float) -> None:
    """The far end of the wire, and clients at it."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEWNET):
        raise OSError(ctypes.get_errno(), "no network of its own")
    run("ip", "link", "set", "lo", "up")
    far = tun("far", FAR)
    command = [sys.executable, *CHARLOOM, "bench", "--target", f"{NEAR}:{port}"]
    flags = ["--streams", str(CLIENTS), "--rounds", "1000", "--json"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen([*command, *flags], stdin=quiet, stdout=quiet, stderr=quiet) as clients:
        print("ready", flush=True)
        found = carry(near, far, late, lost)
        clients.kill()
    print(json.dumps(found))


@contextmanager
def wire(server: Process, did: Did, late: float, lost: float, *, breaks: bool) -> Iterator[None]:
    """Clients at the other end of a wire, while the context is open."""
    near = tun("near", NEAR)
    arguments = [str(near), server.target.rpartition(":")[2], str(late), str(lost)]
    command = [sys.executable, "-m", "benchmarks.chaos.networks", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, pass_fds=[near]) as far:
        os.close(near)
        assert far.stdin is not None
        assert far.stdout is not None
        if far.stdout.readline() != "ready\n":
            raise RuntimeError("the far end of the wire has ended")
        time.sleep(BEFORE_IT_BREAKS_SECONDS)
        if breaks:
            far.stdin.write("\n")
            far.stdin.flush()
        yield
        said, _ = far.communicate()
        did.update(json.loads(said))


def attack(name: str, *, late: float = 0.0, lost: float = 0.0, breaks: bool = False) -> Attack:
    """Clients that generate over such a wire."""

    def under(server: Process, _: Path, did: Did) -> Iterator[None]:
        with wire(server, did, late, lost, breaks=breaks):
            yield

    return Attack(name, contextmanager(under), ("--host", "0.0.0.0", "--insecure", *KEEPALIVE), settling=4.0)


ATTACKS: tuple[Attack, ...] = (
    attack(f"a network of {1000 * LATE_SECONDS:.0f} ms each way", late=LATE_SECONDS),
    attack(f"a network that loses {100 * LOST:.0f}%, of 20 ms each way", late=0.02, lost=LOST),
    attack("a network that ends without a word", late=0.005, breaks=True),
)

if __name__ == "__main__":
    far_side(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
