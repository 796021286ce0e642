"""The audit log: what is in it, and what happens where it cannot be written."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from charloom.engine.errors import SessionNotFound
from charloom.engine.telemetry import CallRecord, set_call
from charloom.server.audit import AuditLog, AuditLogUnavailable, require_log
from charloom.server.caller import Caller, set_caller


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def audit(path: Path) -> Iterator[AuditLog]:
    opened = AuditLog(path)
    yield opened
    opened.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def shown(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in ("time", "id")}


def test_an_act_is_in_it_before_it_begins_and_when_it_has_ended(audit: AuditLog, path: Path) -> None:
    with audit.act("revoke-key", "key 0a1b2c3d", of="shop") as more:
        (begun,) = lines(path)
        more["to"] = "nobody"
    _, done = lines(path)
    by = begun["by"]
    assert by.startswith("user ")
    of_all = {"act": "revoke-key", "on": "key 0a1b2c3d", "by": by}
    assert shown(begun) == {**of_all, "result": "begun", "of": "shop"}
    assert shown(done) == {**of_all, "result": "done", "to": "nobody"}
    assert begun["id"] == done["id"]
    assert begun["time"] <= done["time"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_act_that_fails_is_told_without_the_words_of_its_error(audit: AuditLog, path: Path) -> None:
    with pytest.raises(KeyError), audit.act("revoke-key", "key 0a1b2c3d"):
        raise KeyError("what a user wrote")
    _, failed = lines(path)
    assert (failed["result"], failed["reason"]) == ("failed", "KeyError")
    assert "wrote" not in path.read_text()


async def test_an_act_of_a_call_says_who_makes_it_and_which_it_is(audit: AuditLog, path: Path) -> None:
    set_caller(Caller("shop", name="key 0a1b2c3d"))
    set_call(CallRecord(request_id="r1"))
    async with audit.act_of_call("erase-tenant", "tenant shop", confirmed=1) as more:
        (begun,) = lines(path)
        more["sessions"] = 3
    _, done = lines(path)
    of_all = {"act": "erase-tenant", "on": "tenant shop", "by": "key 0a1b2c3d", "request": "r1"}
    assert shown(begun) == {**of_all, "result": "begun", "confirmed": 1}
    assert shown(done) == {**of_all, "result": "done", "sessions": 3}
    assert begun["id"] == done["id"]


async def test_an_act_of_the_server_by_itself_says_what_lets_it_do_so(audit: AuditLog, path: Path) -> None:
    async with audit.act_of_server("load-model", "bundle 'small/2'", "SIGHUP"):
        (begun,) = lines(path)
    _, done = lines(path)
    of_all = {"act": "load-model", "on": "bundle 'small/2'", "by": "SIGHUP"}
    assert (shown(begun), shown(done)) == ({**of_all, "result": "begun"}, {**of_all, "result": "done"})


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (SessionNotFound("what a user wrote"), "SESSION_NOT_FOUND"),
        (asyncio.CancelledError(), "CANCELLED"),
        (RuntimeError("what a user wrote"), "RuntimeError"),
    ],
)
async def test_an_act_of_a_call_that_fails_is_told_by_its_reason(
    audit: AuditLog, path: Path, problem: BaseException, reason: str
) -> None:
    set_caller(Caller(name="10.0.0.1"))

    async def fail() -> None:
        async with audit.act_of_call("export-tenant", "tenant shop") as more:
            more["sessions"] = 2
            raise problem

    with pytest.raises(type(problem)):
        await fail()
    _, failed = lines(path)
    assert (failed["result"], failed["reason"], failed["sessions"]) == ("failed", reason, 2)
    assert "wrote" not in path.read_text()


async def test_an_act_of_a_call_is_not_begun_where_it_cannot_be_written(audit: AuditLog, path: Path) -> None:
    set_caller(Caller(name="10.0.0.1"))
    path.unlink()
    path.mkdir()
    with pytest.raises(AuditLogUnavailable, match="Is a directory"):
        async with audit.act_of_call("export-tenant", "tenant shop"):
            pytest.fail("it was begun")


async def test_an_act_whose_caller_goes_while_a_line_is_written_has_both_lines(audit: AuditLog, path: Path) -> None:
    async def act(inside: Callable[[], None]) -> None:
        async with audit.act_of_server("reload-models", "all", "SIGHUP"):
            inside()

    async def cancelled(task: asyncio.Task[None]) -> None:
        """A line of it waits for the lock."""
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        audit._lock.release()
        with pytest.raises(asyncio.CancelledError):
            await task

    def hold() -> None:
        audit._lock.acquire()
        ends.set()

    began, ends = asyncio.Event(), asyncio.Event()
    audit._lock.acquire()
    task = asyncio.create_task(act(began.set))
    await asyncio.sleep(0)
    await cancelled(task)
    assert [line["result"] for line in lines(path)] == ["begun", "failed"]
    assert lines(path)[1]["reason"] == "CANCELLED"
    assert not began.is_set()
    task = asyncio.create_task(act(hold))
    await ends.wait()
    await cancelled(task)
    assert [line["result"] for line in lines(path)][2:] == ["begun", "done"]


async def test_without_a_file_the_lines_go_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    set_caller(Caller(name="10.0.0.1"))
    with caplog.at_level(logging.INFO):
        async with AuditLog().act_of_call("unload-model", "model m"):
            pass
    told = [record.message for record in caplog.records if record.message.startswith("audit: ")]
    assert [json.loads(line.removeprefix("audit: "))["result"] for line in told] == ["begun", "done"]


ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from charloom.server.audit import AuditLog, AuditLogUnavailable
audit = AuditLog(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
try:
    with audit.act("revoke-key", "key 0a1b2c3d"):
        print("done")
except AuditLogUnavailable as problem:
    print(problem)
"""
"""A process whose files cannot grow past some bytes."""


