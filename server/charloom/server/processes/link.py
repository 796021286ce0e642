"""Questions and answers between the parent and a child, in both directions over one socket: one JSON object per line.

Does not know the questions. If one side ends, the other reads the end of its socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

log = logging.getLogger(__name__)

LONGEST_LINE = 2**26
"""Bytes of a message: metrics of a thousand tenants are some megabytes."""

Answer = Callable[[str, dict[str, Any]], Awaitable[Any]]
"""Answers a question and its arguments with a value that JSON can carry, or raises `Refused`."""


class LinkClosed(ConnectionError):
    """The other process is gone, or going."""


class Refused(Exception):
    """The other side refused the question; the message says why."""


def line_of(message: dict[str, Any]) -> bytes:
    """A message as it is sent."""
    return json.dumps(message).encode() + b"\n"


class Link:
    """One end; made by `over`, inside the event loop that uses it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self.closed = asyncio.Event()
        """Set once the other side is gone."""
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def over(cls, end: socket.socket, answer: Answer) -> Link:
        """A link over one end of a pair of sockets, which is the link's from now on."""
        reader, writer = await asyncio.open_unix_connection(sock=end, limit=LONGEST_LINE)
        return cls(reader, writer, answer)

    async def ask(self, question: str, **given: Any) -> Any:
        """Ask the other side, and return its answer.

        Raises:
            Refused: it refuses.
            LinkClosed: it is gone.
        """
        number = next(self._numbers)
        answered = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"number": number, "question": question, "given": given})
            return await answered
        finally:
            del self._asked[number]

    def tell(self, what: str, **given: Any) -> None:
        """Send a message that needs no answer; it is lost if the other side is gone."""
        with contextlib.suppress(LinkClosed):
            self._send({"question": what, "given": given})

    def close(self) -> None:
        """Let go of the socket."""
        self._reading.cancel()
        for task in self._answering:
            task.cancel()
        self._writer.close()

    def _send(self, message: dict[str, Any]) -> None:
        if self.closed.is_set():
            raise LinkClosed("the other process is gone")
        self._writer.write(line_of(message))

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                self._take(json.loads(line))
        except ConnectionError:
            pass
        finally:
            self.closed.set()
            for answered in self._asked.values():
                if not answered.done():
                    answered.set_exception(LinkClosed("the other process is gone"))

    def _take(self, message: dict[str, Any]) -> None:
        number = message.get("number")
        if "question" in message:
            task = asyncio.create_task(self._reply(number, message["question"], message["given"]))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            return
        answered = self._asked.get(number) if number is not None else None
        if answered is None or answered.done():  # whoever asked waits no more
            return
        if "refused" in message:
            answered.set_exception(Refused(message["refused"]))
        else:
            answered.set_result(message["answer"])

    async def _reply(self, number: int | None, question: str, given: dict[str, Any]) -> None:
        said: dict[str, Any] = {"number": number}
        try:
            said["answer"] = await self._answer(question, given)
        except (Refused, LinkClosed) as problem:
            said["refused"] = str(problem)
        except Exception as problem:
            log.exception("%r of the other process was not answered", question)
            said["refused"] = f"unexpected error: {type(problem).__name__}"
        if number is not None:
            with contextlib.suppress(LinkClosed):
                self._send(said)
