"""The transactions of a SQLite store: one thread does all work in order, and batches waiting work into transactions.

Beginning and committing cost more than most pieces of work, and each commit may have to wait for other processes. So
all work that has arrived during one commit shares the next; no work waits for more to arrive. A piece of work that
fails changes nothing, and does not affect the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from charloom.engine.errors import StoreFull, StoreUnavailable
from charloom.engine.sessions.stores.sqlite_file import PATIENCE, empty_log, identity, is_busy, is_full, open_file

T = TypeVar("T")

READ, WRITE = "BEGIN", "BEGIN IMMEDIATE"
"""How a transaction begins: one that only reads, which waits for no other, and one that writes."""
MOST_AT_ONCE = 64
"""Most pieces of work in one transaction, since other processes wait for it."""
LOOK_SECONDS = 0.001
"""Seconds between two checks whether another process's transaction is over; most take less."""
RESERVE_PART = 8
"""The records of one transaction take at most 1/8 of the disk's reserve, which has to cover what is logged."""

Pack = Callable[[], Sequence[bytes]]


@dataclass
class _Work(Generic[T]):
    """A piece of work, and the future of its result."""

    done: asyncio.Future[T]
    do: Callable[..., T]
    pack: Pack | None
    begin: str
    frees: bool
    end: float = field(default_factory=lambda: time.monotonic() + PATIENCE)
    """When to stop waiting for other processes, on the monotonic clock."""
    records: tuple[Sequence[bytes], ...] = ()
    """The arguments of `do`: what `pack` returned, or nothing."""
    result: T | None = None
    problem: BaseException | None = None

    @property
    def size(self) -> int:
        """Bytes of its records."""
        return sum(len(record) for records in self.records for record in records)

    def prepare(self) -> bool:
        """Pack its records; returns whether that succeeded, else sets `problem`."""
        if self.pack is not None:
            try:
                self.records = (self.pack(),)
            except Exception as problem:
                self.problem = problem
                return False
        return True

    def run(self) -> T:
        """Do the work; call it in a transaction."""
        return self.do(*self.records)

    def deliver(self) -> None:
        """Set the future, in the event loop."""
        if self.done.cancelled():
            return
        if self.problem is not None:
            self.done.set_exception(self.problem)
        else:
            self.done.set_result(self.result)  # type: ignore[arg-type]  # it is a T, as there is no problem


