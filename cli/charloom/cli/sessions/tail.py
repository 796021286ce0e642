"""Lines of a growing file, which may be half-written, rotated, truncated or removed; and where to resume.

Knows: files and bytes. Does not know: what becomes of the lines.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

from charloom.cli import CommandError

LONGEST_LINE = 65_536
"""Bytes of a line that are kept."""
BLOCK = 65_536
"""Bytes that are read at a time."""
_ROTATED = re.compile(r"[.-][0-9][0-9.-]*")
"""Suffix of the name of a rotated file: a number or a date."""
_HEAD = 256
"""Bytes at the beginning of a file by which it is recognised."""


class TailedLine(NamedTuple):
    """A line without its break."""

    content: bytes
    cut: bool
    """Whether the rest of it was left out."""
    end: int
    """Where the next one begins."""


@dataclass(frozen=True)
class Position:
    """How far a file was read; all lines before it have been reported."""

    inode: int
    offset: int
    """Offset in bytes of the beginning of a line, or within the part of a long line that is left out."""
    skipping: bool
    """Whether the next line break only ends a line that has been reported already."""
    head: str
    """SHA-256 of the file's beginning, up to `_HEAD` bytes before `offset`, in hexadecimal."""

    @classmethod
    def read(cls, path: Path) -> Position | None:
        """The one that a file holds; None where there is no file yet.

        Raises:
            CommandError: it holds something else.
        """
        try:
            fields = json.loads(path.read_text("utf-8"))
            found = cls(**fields)
            if [type(value) for value in asdict(found).values()] != [int, int, bool, str] or found.offset < 0:
                raise TypeError("its fields are of other types")
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as problem:
            raise CommandError(f"{path} is no position of a watch ({problem}); delete it to begin anew") from problem
        return found

    def write(self, path: Path) -> None:
        """Replace what a file holds, in one step."""
        fresh = _fresh(path)
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)


def require_place(path: Path) -> None:
    """Refuse a file for positions that could not be written, before lines are told.

    Raises:
        CommandError: it is a folder, there is no folder for it, or that may not be written to.
    """
    if path.is_dir():
        raise CommandError(f"--position {path} is a directory; give a file")
    try:
        _fresh(path).open("ab").close()
        _fresh(path).unlink()
    except OSError as problem:
        raise CommandError(
            f"--position {path} cannot be written: {problem.strerror}; give a file in a folder that is there and that "
            "this user may write to"
        ) from problem


def _fresh(path: Path) -> Path:
    """Where a position is written before it takes the place of the last one."""
    return path.with_name(f"{path.name}.new")


class Lines:
    """Bytes into lines; a line that is not complete waits for its end, up to `LONGEST_LINE`.

    Args:
        offset: of the first byte that will come
        skipping: whether these begin in a line that is left out
    """

    def __init__(self, offset: int = 0, *, skipping: bool = False) -> None:
        self.skipping = skipping
        self._rest = bytearray()
        self._at = offset

    @property
    def offset(self) -> int:
        """Where the first line begins that was not given out."""
        return self._at - len(self._rest)

    def feed(self, data: bytes) -> Iterator[TailedLine]:
        """The lines that these bytes end, or make too long."""
        start = 0
        while start < len(data):
            end = data.find(b"\n", start)
            piece = data[start:] if end < 0 else data[start:end]
            room = max(0, LONGEST_LINE + 1 - len(self._rest))
            complete = end >= 0
            taken = len(piece) + complete
            self._at += taken
            if self.skipping:
                self.skipping = not complete
            elif complete and len(self._rest) + len(piece) <= LONGEST_LINE:
                content = bytes(self._rest + piece)
                self._rest.clear()
                yield TailedLine(content.removesuffix(b"\r"), False, self._at)
            elif len(self._rest) + len(piece) > LONGEST_LINE:
                content = bytes(self._rest + piece[:room])[:LONGEST_LINE]
                self._rest.clear()
                self.skipping = not complete
                yield TailedLine(content, True, self._at)
            else:
                self._rest += piece
            start += taken

    def last(self) -> TailedLine | None:
        """What has no line break, because nothing more comes."""
        if not self._rest:
            return None
        content = bytes(self._rest)
        self._rest.clear()
        return TailedLine(content, False, self._at)


