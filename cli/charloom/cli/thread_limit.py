"""Checks whether this process may start the threads that a command needs, before it needs them.

The libraries start most of them in C++. Where the system refuses one, gRPC hangs or aborts, OpenMP ends the process,
and NumPy's import looks like Ctrl-C. So they are tried first, as threads that do nothing.
"""

from __future__ import annotations

import os
import sys
import threading

from charloom.cli import CommandError

REFUSED = "can't start new thread"
"""What Python's error says where the system refuses a thread."""
ADVICE = (
    "raise the limit of processes and threads (ulimit -u, the container's --pids-limit, TasksMax of a systemd unit), "
    "or end others of this user"
)
_SPARE = 4
"""Threads that libraries start for a moment."""
BESIDE = 3
"""Threads of a server: for its store, for inspections, and for work that would block the event loop."""
BESIDE_WORKERS = 2
"""Threads of each model: for first tokens, and at the end to wait for the others."""
_LARGEST_POOL = 64
"""That OpenBLAS has in NumPy's wheels."""


def grpc_threads() -> int:
    """What gRPC starts for a client or a server: measured as 4, and one for each of 4 to 16 cores."""
    return 4 + min(max(os.cpu_count() or 1, 4), 16) + _SPARE


def numpy_threads() -> int:
    """What the import of NumPy starts: the pool of OpenBLAS, whose caller counts as one of it."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    given = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or ""
    return min(cores, int(given) if given.isdecimal() and int(given) else cores, _LARGEST_POOL) - 1


def threads_of_server(models: int, workers: int) -> int:
    """What a server starts.

    Args:
        models: that it serves
        workers: of each
    """
    return grpc_threads() + BESIDE + models * (workers + BESIDE_WORKERS)


def check_threads(count: int) -> None:
    """Check that this process may start `count` more threads.

    Raises:
        CommandError: it may not; the message says how many it may start, and what to do.
    """
    enough = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=enough.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        raise CommandError(f"it needs {count} more threads, and only {len(started)} can be started; {ADVICE}") from None
    finally:
        enough.set()
        for thread in started:
            thread.join()
