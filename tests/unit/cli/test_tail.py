from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charloom.cli import CommandError
from charloom.cli.sessions.tail import LONGEST_LINE, Lines, Position, Tail


def read(tail: Tail, *, to_the_end: bool = False) -> list[bytes]:
    """All lines that are there by now."""
    found: list[bytes] = []
    while lines := tail.read(to_the_end=to_the_end):
        found += [line.content for line in lines]
    return found


def write(path: Path, content: bytes, mode: str = "ab") -> None:
    with path.open(mode) as file:
        file.write(content)


Open = Callable[..., Tail]


@pytest.fixture
def tail_of() -> Iterator[Open]:
    """Tails that are closed at the end."""
    with ExitStack() as opened:

        def open(path: Path, position: Position | None = None) -> Tail:
            tail = Tail(path, position)
            opened.callback(tail.close)
            return tail

        yield open


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "some.log"


@given(st.lists(st.text("ab\x00é", max_size=6).map(str.encode)), st.lists(st.integers(1, 5)))
def test_lines_are_the_same_however_bytes_arrive(lines: list[bytes], sizes: list[int]) -> None:
    data, found, splitter = b"".join(line + b"\n" for line in lines), [], Lines()
    for size in [*sizes, len(data) + 1]:
        found += list(splitter.feed(data[:size]))
        data = data[size:]
    assert [line.content for line in found] == lines
    assert [line.end for line in found] == [sum(len(one) + 1 for one in lines[: n + 1]) for n in range(len(lines))]


def test_of_a_line_of_ten_megabytes_the_beginning_is_told_once() -> None:
    splitter, found = Lines(), []
    for _ in range(160):
        found += list(splitter.feed(b"x" * 65_536))
    found += list(splitter.feed(b"end\nnext\n"))
    assert [(len(line.content), line.cut) for line in found] == [(LONGEST_LINE, True), (4, False)]
    assert splitter.offset == found[-1].end == 160 * 65_536 + 9


def test_half_a_line_waits_for_its_end(tail_of: Open, log: Path) -> None:
    tail = tail_of(log)
    write(log, b"one\ntw")
    assert read(tail) == [b"one"]
    write(log, b"o\r\n")
    assert read(tail) == [b"two"]
    write(log, b"three")
    assert read(tail, to_the_end=True) == [b"three"]


def test_a_file_that_is_rotated_is_read_to_its_end_and_then_the_new_one(tail_of: Open, log: Path) -> None:
    tail = tail_of(log)
    write(log, b"one\n")
    assert read(tail) == [b"one"]
    old = log.rename(log.with_name("some.log.1"))
    write(old, b"two\nhalf")
    assert read(tail) == [b"two"]
    write(log, b"three\n")
    assert read(tail) == [b"half", b"three"]


@pytest.mark.parametrize("restarted", [False, True])
def test_files_that_were_rotated_meanwhile_are_read_one_after_another(
    tail_of: Open, log: Path, restarted: bool
) -> None:
    tail = tail_of(log)
    write(log, b"one\n")
    assert read(tail) == [b"one"]
    position = tail.position
    for number, content in enumerate((b"two\nhalf", b"three\n", b"four\n")):
        write(log, content)
        os.utime(log, ns=(number, 1_900_000_000_000_000_000 + number))
        log.rename(log.with_name(f"some.log.2026-01-0{number + 1}"))
    write(log.with_name("some.log.position"), b"no log")
    write(log, b"five\n")
    os.utime(log, ns=(9, 1_900_000_000_000_000_009))
    assert read(tail_of(log, position) if restarted else tail) == [b"two", b"half", b"three", b"four", b"five"]


def test_a_file_that_is_truncated_is_read_from_its_beginning(tail_of: Open, log: Path) -> None:
    tail = tail_of(log)
    write(log, b"one\ntwo\nhalf")
    assert read(tail) == [b"one", b"two"]
    write(log, b"3\n", "wb")
    assert read(tail) == [b"half", b"3"]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_file_that_is_truncated_and_grew_past_where_it_was_is_read_from_its_beginning(
    tail_of: Open, log: Path, restarted: bool
) -> None:
    tail = tail_of(log)
    write(log, b"one\ntwo\n")
    assert read(tail) == [b"one", b"two"]
    position = tail.position
    write(log, b"three\nfour\nfive\n", "wb")
    assert read(tail_of(log, position) if restarted else tail) == [b"three", b"four", b"five"]


def test_a_file_that_vanishes_may_come_again(tail_of: Open, log: Path) -> None:
    tail = tail_of(log)
    assert (read(tail), tail.there, tail.position) == ([], False, None)
    write(log, b"one\n")
    assert read(tail) == [b"one"]
    log.unlink()
    assert (read(tail), tail.there) == ([], False)
    write(log, b"two\n")
    assert read(tail) == [b"two"]