class Tail:
    """A file that grows, under a name that other files may take.

    Args:
        path: its name
        position: where to go on; None: at its beginning
    """

    def __init__(self, path: Path, position: Position | None = None) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._lines = Lines()
        self._head = b""
        if position is not None:
            self._go_on(position)

    @property
    def position(self) -> Position | None:
        """After the lines that `read` has given out; None while there is no file."""
        if self._file is None:
            return None
        head = self._head_before(self._lines.offset)
        return Position(os.fstat(self._file.fileno()).st_ino, self._lines.offset, self._lines.skipping, head)

    def after(self, line: TailedLine) -> Position | None:
        """After one of the lines that `read` has given out last; as `position` after the last of them."""
        found = self.position
        if found is None or line.end >= found.offset:
            return found
        return replace(found, offset=line.end, skipping=False, head=self._head_before(line.end))

    @property
    def there(self) -> bool:
        """Whether there is a file of this name."""
        return self._path.exists()

    def read(self, *, to_the_end: bool = False) -> list[TailedLine]:
        """Some more lines, none where there are no more by now; `to_the_end` also one without a break at the end."""
        if self._file is None:
            self._open()
        if self._file is None:
            return []
        if self._truncated():
            # The half-written line from before will not be completed.
            return self._restart() or self.read(to_the_end=to_the_end)
        over = self._replaced()  # checked before the read, so that nothing written to the old file until then is missed
        while data := self._file.read(BLOCK):
            self._head += data[: _HEAD - len(self._head)] if len(self._head) < _HEAD else b""
            if found := list(self._lines.feed(data)):
                return found
        if over:
            return self._open_next() or self.read(to_the_end=to_the_end)
        last = self._lines.last() if to_the_end else None
        return [] if last is None else [last]

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _head_before(self, offset: int) -> str:
        return hashlib.sha256(self._head[:offset]).hexdigest()

    def _restart(self) -> list[TailedLine]:
        """Go on at the beginning of the same file; returns what was half written."""
        assert self._file is not None
        last = self._lines.last()
        self._lines, self._head = Lines(), b""
        self._file.seek(0)
        return [] if last is None else [last]

    def _open_next(self) -> list[TailedLine]:
        """Go on at the beginning of the file that follows; returns what was half written."""
        last = self._lines.last()
        following = self._next()
        self.close()
        self._open(following)
        return [] if last is None else [last]

    def _truncated(self) -> bool:
        """Whether the file has fewer bytes than were read of it, or begins with others: then it has grown anew."""
        assert self._file is not None
        own = self._file.fileno()
        return os.fstat(own).st_size < self._file.tell() or os.pread(own, len(self._head), 0) != self._head

    def _replaced(self) -> bool:
        """Whether another file has the name now. While no file has it, this one may still grow."""
        assert self._file is not None
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False
        own = os.fstat(self._file.fileno())
        return (now.st_dev, now.st_ino) != (own.st_dev, own.st_ino)

    def _open(self, path: Path | None = None) -> None:
        path = path or self._path
        try:
            kind = path.stat().st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise CommandError(f"{path} is a pipe or device; give - and pipe the lines in")
            self._file = path.open("rb")
        except FileNotFoundError:
            return
        self._lines, self._head = Lines(), b""

    def _next(self) -> Path:
        """Which file was written after this one: of those that were rotated, the first that was changed later."""
        assert self._file is not None
        own = os.fstat(self._file.fileno())
        later: list[tuple[int, Path]] = []
        for path in self._path.parent.glob(f"{glob.escape(self._path.name)}[.-]*"):
            if _ROTATED.fullmatch(path.name.removeprefix(self._path.name)):
                with contextlib.suppress(FileNotFoundError):
                    facts = path.stat()
                    if facts.st_mtime_ns > own.st_mtime_ns and facts.st_ino != own.st_ino:
                        later.append((facts.st_mtime_ns, path))
        return min(later)[1] if later else self._path

    def _go_on(self, position: Position) -> None:
        """Open the file that was read, whatever its name is now; where it is gone, begin anew.

        One that has its number, but was truncated or is another one, is read from its beginning.
        """
        folder = self._path.parent
        names = sorted(folder.glob(f"{glob.escape(self._path.name)}*")) if folder.is_dir() else []
        for path in [self._path, *names]:
            if not path.is_file():  # opening a pipe would wait for a writer
                continue
            try:
                file = path.open("rb")
            except OSError:
                continue
            facts = os.fstat(file.fileno())
            head = file.read(_HEAD)
            same = hashlib.sha256(head[: position.offset]).hexdigest() == position.head
            if facts.st_ino != position.inode:
                file.close()
                continue
            same = same and facts.st_size >= position.offset
            file.seek(position.offset if same else 0)
            self._file = file
            if same:
                self._head, self._lines = head[: position.offset], Lines(position.offset, skipping=position.skipping)
            return
