"""Files of a run: replaced in one step, or grown line by line."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from pydantic import TypeAdapter

from charloom.bundle import parse_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Made = TypeVar("Made", bound="DataclassInstance")


class CheckpointError(Exception):
    """A checkpoint or run directory cannot be used; the message says why and what to do."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` in the end: a kill leaves the old content or the new one.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full; the old content is there.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as problem:
        kept = "what was saved there before is whole" if path.exists() else "nothing was saved there before"
        raise CheckpointError(f"cannot write {path}: {problem.strerror}; {kept}; {_mend(problem)}") from problem
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in one step, as `replacing` does."""
    with replacing(path) as file:
        file.write(content)


def json_line(record: dict[str, Any]) -> bytes:
    """The line of JSON for a record, with its line break."""
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add a line of JSON.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        with path.open("ab") as file:
            file.write(json_line(record))
    except OSError as problem:
        raise CheckpointError(f"cannot write {path}: {problem.strerror}; {_mend(problem)}") from problem


def _mend(problem: OSError) -> str:
    """What to do about a file that cannot be written."""
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "make it writable for this user, or copy the run elsewhere"
    return "make room and go on"


def read_records(path: Path) -> list[dict[str, Any]]:
    """What `append_record` added; a last line that was cut short, by a kill or a full disk, does not count.

    Raises:
        CheckpointError: a line is damaged.
    """
    if not path.is_file():
        return []
    records = []
    for line in path.read_bytes().split(b"\n")[:-1]:  # and at no other line break, of which samples may have some
        try:
            record = parse_json(line)
            if not isinstance(record, dict):
                raise ValueError("it is no JSON object")
        except ValueError as problem:
            start = line[:60].decode(errors="replace")
            raise CheckpointError(f"{path} is damaged ({problem}); remove the line: {start}") from problem
        records.append(record)
    return records


def typed(kind: type[Made], told: dict[str, Any]) -> Made:
    """A dataclass from JSON, the types of its fields checked.

    Raises:
        TypeError, ValueError: a field is missing, unknown or of another type.
    """
    return TypeAdapter(kind).validate_python(asdict(kind(**told)))


def said_of(problem: Exception) -> str:
    """What is wrong with JSON, in one line."""
    return f"it has no {problem}" if isinstance(problem, KeyError) else " ".join(str(problem).split())


@contextlib.contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """While what a file holds is taken apart: what is missing, or of another type or size, is said of the file.

    Raises:
        CheckpointError: something is.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as problem:
        raise CheckpointError(f"{path} is damaged ({said_of(problem)}); restore it from a copy") from problem


def drop_records_after(path: Path, step: int) -> None:
    """Keep the records up to a step, where there is such a file.

    Raises:
        CheckpointError: a line is damaged.
    """
    if path.is_file():
        with undamaged(path):
            kept = [record for record in read_records(path) if record["step"] <= step]
        replace_file(path, b"".join(json_line(record) for record in kept))
