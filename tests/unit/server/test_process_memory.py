from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from charloom.server import control_group, process_memory
from charloom.server.open_runtime import budget_of
from charloom.server.process_memory import memory_in_use, memory_limit


def test_a_process_uses_some_of_what_it_may_use() -> None:
    limit = memory_limit()
    assert limit is not None
    assert 2**20 < memory_in_use() < limit


GIVEN_BACK = """
from charloom.server.process_memory import give_memory_back, memory_in_use
kept = [bytes(4000) for _ in range(50_000)]  # 200 MB, each piece of glibc's heap
del kept[1:-1]
before = memory_in_use()
give_memory_back()
print(before - memory_in_use())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back when it is asked to")
def test_memory_that_is_free_between_what_is_in_use_is_given_back() -> None:
    """In a process of its own: what else is free in this one, and what its other threads do, is chance."""
    done = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100 * 2**20


@pytest.mark.parametrize(("text", "limit"), [("1073741824\n", 2**30), ("max\n", 2**33), (None, 2**33)])
def test_the_limit_is_the_control_groups_or_else_the_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, limit: int
) -> None:
    meminfo, membership = tmp_path / "meminfo", tmp_path / "cgroup"
    membership.write_text("0::/\n")
    if text is not None:
        (tmp_path / "memory.max").write_text(text)
    meminfo.write_text("MemFree: 12 kB\nMemTotal:       8388608 kB\n")
    monkeypatch.setattr(control_group, "ROOT", tmp_path)
    monkeypatch.setattr(control_group, "MEMBERSHIP", membership)
    monkeypatch.setattr(process_memory, "MEMINFO", meminfo)
    assert memory_limit() == limit


def test_where_nobody_knows_a_limit_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_group, "MEMBERSHIP", tmp_path / "a")
    monkeypatch.setattr(process_memory, "MEMINFO", tmp_path / "b")
    assert memory_limit() is None
    assert budget_of(None) is None


def test_a_limit_that_is_used_up_leaves_nothing() -> None:
    assert budget_of(1) == 0
    assert 0 < (budget_of(2**40) or 0) < 2**40
