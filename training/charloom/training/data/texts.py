"""The files of a corpus as text, a piece at a time."""

from __future__ import annotations

import codecs
import hashlib
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, NamedTuple

from charloom.training.data.text_settings import PLAIN, TextSettings
from charloom.training.files import replacing

BLOCK = 1 << 20
"""Bytes that are read at a time."""
ZEROS = 0.7
"""Share of zeros among every other byte above which a text is taken for UTF-16, if the bytes between have few."""
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # begins with the next one
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_BE: "utf-16",
}
STDIN = Path("-")
"""Stands for standard input among the inputs of a command."""


class CorpusError(ValueError):
    """A text cannot be trained on; the message says why and what to do."""


class TextFiles(NamedTuple):
    """The files that some inputs stand for."""

    files: list[Path]
    left_out: int
    """How many were no text, where the settings leave such out."""


def text_files(inputs: Sequence[Path], settings: TextSettings = PLAIN) -> TextFiles:
    """The files that are meant: a folder stands for those below it that the settings include, by their paths.

    Hidden files and folders are never read.

    Raises:
        CorpusError: a folder has none, or what is given is no file.
    """
    files: list[Path] = []
    bad = 0
    for path in inputs:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise CorpusError(f"{path} is a pipe or device, and can be read only once; give - and pipe the text in")
        if not path.is_dir():
            files.append(path)
            continue
        found = _below(path, settings.include)
        if not found:
            raise CorpusError(
                f"there is no file {settings.include} in {path} or below it; "
                "give other files by name, or their pattern with --include"
            )
        texts = [file for file in found if not settings.skip_bad or _is_text(file, settings.encoding)]
        if not texts:
            raise CorpusError(f"no file {settings.include} below {path} is text in {settings.encoding}")
        files += texts
        bad += len(found) - len(texts)
    return TextFiles(files, bad)


def included(name: str, include: str) -> bool:
    """Whether a file of this name is meant by the patterns of `TextSettings.include`."""
    patterns = (pattern.strip().lower() for pattern in include.split(","))
    return not name.startswith(".") and any(fnmatchcase(name.lower(), pattern) for pattern in patterns)


def _below(folder: Path, include: str) -> list[Path]:
    def hidden(file: Path) -> bool:
        return any(part.startswith(".") for part in file.relative_to(folder).parts)

    found = (file for file in folder.rglob("*") if included(file.name, include) and not hidden(file))
    return sorted(file for file in found if file.is_file())


def _is_text(file: Path, encoding: str) -> bool:
    try:
        for _ in pieces(file, encoding):
            pass
    except CorpusError:
        return False
    return True


def name_of(inputs: Sequence[Path]) -> str:
    """What to call the text of these inputs; bytes of a file's name that are no UTF-8 are spelt out."""
    first = os.fsencode(inputs[0].resolve().name).decode("utf-8", "backslashreplace")
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


def pieces(file: Path, encoding: str = "utf-8") -> Iterator[str]:
    """The text of a file, without a byte order mark, in pieces.

    Raises:
        CorpusError: the file is missing, empty, or not of this encoding.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    read, empty = 0, True
    for block in _blocks(file):
        if not read and _is_utf_8(encoding):
            _refuse_wide(file, block)
        read += len(block)
        text = _decoded(file, decoder, block, read, encoding)
        if empty:
            text = text.removeprefix("\ufeff")
        if text:
            empty = False
            yield text
    _decoded(file, decoder, b"", read, encoding, final=True)
    if empty:
        raise CorpusError(f"{file} is empty; give a file with text")


def read_text(file: Path, encoding: str = "utf-8") -> str:
    """The text of a file as a whole.

    Raises:
        CorpusError: as `pieces`.
    """
    return "".join(pieces(file, encoding))


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
            f"cannot read {file}: {problem.strerror}; give the path of a text file, or of a folder of text files"
        ) from problem


def _decoded(
    file: Path, decoder: codecs.IncrementalDecoder, block: bytes, read: int, encoding: str, *, final: bool = False
) -> str:
    """The text of the next bytes; `read` of the file's bytes have been given to the decoder with them."""
    try:
        text = decoder.decode(block, final)
        if not _is_utf_8(encoding):
            text.encode()
        return text
    except UnicodeDecodeError as problem:
        offset = read - len(problem.object) + problem.start
        advice = "say which encoding it has with --encoding"
        if _is_utf_8(encoding):
            advice += " (of Western text, most often cp1252), or convert it with `iconv`"
        raise CorpusError(
            f"{file} is not {encoding.upper()}: byte 0x{problem.object[problem.start]:02x} at offset {offset} "
            f"({problem.reason}); {advice}"
        ) from problem
    except UnicodeError as problem:
        why = getattr(problem, "reason", problem)
        raise CorpusError(
            f"{file} is not {encoding.upper()}: {why}; say which encoding it has with --encoding"
        ) from problem


def _is_utf_8(encoding: str) -> bool:
    """Whether it is another name of UTF-8."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def _refuse_wide(file: Path, block: bytes) -> None:
    """Refuse UTF-16 and UTF-32 about to be read as UTF-8: by their marks, or by the zero bytes of UTF-16's ASCII."""
    named = next((name for mark, name in _MARKS.items() if block.startswith(mark)), None)
    if named is None and len(block) > 1:
        even, odd = (block[start::2].count(0) / len(block[start::2]) for start in (0, 1))
        if max(even, odd) > ZEROS and min(even, odd) < 1 - ZEROS:
            named = "utf-16-le" if odd > even else "utf-16-be"
    if named is not None:
        raise CorpusError(f"{file} seems to be {named[:6].upper()}, and not UTF-8; read it with --encoding {named}")
