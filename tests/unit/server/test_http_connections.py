"""How long a connection waits for its reader."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from charloom.server.http import connections
from charloom.server.http.connections import Connection


class Transport:
    """A transport that has so many bytes to send each time it is asked."""

    def __init__(self, *sizes: int) -> None:
        self._sizes = list(sizes)
        self.ended: list[str] = []

    def get_write_buffer_size(self) -> int:
        return self._sizes.pop(0) if len(self._sizes) > 1 else self._sizes[0]

    def is_closing(self) -> bool:
        return bool(self.ended)

    def abort(self) -> None:
        self.ended.append("aborted")

    def close(self) -> None:
        self.ended.append("closed")


class Http:
    """The state of HTTP on a connection, which is told that it ends."""

    def send(self, event: object) -> None:
        pass


def connection_of(transport: Transport) -> Any:
    made: Any = Connection.__new__(Connection)
    made.transport, made.loop, made.conn = transport, asyncio.get_running_loop(), Http()
    return made


async def test_a_reader_that_reads_slowly_is_waited_for_and_one_that_stops_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "STALLED_SECONDS", 0.01)
    transport = Transport(100_000, 90_000, 90_000, 80_000)  # each size is looked at twice but the first
    connection = connection_of(transport)
    connection._expect_reader()
    while not transport.ended:
        await asyncio.sleep(0.01)
    assert transport.ended == ["aborted"]
    assert transport._sizes == [80_000]


@pytest.mark.parametrize(("unread", "end"), [(0, "closed"), (10, "aborted")])
async def test_an_idle_connection_is_closed_and_one_with_an_unread_answer_does_not_wait_for_that(
    unread: int, end: str
) -> None:
    transport = Transport(unread)
    connection_of(transport).timeout_keep_alive_handler()
    assert transport.ended == [end]
