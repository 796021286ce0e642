"""Waiting jobs of several callers, against a model that keeps lists and looks at all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from charloom.engine.fair_queue import PRESENT_SECONDS, FairQueue, IndexedHeap, QueueFull, of_most
from charloom.engine.shares import Share

CAPACITY, PLACES = 5, 4


@dataclass(eq=False)
class Item:
    name: str
    number: int = 0
    share: Share = field(init=False)

    def __post_init__(self) -> None:
        self.share = Share(self.name)


def filled(queue: FairQueue[Item], name: str, count: int) -> list[Item]:
    items = [Item(name, number) for number in range(count)]
    for item in items:
        queue.put(item)
    return items


class QueueAgainstLists(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[Item] = FairQueue(CAPACITY)
        self.waiting: list[Item] = []
        self.live: list[Item] = []
        self.numbers = 0

    def count(self, items: list[Item]) -> Counter[str]:
        return Counter(item.name for item in items)

    @rule(name=st.sampled_from("abcd"))
    def put(self, name: str) -> None:
        self.numbers += 1
        item, counts = Item(name, self.numbers), self.count(self.waiting)
        most = max(counts.values(), default=0)
        largest = {one for one in counts if counts[one] == most}
        if len(self.waiting) < CAPACITY:
            assert self.queue.put(item) is None
            self.waiting.append(item)
            return
        fits = {one for one in largest if counts[name] + 1 <= counts[one] - 1}
        try:
            displaced = self.queue.put(item)
        except QueueFull:
            assert fits != largest or not fits
            assert item not in self.waiting
            return
        assert displaced is not None
        assert displaced.name in fits
        assert displaced is [one for one in self.waiting if one.name == displaced.name][-1]
        self.waiting.remove(displaced)
        self.waiting.append(item)

    @rule()
    def take(self) -> None:
        free = PLACES - len(self.live)
        item = self.queue.take(PLACES, free)
        counts, names = self.count(self.live), {one.name for one in self.waiting}
        if item is None:
            callers = len({one.name for one in (*self.waiting, *self.live)})
            least = min((counts[one] for one in names), default=0)
            assert free < 1 or not names
            for name in names:
                if counts[name] == least and free > -PLACES and counts[name]:
                    assert (counts[name] + 1) * callers > PLACES
            return
        assert counts[item.name] == min(counts[one] for one in names)
        assert item is next(one for one in self.waiting if one.name == item.name), "each caller's own are in order"
        self.waiting.remove(item)
        self.live.append(item)
        assert len(self.live) <= 2 * PLACES

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        item = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(item)
        self.queue.remove(item)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        item = data.draw(st.sampled_from(self.live))
        self.live.remove(item)
        self.queue.leave(item)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), most=st.integers(1, 8))
    def serve(self, data: Any, most: int) -> None:
        items = data.draw(st.lists(st.sampled_from(self.live), unique=True, min_size=1))
        picked = self.queue.pick(items, most)
        assert 0 < len(picked) <= most
        assert set(picked) <= set(items)
        for name in {one.name for one in items}:
            own = [one for one in items if one.name == name]
            assert [one for one in picked if one.name == name] == own[: self.count(picked)[name]], "in their order"
        self.queue.charge(picked, 0.01)

    @invariant()
    def holds_what_waits(self) -> None:
        assert len(self.queue) == len(self.waiting) <= CAPACITY
        assert set(self.queue) == set(self.waiting)


TestQueueAgainstLists = QueueAgainstLists.TestCase


def test_one_caller_is_served_in_order() -> None:
    queue: FairQueue[Item] = FairQueue(10)
    items = filled(queue, "a", 10)
    assert [queue.take(100, 100 - number) for number in range(11)] == [*items, None]


def test_places_go_to_whoever_has_fewest_not_to_whoever_came_first() -> None:
    queue: FairQueue[Item] = FairQueue(100)
    filled(queue, "greedy", 50)
    filled(queue, "polite", 3)
    taken = [queue.take(8, 8 - number) for number in range(8)]
    assert Counter(item.name for item in taken if item) == {"greedy": 5, "polite": 3}


def test_a_caller_that_holds_all_places_does_not_keep_another_out() -> None:
    queue: FairQueue[Item] = FairQueue(100)
    filled(queue, "greedy", 50)
    for free in range(8, 0, -1):
        assert queue.take(8, free) is not None
    assert queue.take(8, 0) is None
    filled(queue, "polite", 10)
    taken = []
    while (item := queue.take(8, -len(taken))) is not None:
        taken.append(item)
    assert [item.name for item in taken] == ["polite"] * 4, "its part of the places"


def test_many_callers_have_no_more_than_twice_the_places() -> None:
    queue: FairQueue[Item] = FairQueue(100)
    for number in range(100):
        filled(queue, f"caller-{number}", 1)
    taken = 0
    while queue.take(8, 8 - taken) is not None:
        taken += 1
    assert taken == 16


def test_a_full_queue_makes_room_at_the_cost_of_the_largest_and_of_nobody_else() -> None:
    queue: FairQueue[Item] = FairQueue(6)
    greedy = filled(queue, "greedy", 6)
    with pytest.raises(QueueFull):
        queue.put(Item("greedy"))
    lost = [queue.put(Item("polite")) for _ in range(3)]
    assert lost == [greedy[5], greedy[4], greedy[3]], "its newest first"
    for name in ("greedy", "polite"):
        with pytest.raises(QueueFull):
            queue.put(Item(name))
    assert len(queue) == 6


def served(queue: FairQueue[Item], live: list[Item], seconds: float, most: int = 8) -> Counter[str]:
    """How often each caller's jobs were served in this time, where serving n of them takes 4 + n milliseconds."""
    times: Counter[str] = Counter()
    while seconds > 0:
        picked = queue.pick(live, most)
        cost = 0.004 + 0.001 * len(picked)
        queue.charge(picked, cost)
        seconds -= cost
        times.update(item.name for item in picked)
        live = [*(item for item in live if item not in picked), *picked]
    return times


