from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from dataclasses import replace

import pytest

from charloom.bundle import Bundle
from charloom.engine.call_end import set_end
from charloom.engine.calls.price import BINARY, JSON, Told, of_generation, of_reading
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.decoding.decoder import Decoder, Shape
from charloom.engine.engine import Engine
from charloom.engine.errors import Overloaded
from charloom.engine.limits import LONGEST_STOP, MOST_STOPS
from charloom.engine.memory_budget import MemoryBudget, TooMuchMemory
from charloom.engine.shares import Share, set_share

MEBI = 2**20


class Call:
    """A call that holds memory until it ends."""

    def __init__(self, budget: MemoryBudget, needed: int, name: str = "a") -> None:
        self._ends: list[Callable[[], None]] = []
        self.task = Context()
        self.task.run(set_share, Share(name))
        self.task.run(set_end, self._ends.append)
        self.task.run(budget.hold, needed)

    def end(self) -> None:
        for done in self._ends:
            done()


def test_what_fits_is_held_until_the_call_ends() -> None:
    budget = MemoryBudget(100 * MEBI)
    calls = [Call(budget, 20 * MEBI) for _ in range(4)]
    assert budget.held == 80 * MEBI
    with pytest.raises(Overloaded, match=r"may need 20\.0 MiB of memory") as refused:
        Call(budget, 20 * MEBI)
    assert refused.value.retry_after is not None
    calls.pop().end()
    calls.append(Call(budget, 20 * MEBI))
    for call in calls:
        call.end()
    assert budget.held == 0


def test_what_can_never_be_held_is_refused_with_the_numbers() -> None:
    with pytest.raises(TooMuchMemory) as refused:
        Call(MemoryBudget(100 * MEBI), 81 * MEBI)
    assert refused.value.retry_after is None
    assert refused.value.facts == {"needed": str(81 * MEBI), "most": str(80 * MEBI)}
    assert "81.0 MiB" in str(refused.value)
    assert "80.0 here" in str(refused.value)


def test_another_caller_finds_room_where_one_holds_all_that_it_may() -> None:
    budget = MemoryBudget(100 * MEBI)
    for _ in range(8):
        Call(budget, 10 * MEBI, "greedy")
    Call(budget, 10 * MEBI, "polite")
    with pytest.raises(Overloaded):
        Call(budget, 10 * MEBI, "greedy")
    Call(budget, 10 * MEBI, "polite")
    assert budget.held == 100 * MEBI
    with pytest.raises(Overloaded):
        Call(budget, 1, "polite")


def test_what_something_else_uses_is_not_there_for_calls() -> None:
    others = 0
    budget = MemoryBudget(100 * MEBI, lambda: others)
    others = 90 * MEBI
    Call(budget, 10 * MEBI)
    with pytest.raises(Overloaded, match="sessions"):
        Call(budget, 1)
    others = 0
    Call(budget, 10 * MEBI)


def test_a_part_of_a_call_gives_back_what_it_held_also_when_it_fails() -> None:
    budget = MemoryBudget(100 * MEBI)
    seen = []

    def part() -> None:
        with budget.held_for(10 * MEBI):
            seen.append(budget.held)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        part()
    assert seen == [10 * MEBI]
    assert budget.held == 0


def test_without_a_limit_or_an_end_nothing_is_held() -> None:
    budget = MemoryBudget(None)
    Call(budget, 2**60)
    limited = MemoryBudget(MEBI)
    limited.hold(2**60)
    assert budget.held == limited.held == 0


SHAPE = Shape(2, 2, 512, 96)


def test_the_price_grows_with_everything_that_takes_memory() -> None:
    cheap = of_generation(SHAPE, 10, 100, None)
    for dear in (
        of_generation(SHAPE, 1000, 100, None),
        of_generation(SHAPE, 10, 200, None),
        of_generation(SHAPE, 10, 100, 0),
        of_generation(SHAPE, 10, 100, None, 2),
        of_generation(SHAPE, 10, 100, None, learnt=25_100),
        of_generation(Shape(2, 2, 2048, 96), 10, 100, None),
    ):
        assert dear > cheap
    assert of_generation(SHAPE, 10, 100, 20) > of_generation(SHAPE, 10, 100, 0)
    assert of_reading(SHAPE, 100, 20) > of_reading(SHAPE, 100, 0) > of_reading(SHAPE, 100, None)


async def test_stop_strings_cost_what_they_take(bundle: Bundle, decoder: Decoder) -> None:
    engine = Engine([(bundle, decoder)], budget=MemoryBudget(300_000))
    try:
        request = GenerationRequest(max_tokens=1, stop=["a"] * MOST_STOPS)
        await engine.generating.check(request)
        with pytest.raises(TooMuchMemory):
            await engine.generating.check(replace(request, stop=["a" * LONGEST_STOP] * MOST_STOPS))
    finally:
        await engine.drain(0)


def test_a_stream_costs_no_more_than_what_its_reader_may_leave_unread() -> None:
    long = of_generation(SHAPE, 0, 65_536, 20, unread=8192)
    assert long == of_generation(SHAPE, 0, 1_000_000, 20, unread=8192) < of_generation(SHAPE, 0, 65_536, 20)


def test_an_answer_as_json_costs_more_where_it_tells_log_probabilities() -> None:
    def costs(told: Told, top_logprobs: int | None) -> tuple[int, int]:
        generation = of_generation(SHAPE, 0, 100, top_logprobs, told=told)
        return generation, of_reading(SHAPE, 100, top_logprobs, told=told)

    assert costs(JSON, None) == costs(BINARY, None)
    for top_logprobs in (0, 20):
        assert costs(JSON, top_logprobs) > costs(BINARY, top_logprobs)
