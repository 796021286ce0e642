"""The event loop and the task that a call runs in: is it the right loop, and was the task cancelled?"""

from __future__ import annotations

import asyncio
import sys

_OTHER_LOOP = (
    "this AsyncClient belongs to the event loop of its first call, which is another one; "
    "make a client in each asyncio.run, or all calls in one"
)


def require_running(loop: asyncio.AbstractEventLoop) -> None:
    """Raise RuntimeError if another event loop than this one is running."""
    if asyncio.get_running_loop() is not loop:
        raise RuntimeError(_OTHER_LOOP)


def is_cancelled() -> bool:
    """Whether the running task was itself cancelled; always false in Python 3.10, which cannot tell.

    grpc.aio also raises CancelledError for a cancelled call or a closed channel, which the SDK turns into its own
    error. A cancelled task, as in a program that shuts down, must get CancelledError itself, or it would continue.
    """
    if sys.version_info < (3, 11):
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