def taken(queue: FairQueue[Item]) -> list[Item]:
    live: list[Item] = []
    while (item := queue.take(1000, 1000 - len(live))) is not None:
        live.append(item)
    return live


def test_four_with_a_job_each_beside_one_with_a_thousand_keep_four_fifths_of_their_speed() -> None:
    alone: FairQueue[Item] = FairQueue(10)
    names = ["one", "two", "three", "four"]
    for name in names:
        filled(alone, name, 1)
    before = served(alone, taken(alone), 10.0)
    queue: FairQueue[Item] = FairQueue(2000)
    filled(queue, "greedy", 900)
    for name in names:
        filled(queue, name, 1)
    after = served(queue, taken(queue), 10.0)
    for name in names:
        assert after[name] >= 0.8 * before[name]
    assert after["greedy"] > after["one"], "what the few leave over is used"


def test_callers_with_the_same_are_served_together_and_alike() -> None:
    queue: FairQueue[Item] = FairQueue(1000)
    for name in ("a", "b"):
        filled(queue, name, 20)
    live = taken(queue)
    assert len(queue.pick(live, 64)) == 40
    times = served(queue, live, 10.0, most=8)
    assert times["a"] == pytest.approx(times["b"], rel=0.02)


def test_callers_with_the_same_are_served_together_where_some_of_one_are_being_served_already() -> None:
    queue: FairQueue[Item] = FairQueue(1000)
    for name in ("a", "b", "few"):
        filled(queue, name, 2 if name == "few" else 16)
    live = taken(queue)
    elsewhere = [item for item in live if item.name == "a"][:11]
    queue.charge([item for item in live if item.name != "a"], 1.0)
    here = [item for item in live if item not in elsewhere and item.name != "few"]
    assert Counter(item.name for item in queue.pick(here, 64)) == {"a": 5, "b": 16}
    queue.charge(elsewhere, 5.0)
    assert Counter(item.name for item in queue.pick(live, 64)) == {"few": 2, "a": 2, "b": 2}, "few do not wait for many"


def test_of_jobs_that_come_together_all_find_room_or_nobody_makes_any() -> None:
    queue: FairQueue[Item] = FairQueue(6)
    greedy = filled(queue, "a", 6)
    order = [*queue]
    with pytest.raises(QueueFull):
        queue.put_together([Item("b", number) for number in range(4)])
    assert [*queue] == order, "the displaced ones are back where they were"
    polite = [Item("b", number) for number in range(3)]
    assert queue.put_together(polite) == greedy[:2:-1]
    assert [*queue] == [*greedy[:3], *polite]


def test_jobs_that_made_room_in_vain_are_back_where_more_wait_than_there_is_room_for() -> None:
    queue: FairQueue[Item] = FairQueue(2)
    jobs = [Item("a", number) for number in range(4)]
    queue.put_together(jobs, free=2)
    with pytest.raises(QueueFull):
        queue.put_together([Item("b", number) for number in range(4)], free=0)  # the places were taken meanwhile
    assert [*queue] == jobs
    assert len(queue) == 4