class Transactions:
    """A connection to a file of sessions, and the thread that alone uses it.

    Args:
        path: of the file; raises as `open_file`
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: deque[_Work[Any]] = deque()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "sqlite-store")
        try:
            self.connection, self.reserve = self._thread.submit(open_file, path).result()
            self._files = identity(path)
        except BaseException:
            self._thread.shutdown()
            raise

    async def do(
        self,
        work: Callable[..., T],
        begin: str = WRITE,
        *,
        pack: Pack | None = None,
        frees: bool = False,
    ) -> T:
        """Do work in a transaction, even if this is cancelled; arguments and errors as of `submit`."""
        return await asyncio.shield(self.submit(work, begin, pack=pack, frees=frees))

    def submit(
        self,
        work: Callable[..., T],
        begin: str = WRITE,
        *,
        pack: Pack | None = None,
        frees: bool = False,
    ) -> asyncio.Future[T]:
        """Queue work for a transaction; it is done even if its future is cancelled.

        Args:
            work: called in the thread; called again if the transaction has to be retried
            begin: `READ` or `WRITE`
            pack: makes the records that `work` is called with; called in the thread, before the transaction begins
            frees: whether the work frees space: on a full disk it may use the disk's reserve

        Raises:
            StoreUnavailable: the store is closed. From the future: the file cannot be used, or other processes use it
                for too long.
        """
        one = _Work(asyncio.get_running_loop().create_future(), work, pack, begin, frees)
        with self._lock:
            try:
                if not self._waiting:
                    self._thread.submit(self._do_what_waits)
            except RuntimeError as problem:
                raise StoreUnavailable("it is closed") from problem
            self._waiting.append(one)
        return one.done

    async def outside(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Do work in the thread, outside of a transaction; does nothing if the store is closed."""
        with contextlib.suppress(RuntimeError):
            await asyncio.wrap_future(self._thread.submit(work, self.connection))

    async def close(self) -> None:
        """Do the waiting work, then close the file."""
        await self.outside(sqlite3.Connection.close)
        self._thread.shutdown(wait=False)

    # What the thread does.

    def _do_what_waits(self) -> None:
        with self._lock:
            waiting = [*self._waiting]
            self._waiting.clear()
        for some in self._batches(waiting):
            if len(some) == 1 or not self._together(some):
                for one in some:
                    self._alone(one)
            _deliver(some)

    def _batches(self, waiting: Sequence[_Work[Any]]) -> Iterator[list[_Work[Any]]]:
        """Prepare the work, and divide it, in order, into one batch per transaction; delivers failed preparations."""
        batch, size = list[_Work[Any]](), 0
        for one in waiting:
            if not one.prepare():
                _deliver([one])
                continue
            full = len(batch) == MOST_AT_ONCE or size + one.size > self.reserve.size // RESERVE_PART
            if batch and (full or one.begin != batch[0].begin):
                yield batch
                batch, size = [], 0
            batch.append(one)
            size += one.size
        if batch:
            yield batch

    def _together(self, works: Sequence[_Work[Any]]) -> bool:
        """Do all work in one transaction; returns whether it was committed. If not, nothing has been changed."""

        def all_of_them() -> None:
            for one in works:
                self.connection.execute("SAVEPOINT one")
                try:
                    one.result, one.problem = one.run(), None
                except sqlite3.Error:
                    raise
                except Exception as problem:
                    one.problem = problem
                    self.connection.execute("ROLLBACK TO one")
                self.connection.execute("RELEASE one")

        try:
            self._transaction(all_of_them, works[0].begin, works[0].end)
        except (StoreFull, StoreUnavailable):  # each is retried alone, to find which ones fail
            return False
        try:
            self._made()
        except StoreUnavailable as problem:
            for one in works:
                one.problem = problem
        return True

    def _alone(self, one: _Work[Any]) -> None:
        try:
            try:
                one.result, one.problem = self._transaction(one.run, one.begin, one.end), None
            except StoreFull:
                if not one.frees:
                    raise
                self.reserve.give_up()
                empty_log(self.connection)
                one.result, one.problem = self._transaction(one.run, one.begin, one.end), None
            self._made()
        except Exception as problem:
            one.problem = problem

    def _transaction(self, work: Callable[[], T], begin: str, end: float) -> T:
        self._require_files()
        try:
            self._begin(begin, end)
            try:
                result = work()
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:  # some errors end the transaction
                    self.connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as problem:
            raise (StoreFull if is_full(problem) else StoreUnavailable)(problem) from problem
        return result

    def _begin(self, begin: str, end: float) -> None:
        """Begin a transaction as soon as no other process has one; polls until `end`.

        SQLite's own polling slows down to every tenth of a second, so processes that came later would overtake.
        """
        self.connection.execute("PRAGMA busy_timeout = 0")
        while True:
            try:
                self.connection.execute(begin)
                break
            except sqlite3.OperationalError as problem:
                if not is_busy(problem) or time.monotonic() > end:
                    raise
            time.sleep(LOOK_SECONDS)
        # Within the transaction, wait for other processes only for the rest of the time.
        self.connection.execute(f"PRAGMA busy_timeout = {max(0, round((end - time.monotonic()) * 1000))}")

    def _made(self) -> None:
        """Finish a committed transaction.

        Raises:
            StoreUnavailable: it was written to a file that was moved, removed or replaced.
        """
        if not self.reserve.held:
            empty_log(self.connection)
        self._require_files()

    def _require_files(self) -> None:
        if identity(self._path) != self._files:
            raise StoreUnavailable("its file was moved, removed or replaced; put it back, or restart the server")


def _deliver(works: Sequence[_Work[Any]]) -> None:
    """Set the futures of these works, in one wake-up of the event loop."""

    def deliver() -> None:
        for one in works:
            one.deliver()

    with contextlib.suppress(RuntimeError):  # the event loop is closed
        works[0].done.get_loop().call_soon_threadsafe(deliver)
