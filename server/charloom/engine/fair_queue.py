"""The queue of waiting jobs, which divides the loom fairly between callers, and not by arrival.

Three resources are scarce, and each goes to the caller that has least of it: room to wait, places among the live rows,
and the decoder's time. Time is divided by start-time fair queueing (Goyal, Vin and Cheng, 1996): a caller that comes or
comes back starts level with the caller that was served least, so staying away saves up no time.

A new job has to wait until a running tick ends, which no order of jobs can change. So the queue also detects when the
jobs to be served next are a *crowd*: many jobs of one caller, while another caller with few is here, or was a moment
ago. The loom gives crowds short ticks.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from charloom.engine.shares import Share

CROWD = 8
"""A caller's jobs are a crowd if they are more than this many times another caller's."""
PRESENT_SECONDS = 0.25
"""Seconds for which a caller whose last job has ended is expected to come back with another."""


class Shared(Hashable, Protocol):
    """Something that belongs to a caller."""

    @property
    def share(self) -> Share:
        """The caller."""


T = TypeVar("T", bound=Shared)
K = TypeVar("K", bound=Hashable)


class QueueFull(Exception):
    """There is no room to wait, and no other caller has so many more waiting jobs that one should make room."""


class IndexedHeap(Generic[K]):
    """A heap of keys with a rank that can change, least rank first; of equals, the one whose rank was set first.

    A change costs O(log n) on average: outdated entries stay in the heap until they come up, or are too many.
    """

    def __init__(self) -> None:
        self._entries: dict[K, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def set(self, key: K, rank: float) -> None:
        """Add a key, or change its rank."""
        self._entries[key] = entry = (rank, next(self._numbers))
        heapq.heappush(self._heap, (*entry, key))
        if len(self._heap) > 2 * len(self._entries) + 16:
            self._heap = [(*kept, one) for one, kept in self._entries.items()]
            heapq.heapify(self._heap)

    def rise(self, key: K, rank: float) -> None:
        """Raise the rank of a present key. The heap is updated only when the key comes up."""
        self._entries[key] = (rank, self._entries[key][1])

    def drop(self, key: K) -> None:
        """Remove a key, if it is there."""
        self._entries.pop(key, None)

    @property
    def first(self) -> K | None:
        """The key with the least rank; None if there is none."""
        while self._heap:
            rank, number, key = self._heap[0]
            kept = self._entries.get(key)
            if kept == (rank, number):
                return key
            if kept is not None and kept[1] == number:
                heapq.heapreplace(self._heap, (*kept, key))
            else:
                heapq.heappop(self._heap)
        return None


@dataclass(eq=False)
class _Caller(Generic[T]):
    share: Share
    served: float
    """Its virtual time: seconds of the decoder, plus where it started."""
    waiting: dict[T, None] = field(default_factory=dict)
    """Its waiting jobs, oldest first."""
    places: int = 0


class FairQueue(Generic[T]):
    """Waiting jobs of several callers, and the places of those that run; operations cost O(log n) for n callers.

    Args:
        capacity: most waiting jobs of all callers together
        clock: a clock in seconds
    """

    def __init__(self, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._clock = clock
        self._size = 0
        self._callers: dict[str, _Caller[T]] = {}
        """Callers with waiting jobs or places."""
        self._least_places: IndexedHeap[str] = IndexedHeap()
        """Callers with waiting jobs, by their places."""
        self._most_waiting: IndexedHeap[str] = IndexedHeap()
        """Callers with waiting jobs, by how many, most first."""
        self._least_served: IndexedHeap[str] = IndexedHeap()
        """All callers here, by `served`."""
        self._absent: dict[str, float] = {}
        """`served` of callers that have left, if it was above the least of the others."""
        self._left: dict[str, float] = {}
        """When callers left that are still expected to come back; oldest first."""

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[T]:
        for caller in self._callers.values():
            yield from caller.waiting

    def check(self, share: Share, free: int = 0) -> None:
        """Raise as `put` would now.

        Raises:
            QueueFull: there is no room.
        """
        most = self._most_waiting.first
        if self._size < self._capacity + max(0, free) or most is None:
            return
        own, largest = self._callers.get(share.name), self._callers[most]
        if (len(own.waiting) if own else 0) + 1 > len(largest.waiting) - 1:
            raise QueueFull

    def put(self, item: T, free: int = 0) -> T | None:
        """Add a waiting job. If the queue is full, the newest job of the caller with most waiting jobs makes room.

        Args:
            item: the job
            free: free places, as of `take`: room for as many more jobs, because these will not wait

        Returns:
            The job that was removed to make room, if any.

        Raises:
            QueueFull: there is no room, and no other caller would, after making room, have as many jobs as this one.
        """
        self.check(item.share, free)
        displaced = None
        if self._size >= self._capacity + max(0, free) and (most := self._most_waiting.first) is not None:
            displaced = next(reversed(self._callers[most].waiting))
            self.remove(displaced)
        self._add(item)
        return displaced

    def put_together(self, items: Sequence[T], free: int = 0) -> list[T]:
        """Add several waiting jobs, all or none; returns the jobs that were removed to make room.

        Args:
            items: jobs of one caller
            free: as of `put`

        Raises:
            QueueFull: as `put`, for one of them; no job was removed then.
        """
        displaced: list[T] = []
        for number, item in enumerate(items):
            try:
                one = self.put(item, free)
            except QueueFull:
                for earlier in items[:number]:
                    self.remove(earlier)
                for one in reversed(displaced):  # the newest last, as before, whether there is room or not
                    self._add(one)
                raise
            if one is not None:
                displaced.append(one)
        return displaced

    def take(self, places: int, free: int) -> T | None:
        """Remove the next job to get a place, and give it one: the oldest job of the caller with fewest places.

        If no place is free, a caller that has less than its part of all places gets one all the same, up to twice as
        many places in all: so no caller keeps others out by holding all places for long.

        Args:
            places: number of places
            free: number of free places; below 0: minus the number of places in use beyond `places`
        """
        name = self._least_places.first
        if name is None or free <= -places:
            return None
        caller = self._callers[name]
        if free < 1 and caller.places and (caller.places + 1) * len(self._callers) > places:
            return None
        item = next(iter(caller.waiting))
        del caller.waiting[item]
        self._size -= 1
        caller.places += 1
        self._rank(caller)
        return item

    def remove(self, item: T) -> None:
        """Remove a waiting job."""
        caller = self._callers[item.share.name]
        del caller.waiting[item]
        self._size -= 1
        self._rank(caller)

    def leave(self, item: T) -> None:
        """Take a job's place back."""
        caller = self._callers[item.share.name]
        caller.places -= 1
        self._rank(caller)

    def pick(self, items: Sequence[T], most: int) -> list[T]:
        """Choose which of these jobs, all with places, are served together.

        The caller that was served least comes first, with all its jobs in `items`. Each other caller gets at most as
        many jobs as the first one has places, whether or not these are all in `items`. So few jobs need not wait for
        many, and many jobs get the time that the few leave over.

        Args:
            items: the jobs, those of each caller in the order in which they are to be served
            most: most jobs to serve together
        """
        of: dict[str, list[T]] = {}
        for item in items:
            of.setdefault(item.share.name, []).append(item)
        if len(of) < 2:
            return list(items[:most])
        order = sorted(of, key=lambda name: self._callers[name].served)
        each = self._callers[order[0]].places
        return [item for name in order for item in of[name][:each]][:most]

    def crowd(self, items: Sequence[T]) -> str | None:
        """The name of the caller whose jobs are a crowd among these jobs, which are served together; None: no crowd.

        It has more than `CROWD` of the jobs, and more than `CROWD` times the places of some other caller.
        """
        (name, count), *_ = Counter(item.share.name for item in items).most_common(1) or [("", 0)]
        if count <= CROWD:
            return None
        least = min((other.places for one, other in self._callers.items() if one != name), default=math.inf)
        self._expire_left()
        if self._left:
            least = min(least, 1)
        return name if self._callers[name].places > CROWD * least else None

    def charge(self, items: Sequence[T], seconds: float) -> None:
        """Charge `seconds` of the decoder's time, divided evenly, to these jobs, which all have places."""
        each = seconds / len(items)
        counts: dict[str, int] = {}
        for item in items:
            counts[item.share.name] = counts.get(item.share.name, 0) + 1
        for name, count in counts.items():
            caller = self._callers[name]
            caller.served += each * count
            self._least_served.rise(name, caller.served)

    def load(self, item: T) -> int:
        """The places of this job's caller, times the number of callers; the job must have a place."""
        return self._callers[item.share.name].places * len(self._callers)

    def _add(self, item: T) -> None:
        caller = self._caller(item.share)
        caller.waiting[item] = None
        self._size += 1
        self._rank(caller)

    def _caller(self, share: Share) -> _Caller[T]:
        caller = self._callers.get(share.name)
        if caller is None:
            least = self._least_served.first
            level = self._callers[least].served if least is not None else 0.0
            self._left.pop(share.name, None)
            caller = self._callers[share.name] = _Caller(share, max(level, self._absent.pop(share.name, 0.0)))
            self._least_served.set(share.name, caller.served)
        return caller

    def _rank(self, caller: _Caller[T]) -> None:
        name = caller.share.name
        if caller.waiting:
            self._least_places.set(name, caller.places)
            self._most_waiting.set(name, -len(caller.waiting))
        else:
            self._least_places.drop(name)
            self._most_waiting.drop(name)
            if not caller.places:
                self._forget(caller)

    def _forget(self, caller: _Caller[T]) -> None:
        name = caller.share.name
        del self._callers[name]
        self._expire_left()
        self._left[name] = self._clock()
        self._least_served.drop(name)
        least = self._least_served.first
        if least is None:
            self._absent.clear()
            return
        level = self._callers[least].served
        if caller.served > level:
            self._absent[name] = caller.served
        if len(self._absent) > 2 * len(self._callers) + 64:
            self._absent = {one: served for one, served in self._absent.items() if served > level}

    def _expire_left(self) -> None:
        now = self._clock()
        while self._left and now - self._left[first := next(iter(self._left))] > PRESENT_SECONDS:
            del self._left[first]


def of_most(items: Sequence[T], count: int) -> list[T]:
    """Choose `count` items, each time the oldest of the caller that has most items left.

    Args:
        items: oldest first
        count: how many; below 1: none
    """
    of: dict[str, deque[T]] = {}
    for item in items if count > 0 else ():
        of.setdefault(item.share.name, deque()).append(item)
    most: IndexedHeap[str] = IndexedHeap()
    for name, own in of.items():
        most.set(name, -len(own))
    chosen: list[T] = []
    while len(chosen) < count and (first := most.first) is not None:
        item = of[first].popleft()
        chosen.append(item)
        if of[first]:
            most.set(first, -len(of[first]))
        else:
            most.drop(first)
    return chosen
