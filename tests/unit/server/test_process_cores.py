"""Control groups are folders of text, so that made ones will do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from charloom.server import control_group
from charloom.server.process_cores import core_quota, cores_worth, default_workers
from charloom.server.settings import ServerSettings


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root without groups, of a machine with eight cores."""
    monkeypatch.setattr(control_group, "ROOT", tmp_path / "root")
    monkeypatch.setattr(control_group, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    return tmp_path


def write(root: Path, membership: str, **files: str) -> None:
    (root / "membership").write_text(membership)
    for name, text in files.items():
        file = root / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.mark.parametrize(
    ("quota", "worth", "workers"),
    [
        ("50000 100000", 0.5, 1),
        ("100000 100000", 1, 1),
        ("350000 100000", 3.5, 3),
        ("1600000 100000", 8, 8),
        ("max 100000", 8, 8),
    ],
)
def test_workers_follow_the_quota_of_version_2(groups: Path, quota: str, worth: float, workers: int) -> None:
    write(groups, "0::/\n", **{"cpu.max": quota + "\n"})
    assert (cores_worth(), default_workers()) == (worth, workers)
    assert ServerSettings().limits().workers == workers
    assert ServerSettings(workers=5).limits().workers == 5


def test_workers_follow_the_quota_of_version_1(groups: Path) -> None:
    files = {"cpu/a/b/cpu.cfs_quota_us": "250000\n", "cpu/a/b/cpu.cfs_period_us": "100000\n"}
    write(groups, "4:memory:/x\n1:cpu,cpuacct:/a/b\n0::/\n", **files)
    assert (core_quota(), default_workers()) == (2.5, 2)
    write(groups, "1:cpu:/a/b\n", **{"cpu/a/b/cpu.cfs_quota_us": "-1\n"})
    assert (core_quota(), default_workers()) == (None, 8)


def test_the_tightest_group_on_the_way_to_the_root_counts(groups: Path) -> None:
    files = {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000", "a/b/c/cpu.max": "400000 100000"}
    write(groups, "0::/a/b/c\n", **files)
    assert core_quota() == 2


def test_a_group_that_a_container_does_not_see_is_its_root(groups: Path) -> None:
    write(groups, "0::/../../other\n", **{"cpu.max": "50000 100000"})
    assert core_quota() == 0.5


def test_where_there_are_no_groups_there_is_no_quota(groups: Path) -> None:
    assert (core_quota(), cores_worth()) == (None, 8)