def test_jobs_that_find_a_place_at_once_need_no_room_to_wait() -> None:
    queue: FairQueue[Item] = FairQueue(2)
    jobs = [Item("a", number) for number in range(6)]
    with pytest.raises(QueueFull):
        queue.put_together(jobs, free=3)
    assert len(queue) == 0
    assert queue.put_together(jobs, free=4) == []
    with pytest.raises(QueueFull):
        queue.check(Share("a"), free=4)
    assert taken(queue) == jobs
    assert queue.put_together(jobs[:2], free=-3) == []


def test_the_load_of_a_caller_is_as_if_all_had_as_much() -> None:
    queue: FairQueue[Item] = FairQueue(1000)
    (greedy, *_), (polite,) = filled(queue, "greedy", 500), filled(queue, "polite", 1)
    taken(queue)
    assert (queue.load(greedy), queue.load(polite)) == (1000, 2)


def test_a_caller_that_stays_away_saves_nothing_up_and_one_that_leaves_forgets_no_debt() -> None:
    queue: FairQueue[Item] = FairQueue(10)
    (worker,), (other,) = filled(queue, "worker", 1), filled(queue, "other", 1)
    taken(queue)
    queue.charge([worker], 100.0)
    queue.charge([other], 90.0)
    (late,) = filled(queue, "late", 1)
    taken(queue)
    queue.charge([late], 5.0)
    assert queue.pick([worker, other, late], 1) == [other], "the latecomer began level with the least served"
    queue.leave(worker)
    (again,) = filled(queue, "worker", 1)
    taken(queue)
    assert queue.pick([again, late], 1) == [late]


@pytest.mark.parametrize(("count", "others", "crowd"), [(64, 1, True), (9, 1, True), (8, 1, False), (64, 8, False)])
def test_many_jobs_are_a_crowd_beside_a_caller_with_few(count: int, others: int, crowd: bool) -> None:
    queue: FairQueue[Item] = FairQueue(1000)
    many = filled(queue, "a", count)
    filled(queue, "b", others)
    taken(queue)
    assert queue.crowd(many) == ("a" if crowd else None)
    assert queue.crowd(many[:8]) is None, "few of them at a time keep nobody waiting"


def test_jobs_of_one_caller_are_a_crowd_for_as_long_as_another_is_expected_back() -> None:
    now = 0.0
    queue: FairQueue[Item] = FairQueue(1000, clock=lambda: now)
    many = filled(queue, "greedy", 64)
    taken(queue)
    assert queue.crowd(many) is None, "nobody else is here"
    (other,) = filled(queue, "other", 1)
    assert queue.crowd(many) == "greedy", "another waits"
    taken(queue)
    queue.leave(other)
    now += 0.9 * PRESENT_SECONDS
    assert queue.crowd(many) == "greedy"
    now += 0.2 * PRESENT_SECONDS
    assert queue.crowd(many) is None
    assert queue.crowd([]) is None


def test_the_oldest_of_whoever_has_most_are_chosen() -> None:
    items = [Item(name, number) for number, name in enumerate("ababaaca")]
    assert [(item.name, item.number) for item in of_most(items, 4)] == [("a", 0), ("a", 2), ("a", 4), ("b", 1)]
    assert of_most(items, 0) == of_most(items, -3) == []
    assert len(of_most(items, 100)) == len(items)


def test_a_heap_keeps_no_more_than_it_needs() -> None:
    heap: IndexedHeap[int] = IndexedHeap()
    for number in range(10_000):
        heap.set(number % 3, float(number))
    assert len(heap._heap) <= 2 * 3 + 16
    assert (len(heap), heap.first) == (3, 9997 % 3)
    heap.drop(9997 % 3)
    assert heap.first == 9998 % 3


@given(st.lists(st.tuples(st.sampled_from(["set", "rise", "drop"]), st.integers(0, 5), st.integers(1, 9))))
def test_a_heap_knows_the_least_whatever_was_set_risen_and_dropped(steps: list[tuple[str, int, int]]) -> None:
    heap: IndexedHeap[int] = IndexedHeap()
    wanted: dict[int, int] = {}
    for what, key, number in steps:
        if what == "drop":
            heap.drop(key)
            wanted.pop(key, None)
        elif what == "set" or key not in wanted:
            heap.set(key, number)
            wanted[key] = number
        else:
            wanted[key] += number
            heap.rise(key, wanted[key])
        first = heap.first
        assert first is None if not wanted else first is not None and wanted[first] == min(wanted.values())
        assert len(heap) == len(wanted)
