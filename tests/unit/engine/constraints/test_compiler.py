"""The processes that make automata: whose turn it is, what is remembered, and what they answer."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charloom.bundle import ByteVocabulary, CharacterVocabulary
from charloom.bundle.vocabulary import Vocabulary
from charloom.engine.constraints import child, compiler
from charloom.engine.constraints.compiler import AT_ONCE, REFUSED_SECONDS, Compiler
from charloom.engine.constraints.constraint import BadConstraint, Constraint, Kind
from charloom.engine.decoding.automaton import Automaton
from charloom.engine.shares import Share, set_share

VOCABULARY = CharacterVocabulary("ab")
ANY = Automaton(np.zeros((1, 2), np.int32), np.zeros(1, np.int32))


class Processes:
    """In place of those that a compiler starts: each ends when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[str] = []
        self.ends: list[asyncio.Future[Automaton]] = []

        async def make(_: Compiler, asked: bytes, __: int) -> Automaton:
            self.started.append(json.loads(asked)["content"][0])
            self.ends.append(asyncio.get_running_loop().create_future())
            return await self.ends[-1]

        monkeypatch.setattr(Compiler, "_make", make)

    async def have_started(self, count: int) -> list[str]:
        """Which have, once there are so many."""
        while len(self.started) < count:
            await asyncio.sleep(0)
        return self.started


async def asked(one: Compiler, pattern: str, caller: str = "", vocabulary: Vocabulary = VOCABULARY) -> Automaton:
    set_share(Share(caller))  # of the task that this runs in
    return await one.automaton(Constraint(Kind.REGEX, (pattern,)), vocabulary, ())


async def test_a_caller_with_many_constraints_has_not_all_places_while_another_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes, one = Processes(monkeypatch), Compiler()
    many = [asyncio.create_task(asked(one, "a" * (number + 1), "A")) for number in range(6)]
    assert await processes.have_started(AT_ONCE) == ["a", "aa"]
    few = asyncio.create_task(asked(one, "b", "B"))
    await asyncio.sleep(0)
    processes.ends[0].set_result(ANY)
    assert await processes.have_started(3) == ["a", "aa", "b"]
    processes.ends[2].set_result(ANY)
    assert await few is ANY
    for number in range(1, 7):
        await processes.have_started(number + 1)
        if number != 2:
            processes.ends[number].set_result(ANY)
    assert await asyncio.gather(*many) == [ANY] * 6


async def test_a_caller_does_not_wait_where_another_one_waits_with_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    processes, one = Processes(monkeypatch), Compiler()
    many = [asyncio.create_task(asked(one, pattern, "A")) for pattern in ("a", "aa", "aaa", "b")]
    await processes.have_started(AT_ONCE)
    same = asyncio.create_task(asked(one, "b", "B"))
    await asyncio.sleep(0)
    processes.ends[0].set_result(ANY)
    assert (await processes.have_started(3))[2] == "b"
    processes.ends[2].set_result(ANY)
    assert await same is ANY
    assert (await processes.have_started(4))[3] == "aaa"
    for number in (1, 3):
        processes.ends[number].set_result(ANY)
    await asyncio.gather(*many)
    assert len(processes.started) == 4  # A's own "b" was known by then


async def test_who_no_longer_waits_leaves_its_place_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    processes, one = Processes(monkeypatch), Compiler()
    running = [asyncio.create_task(asked(one, pattern)) for pattern in ("a", "aa")]
    await processes.have_started(AT_ONCE)
    waiting = [asyncio.create_task(asked(one, pattern)) for pattern in ("b", "bb")]
    await asyncio.sleep(0)
    waiting[0].cancel()
    running[0].cancel()
    assert await processes.have_started(3) == ["a", "aa", "bb"]
    for task in (*running, *waiting):
        task.cancel()
    await asyncio.gather(*running, *waiting, return_exceptions=True)
    again = asyncio.create_task(asked(one, "a"))
    await processes.have_started(4)
    processes.ends[3].set_result(ANY)
    assert await again is ANY


async def test_a_refusal_is_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(compiler, "monotonic", lambda: now)
    processes, one = Processes(monkeypatch), Compiler()
    calls = [asyncio.create_task(asked(one, "a")) for _ in range(3)]
    await processes.have_started(1)
    processes.ends[0].set_exception(BadConstraint("it takes too long", "here"))
    assert [str(one) for one in await asyncio.gather(*calls, return_exceptions=True)] == ["here: it takes too long"] * 3
    with pytest.raises(BadConstraint, match=r"^here: it takes too long$"):
        await asked(one, "a")
    assert len(processes.started) == 1
    now = REFUSED_SECONDS
    later = asyncio.create_task(asked(one, "a"))
    await processes.have_started(2)
    processes.ends[1].set_result(ANY)
    assert await later is ANY
    assert await asked(one, "a") is ANY
    assert one._bytes == ANY.nbytes


