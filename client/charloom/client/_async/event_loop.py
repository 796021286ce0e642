"""What a call has to know of the event loop and the task that it runs in."""

from __future__ import annotations

import asyncio
import sys

_OTHER_LOOP = (
    "this AsyncClient belongs to the event loop of its first call, which is another one; "
    "make a client in each asyncio.run, or all calls in one"
)


def require_running(loop: asyncio.AbstractEventLoop) -> None:
    """Refuse what is asked for in another event loop than this one; raises RuntimeError."""
    if asyncio.get_running_loop() is not loop:
        raise RuntimeError(_OTHER_LOOP)


def is_cancelled() -> bool:
    """Whether the task that runs now was itself cancelled.

    grpc.aio raises CancelledError for a cancelled call, or a closed channel, too. Who cancelled the task as well, as a
    program does that shuts down, is to get that error and no other one: the task would go on. Python 3.10 cannot tell.
    """
    if sys.version_info < (3, 11):
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