def test_where_the_disk_is_full_the_act_is_refused_and_no_part_of_a_line_stays(audit: AuditLog, path: Path) -> None:
    with audit.act("create-key", "key 0a1b2c3d"):
        pass
    before = path.read_bytes()
    command = [sys.executable, "-c", ON_A_FULL_DISK, path, str(len(before) + 20)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "nothing was done, because the audit log cannot be written" in done.stdout
    assert done.stdout.count("\n") == 1
    assert path.read_bytes() == before


def test_an_act_whose_end_cannot_be_written_has_been_done_and_the_next_is_refused(
    audit: AuditLog, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with audit.act("rotate-key", "key 1") as more:
        more["to"] = "key 2"
        path.rename(path.with_name("old"))
        path.mkdir()
    assert "rotate-key" in caplog.text
    assert '"to": "key 2"' in caplog.text
    with pytest.raises(AuditLogUnavailable, match="Is a directory"), audit.act("rotate-key", "key 2"):
        pytest.fail("it was begun")


@pytest.mark.parametrize("kind", ["a folder", "no folder", "readable", "a device"])
def test_a_file_that_cannot_be_used_is_refused_at_the_start(path: Path, kind: str) -> None:
    said = {
        "a folder": "cannot write",
        "no folder": "cannot write",
        "readable": "chmod 600",
        "a device": "is no file",
    }[kind]
    if kind == "a folder":
        path.mkdir()
    elif kind == "no folder":
        path = path / "audit.jsonl"
    elif kind == "readable":
        path.touch(0o600)
        path.chmod(0o644)
    else:
        path = Path(os.devnull)
    with pytest.raises(AuditLogUnavailable, match=said):
        AuditLog(path)


def test_whether_a_log_can_be_used_is_found_out_without_making_it(path: Path) -> None:
    require_log(path)
    assert not path.exists()
    path.touch(0o600)
    require_log(path)
    assert path.read_text() == ""
    path.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        require_log(path)
    with pytest.raises(ValueError, match="its folder is missing"):
        require_log(path.with_name("no") / "audit.jsonl")


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_that_is_rotated_away_is_made_anew(audit: AuditLog, path: Path, replaced: bool) -> None:
    with audit.act("create-key", "key 1"):
        path.rename(path.with_name("audit.jsonl.1"))
        if replaced:
            path.touch(0o600)
    with audit.act("create-key", "key 2"):
        pass
    assert [(line["on"], line["result"]) for line in lines(path.with_name("audit.jsonl.1"))] == [("key 1", "begun")]
    assert [(line["on"], line["result"]) for line in lines(path)] == [
        ("key 1", "done"),
        ("key 2", "begun"),
        ("key 2", "done"),
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_many_at_once_write_whole_lines(path: Path) -> None:
    def act(number: int) -> None:
        own = AuditLog(path)
        for _ in range(10):
            with own.act("create-key", f"key {number}", filling="x" * 5000):
                pass
        own.close()

    threads = [threading.Thread(target=act, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(path)) == 80
