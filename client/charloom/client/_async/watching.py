"""Lines of logs that a server judges as they come, over asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from charloom.client import _watching_messages
from charloom.client._async.duplex import AsyncDuplex
from charloom.client._async.exchange import AsyncExchange
from charloom.client._watching_types import Verdict
from charloom.v1 import watching_pb2


class AsyncWatch(AsyncExchange[watching_pb2.WatchRequest, watching_pb2.WatchResponse]):
    """Judges lines as they come; the server keeps what it knows of their sources.

    An asynchronous context manager that closes the watch at the end of its block, and cancels it if the block fails.

    Every method raises the errors of the call: see `charloom.client.RequestError`. They appear with the first lines.
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

        No line is refused: of a very long one the beginning is read, and bytes that are not UTF-8 are read as U+FFFD.
        After an error, some sources may have read their lines and others not; of more than 1,024 lines or 49,152
        characters, `read_by_message` tells those that were answered.
        """
        return [verdict async for verdicts in self.read_by_message(lines) for verdict in verdicts]

    async def read_by_message(self, lines: Sequence[tuple[str, str | bytes]]) -> AsyncIterator[list[Verdict]]:
        """Judge lines as `read` does; yields the verdicts on the lines of each message when they come, in order.

        After an error, the lines that had their verdicts need not be judged again. Of the message that failed, some
        sources may have read their lines and others not; what follows it was not sent.
        """
        for request in _watching_messages.batches(lines):
            await self._duplex.send(request)
            verdicts, silent = _watching_messages.answered(self._start, request, await self._duplex.receive())
            self._silent += silent
            yield verdicts

    async def silent(self) -> list[str]:
        """Ask which sources of this watch have said nothing for `silent_after`; each is told once, until it speaks.

        Of names of more than 200 characters the beginning is told. One task at a time, as `read`.
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