@pytest.mark.parametrize("rotated", [False, True])
def test_another_tail_goes_on_where_one_was(tail_of: Open, log: Path, tmp_path: Path, rotated: bool) -> None:
    kept = tmp_path / "position"
    tail = tail_of(log, Position.read(kept))
    write(log, b"one\ntwo\nhal")
    assert read(tail) == [b"one", b"two"]
    assert tail.position is not None
    tail.position.write(kept)
    tail.close()
    write(log, b"f\n")
    if rotated:
        log.rename(log.with_name("some.log.1"))
        write(log, b"new\n")
    again = tail_of(log, Position.read(kept))
    assert read(again) == [b"half", *[b"new"] * rotated]


@pytest.mark.parametrize("name", ["app[1].log", "**", "a*?.log"])
def test_another_tail_finds_a_rotated_file_whatever_its_name(tail_of: Open, tmp_path: Path, name: str) -> None:
    log = tmp_path / name
    write(log, b"one\n")
    tail = tail_of(log)
    assert read(tail) == [b"one"]
    position = tail.position
    write(log, b"rest\n")
    log.rename(tmp_path / f"{name}.1")
    write(log, b"new\n")
    assert read(tail_of(log, position)) == [b"rest", b"new"]


@pytest.mark.parametrize("position", [None, Position(1, 0, False, "")])
def test_a_pipe_is_refused_and_not_waited_for(tail_of: Open, log: Path, position: Position | None) -> None:
    os.mkfifo(log)
    with pytest.raises(CommandError, match=r"some\.log is a pipe or device; give - and pipe the lines in"):
        tail_of(log, position).read()


def test_the_rest_of_a_long_line_is_not_told_after_a_restart(tail_of: Open, log: Path) -> None:
    write(log, b"x" * 100_000)
    tail = tail_of(log)
    assert len(read(tail)) == 1
    position = tail.position
    write(log, b"yyy\nnext\n")
    assert read(tail_of(log, position)) == [b"next"]


def test_another_file_of_the_same_number_is_read_from_its_beginning(tail_of: Open, log: Path) -> None:
    write(log, b"one\n")
    tail = tail_of(log)
    assert read(tail) == [b"one"]
    position = tail.position
    write(log, b"six\nand more\n", "r+b")
    assert position is not None
    assert position.inode == os.stat(log).st_ino
    assert read(tail_of(log, position)) == [b"six", b"and more"]


OF_OTHER_TYPES = '{"inode": "1", "offset": 1, "skipping": false, "head": ""}'
OUT_OF_RANGE = '{"inode": 1, "offset": -1, "skipping": false, "head": ""}'


@pytest.mark.parametrize("content", ["", "{}", "[]", OF_OTHER_TYPES, OUT_OF_RANGE])
def test_a_position_file_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "position").write_text(content)
    with pytest.raises(CommandError, match="delete it to begin anew"):
        Position.read(tmp_path / "position")


class Log:
    """A log that is written, rotated and truncated, and what of it was told by a tail that is stopped now and then.

    A file is truncated only when all of it was told: what is truncated before is lost to any reader.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._kept = folder / "some.log", folder / "position"
        self._path.touch()
        self._written = self._rotations = self._changes = 0
        self._changed()
        self._tail = Tail(self._path)
        self.told: list[bytes] = []
        self.look()

    @property
    def expected(self) -> list[bytes]:
        return [b"line %d" % number for number in range(self._written)]

    def write(self) -> None:
        write(self._path, b"line %d\n" % self._written)
        self._written += 1
        self._changed()

    def rotate(self) -> None:
        self._rotations += 1
        self._path.rename(f"{self._path}.{self._rotations}")
        self._path.touch()
        self._changed()

    def truncate(self) -> None:
        if len(self.told) == self._written:
            write(self._path, b"", "wb")
            self._changed()

    def look(self) -> None:
        self.told += [line.content for line in self._tail.read()]
        assert self._tail.position is not None
        self._tail.position.write(self._kept)

    def restart(self) -> None:
        self._tail.close()
        self._tail = Tail(self._path, Position.read(self._kept))

    def end(self) -> None:
        for _ in range(2 * self._rotations + 3):
            self.look()
        self._tail.close()

    def _changed(self) -> None:
        """Clocks of file systems are coarse: have each change later than the one before."""
        self._changes += 1
        os.utime(self._path, ns=(self._changes * 10**9, self._changes * 10**9))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(steps=st.lists(st.sampled_from(["write", "write", "write", "rotate", "truncate", "look", "look", "restart"])))
def test_whatever_happens_to_a_file_each_line_is_told_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    log = Log(tmp_path_factory.mktemp("log"))
    for step in steps:
        getattr(log, step)()
    log.end()
    assert log.told == log.expected


def test_after_each_line_another_one_goes_on_with_those_behind_it(tail_of: Open, log: Path) -> None:
    write(log, b"a\n" + b"b" * (LONGEST_LINE + 9) + b"\nc\n\nd\n" + b"e" * (2 * LONGEST_LINE))
    whole, tail = read(tail_of(log)), tail_of(log)
    count = 0
    while lines := tail.read():
        for line in lines:
            count += 1
            assert read(tail_of(log, tail.after(line))) == whole[count:]
        assert tail.after(lines[-1]) == tail.position
    assert count == 6
