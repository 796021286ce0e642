"""Judging lines of logs as they arrive, over asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from charloom.client import _watching_messages
from charloom.client._async.duplex import AsyncDuplex
from charloom.client._async.exchange import AsyncExchange
from charloom.client._watching_types import Verdict
from charloom.v1 import watching_pb2


class AsyncWatch(AsyncExchange[watching_pb2.WatchRequest, watching_pb2.WatchResponse]):
    """Judges lines as they arrive; the server keeps the state and threshold of each source.

    An asynchronous context manager that closes the watch at the end of its block, and cancels it if the block fails.

    Every method raises the errors of the call: see `charloom.client.RequestError`. None is raised before the first
    lines are read.
    """

    def __init__(
        self,
        duplex: AsyncDuplex[watching_pb2.WatchRequest, watching_pb2.WatchResponse],
        start: watching_pb2.WatchStart,
    ) -> None:
        super().__init__(duplex)
        self._start = start
        self._silent: list[str] = []

    async def read(self, lines: Sequence[tuple[str, str | bytes]]) -> list[Verdict]:
        """Judge lines, each a pair of its source and its text without a line break. One task at a time.

        No line is refused: only the beginning of a very long one is read, and bytes that are not UTF-8 are read as
        U+FFFD. After an error, some sources may have read their lines and others not. More than 1,024 lines or 49,152
        characters are sent in several messages; `read_by_message` also yields the verdicts that came before an error.
        """
        return [verdict async for verdicts in self.read_by_message(lines) for verdict in verdicts]

    async def read_by_message(self, lines: Sequence[tuple[str, str | bytes]]) -> AsyncIterator[list[Verdict]]:
        """Judge lines like `read`, but yield the verdicts of each message as soon as they arrive, in order.

        After an error, lines that have their verdicts need not be judged again. Of the message that failed, some
        sources may have read their lines and others not; later messages were not sent.
        """
        for request in _watching_messages.batches(lines):
            await self._duplex.send(request)
            verdicts, silent = _watching_messages.answered(self._start, request, await self._duplex.receive())
            self._silent += silent
            yield verdicts

    async def silent(self) -> list[str]:
        """Return the sources of this watch without a line for `silent_after` seconds; each once, until its next line.

        Names of more than 200 characters are cut off. One task at a time, like `read`.
        """
        more = True
        while more:
            request = _watching_messages.asking()
            await self._duplex.send(request)
            _, silent = _watching_messages.answered(self._start, request, await self._duplex.receive())
            self._silent += silent
            more = len(silent) == _watching_messages.MOST_SILENT
        found, self._silent = self._silent, []
        return found
