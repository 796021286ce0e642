"""The files of a corpus as text, a piece at a time.

Knows: paths, UTF-8, SHA-256. Does not know: documents, tokens.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from charloom.training.files import replacing

BLOCK = 1 << 20
"""Bytes that are read at a time."""
STDIN = Path("-")
"""Stands for standard input among the inputs of a command."""


class CorpusError(ValueError):
    """A text cannot be trained on; the message says why and what to do."""


def text_files(inputs: Sequence[Path]) -> list[Path]:
    """The files that are meant: a folder stands for every .txt file below it, in the order of their paths.

    Raises:
        CorpusError: a folder has none, or what is given is no file.
    """
    files: list[Path] = []
    for path in inputs:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise CorpusError(f"{path} is a pipe or device, and can be read only once; give - and pipe the text in")
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(file for file in path.rglob("*.txt") if file.is_file())
        if not found:
            raise CorpusError(f"there is no .txt file in {path} or below it; give other files by name")
        files += found
    return files


def name_of(inputs: Sequence[Path]) -> str:
    """What to call the text of these inputs."""
    first = inputs[0].resolve().name
    return first if len(inputs) == 1 else f"{first} and {len(inputs) - 1} more"


def digest_of(files: Sequence[Path]) -> str:
    """What identifies the content: the sha256 of the bytes of one file; of several, the sha256 of theirs, in a row.

    Raises:
        CorpusError: a file cannot be read.
    """
    digests = []
    for file in files:
        digest = hashlib.sha256()
        for block in _blocks(file):
            digest.update(block)
        digests.append(digest)
    if len(digests) == 1:
        return digests[0].hexdigest()
    return hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()


def pieces(file: Path) -> Iterator[str]:
    """The text of a UTF-8 file, without a byte order mark, in pieces.

    Raises:
        CorpusError: the file is missing, empty or not UTF-8.
    """
    done, unread, empty = 0, b"", True
    for block in _blocks(file):
        text, used = _decoded(file, unread + block, done, final=False)
        if not done:
            text = text.removeprefix("\ufeff")
        unread, done = (unread + block)[used:], done + used
        if text:
            empty = False
            yield text
    _decoded(file, unread, done, final=True)
    if empty:
        raise CorpusError(f"{file} is empty; give a file with text")


def read_text(file: Path) -> str:
    """The text of a UTF-8 file as a whole.

    Raises:
        CorpusError: as `pieces`.
    """
    return "".join(pieces(file))


def spool(source: BinaryIO, file: Path) -> None:
    """Keep what comes from `source`, to be read more than once.

    Raises:
        CheckpointError: it cannot be written.
    """
    with replacing(file) as copy:
        while block := source.read(BLOCK):
            copy.write(block)


def _blocks(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as opened:
            while block := opened.read(BLOCK):
                yield block
    except OSError as problem:
        raise CorpusError(
            f"cannot read {file}: {problem.strerror}; give the path of a text file, or of a folder of .txt files"
        ) from problem


def _decoded(file: Path, raw: bytes, offset: int, *, final: bool) -> tuple[str, int]:
    """As much text as `raw` has, which stands at `offset` in the file, and how many bytes that is."""
    try:
        return codecs.utf_8_decode(raw, "strict", final)
    except UnicodeDecodeError as problem:
        raise CorpusError(
            f"{file} is not UTF-8: byte 0x{raw[problem.start]:02x} at offset {offset + problem.start} "
            f"({problem.reason}); convert it, for example with `iconv -f LATIN1 -t UTF-8`"
        ) from problem
