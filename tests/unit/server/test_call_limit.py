"""More calls than are taken at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context

import pytest

from charloom.engine.errors import Overloaded
from charloom.engine.quotas import UNLIMITED, Quota, QuotaExceeded
from charloom.engine.shares import Share, set_share
from charloom.server.call_limit import CallLimit


class Call:
    """One call."""

    def __init__(self, limit: CallLimit, name: str, quota: Quota = UNLIMITED) -> None:
        self._ended: list[Callable[[], None]] = []
        task = Context()
        task.run(set_share, Share(name, quota=quota))
        task.run(limit.begin, self._ended.append)

    def end(self) -> None:
        for callback in self._ended:
            callback()


def test_more_calls_are_refused_and_told_when_to_come_back_until_one_has_ended() -> None:
    limit = CallLimit(3)
    calls = [Call(limit, "a") for _ in range(3)]
    for _ in range(2):
        with pytest.raises(Overloaded, match="3 calls are running") as refused:
            Call(limit, "a")
        assert refused.value.retry_after is not None
        assert refused.value.retry_after > 0
    calls.pop().end()
    Call(limit, "a")


def test_whoever_makes_all_calls_keeps_nobody_else_out() -> None:
    limit = CallLimit(8)
    for _ in range(8):
        Call(limit, "greedy")
    for _ in range(4):
        Call(limit, "polite")
    for name in ("polite", "greedy"):
        with pytest.raises(Overloaded):
            Call(limit, name)


def test_a_refused_call_is_not_counted() -> None:
    limit = CallLimit(2)
    calls = [Call(limit, name) for name in ("a", "b")]
    with pytest.raises(Overloaded):
        Call(limit, "c")
    for call in calls:
        call.end()
    assert limit._running.total == 0


def test_a_caller_has_no_more_calls_than_it_may_though_there_is_room() -> None:
    limit, two = CallLimit(100), Quota(calls=2)
    calls = [Call(limit, "shop", two) for _ in range(2)]
    with pytest.raises(QuotaExceeded, match="2 calls of yours are running") as refused:
        Call(limit, "shop", two)
    assert refused.value.facts == {"limit": "calls", "most": "2", "used": "2", "asked": "1"}
    assert refused.value.retry_after is not None
    Call(limit, "other", two)
    calls.pop().end()
    Call(limit, "shop", two)


def test_each_of_several_processes_takes_its_part_of_the_calls() -> None:
    limit, three = CallLimit(5, processes=2), Quota(calls=3)
    calls = [Call(limit, "shop", three) for _ in range(2)]
    with pytest.raises(QuotaExceeded, match="2 calls of yours are running in one of 2 processes") as refused:
        Call(limit, "shop", three)
    assert refused.value.facts["most"] == "3"
    Call(limit, "other")
    with pytest.raises(Overloaded):
        Call(limit, "other")
    calls.pop().end()
    Call(limit, "other")