async def test_refusals_are_forgotten_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> Automaton:
        raise BadConstraint("no")

    monkeypatch.setattr(Compiler, "_make", refuse)
    monkeypatch.setattr(compiler, "REMEMBERED", 1000)
    one = Compiler()
    for number in range(1, 9):
        with pytest.raises(BadConstraint):
            await asked(one, "a" * number)
    assert len(one._made) == 3
    assert one._bytes <= 1000


async def test_what_a_model_cannot_write_is_part_of_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    processes, one = Processes(monkeypatch), Compiler()

    async def made(vocabulary: Vocabulary, never: tuple[int, ...]) -> Automaton:
        task = asyncio.create_task(one.automaton(Constraint(Kind.REGEX, ("a",)), vocabulary, never))
        await processes.have_started(len(processes.ends) + 1)
        processes.ends[-1].set_result(Automaton(ANY.next, ANY.distance))
        return await task

    different = [
        (VOCABULARY, ()),
        (VOCABULARY, (1,)),
        (CharacterVocabulary("abc"), ()),
        (CharacterVocabulary("ac"), ()),
    ]
    assert len({id(await made(*two)) for two in different}) == 4
    same = await one.automaton(Constraint(Kind.REGEX, ("a",)), CharacterVocabulary("ab"), ())
    assert same is await one.automaton(Constraint(Kind.REGEX, ("a",)), VOCABULARY, ())
    assert len(processes.started) == 4


async def test_a_constraint_that_is_known_costs_no_look_at_all_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    processes, one = Processes(monkeypatch), Compiler()
    vocabulary = CharacterVocabulary("ab")
    task = asyncio.create_task(asked(one, "a", vocabulary=vocabulary))
    await processes.have_started(1)
    processes.ends[0].set_result(ANY)
    await task
    monkeypatch.setattr(CharacterVocabulary, "symbol", None)
    assert await asked(one, "a", vocabulary=vocabulary) is ANY


async def test_nothing_is_imported_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("open('ran', 'w'); raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    found = await Compiler(seconds=100).automaton(Constraint(Kind.CHOICES, ("yes", "no")), ByteVocabulary(), ())
    assert found.least_tokens == 2
    assert not (tmp_path / "ran").exists()


async def test_a_fault_refuses_the_constraint_and_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> Automaton:
        return {}[object()]  # type: ignore[no-any-return]

    monkeypatch.setattr(child, "automaton_of", broken)
    question = {"kind": "regex", "content": ["secret"], "symbols": ["a"], "bytewise": False}
    answer = child._answer(io.StringIO(json.dumps(question)))
    told = json.loads(answer)
    assert told["problem"] == "it cannot be kept; write it otherwise"
    assert re.fullmatch(r"KeyError at .*test_compiler\.py:\d+", told["fault"])
    monkeypatch.setattr(asyncio, "create_subprocess_exec", answering(answer))
    with pytest.raises(BadConstraint, match=r"^it cannot be kept"):
        await asked(Compiler(), "a")
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"a constraint cannot be kept because of a fault: {told['fault']}"
    ]


def answering(answer: bytes) -> Callable[..., Any]:
    """In place of a process: one that has ended, and told this."""

    class Ended:
        returncode = 0

        async def communicate(self, _: bytes) -> tuple[bytes, None]:
            return answer, None

    async def started(*_: object, **__: object) -> Ended:
        return Ended()

    return started


async def test_a_process_gets_no_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_PASSWORD", "secret")
    started: list[tuple[tuple[Any, ...], dict[str, str]]] = []
    start = asyncio.create_subprocess_exec

    async def noted(*command: Any, env: dict[str, str], **options: Any) -> asyncio.subprocess.Process:
        started.append((command, env))
        return await start(*command, env=env, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    made = await asked(Compiler(), "ab")
    assert len(made.distance) > 1
    ((command, env),) = started
    assert command[-2:] == (str(compiler.SECONDS), str(compiler.MEMORY))
    assert "secret" not in env.values()
    assert env["PATH"]


def test_what_a_process_reads_counts_in_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(json, "load", full)
    assert json.loads(child._answer(io.StringIO())) == {"problem": "it takes too much memory"}
