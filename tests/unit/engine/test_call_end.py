"""What is done at the end of a call."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest

from charloom.engine.call_end import CallEnd, at_end_of_call, end_of_call, set_end


class Used:
    """What a call uses."""


def test_each_act_is_done_once_also_after_one_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    end, done = CallEnd(), list[str]()
    end.add(lambda: done.append("first"))
    end.add(lambda: [].pop())
    end.add(lambda: done.append("last"))
    with caplog.at_level(logging.ERROR):
        end.come()
        end.come()
    assert done == ["first", "last"]
    assert [record.getMessage() for record in caplog.records] == ["what is done at the end of a call failed"]
    assert "IndexError" in caplog.text


def test_what_is_added_after_the_end_is_done_at_once() -> None:
    end, done = CallEnd(), list[str]()
    end.come()
    end.add(lambda: done.append("late"))
    assert done == ["late"]


def test_after_the_end_nothing_is_held() -> None:
    gc.disable()
    try:
        used, end = Used(), CallEnd()
        end.add(lambda used=used: None)  # type: ignore[misc]
        gone = weakref.ref(used)
        del used
        assert gone() is not None
        end.come()
        assert gone() is None
    finally:
        gc.enable()


async def test_what_runs_in_the_task_of_a_call_is_done_at_its_end() -> None:
    done: list[str] = []
    assert end_of_call() is None
    at_end_of_call(lambda: done.append("never"))
    end = CallEnd()
    set_end(end.add)
    at_end_of_call(lambda: done.append("at the end"))
    assert done == []
    end.come()
    assert done == ["at the end"]
