"""Where one text ends and another one begins.

It cuts files into documents, and text into parts where neither its words nor its Unicode form change.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from charloom.bundle import Mask
from charloom.training.data.texts import pieces


class Documents(str, enum.Enum):
    """What a document is. Each one starts from the zero state, as a fresh session on a server does."""

    STREAM = "stream"
    """All files together are one text; a newline is put between two where the first does not end with one."""
    FILE = "file"
    """Each file."""
    BLANK_LINE = "blank-line"
    """The lines between blank ones, the last one's line break included. A file's end is a document's end too."""
    LINE = "line"
    """Each line that is not blank, without its line break."""


class Part(NamedTuple):
    """Some text of a document."""

    begins: bool
    """Whether it is the document's first."""
    text: str


def parts(
    files: Sequence[Path], documents: Documents, *, uncut: bool, encoding: str = "utf-8", mask: Mask = Mask.NONE
) -> Iterator[list[Part]]:
    """The text of all documents, in order, some parts at a time.

    Args:
        files: text in `encoding`
        documents: how the files are cut into documents
        uncut: cut only where neither a word nor a composed character goes on
        mask: which numbers are made alike; no number is cut then

    Raises:
        CorpusError: a file cannot be read as text in this encoding.
    """
    for some in _unmasked(files, documents, uncut or mask is not Mask.NONE, encoding):
        yield [Part(part.begins, mask.apply(part.text)) for part in some]


def _unmasked(files: Sequence[Path], documents: Documents, uncut: bool, encoding: str) -> Iterator[list[Part]]:
    if documents is Documents.STREAM:
        text = _joined(files, encoding)
        yield from ([Part(False, piece)] for piece in (_uncut(text) if uncut else text))
        return
    for file in files:
        if documents is Documents.FILE:
            for number, piece in enumerate(_uncut(pieces(file, encoding)) if uncut else pieces(file, encoding)):
                yield [Part(number == 0, piece)]
        elif documents is Documents.LINE:
            for lines in _lines(pieces(file, encoding)):
                yield [Part(True, line.removesuffix("\r")) for line in lines if line.strip()]
        else:
            yield from _paragraphs(_lines(pieces(file, encoding)))


def _joined(files: Sequence[Path], encoding: str) -> Iterator[str]:
    last = "\n"
    for file in files:
        if last != "\n":
            yield "\n"
        for piece in pieces(file, encoding):
            yield piece
            last = piece[-1]


def _uncut(text: Iterable[str]) -> Iterator[str]:
    """The same text, cut only before ASCII white space: it begins a token, and composes with nothing before it."""
    kept: list[str] = []
    for piece in text:
        place = max(piece.rfind(space) for space in " \n\t")
        if place < 0:
            kept.append(piece)
            continue
        if before := "".join(kept) + piece[:place]:
            yield before
        kept = [piece[place:]]
    if kept:
        yield "".join(kept)


def _lines(text: Iterable[str]) -> Iterator[list[str]]:
    """Whole lines without their newlines, some at a time."""
    kept: list[str] = []
    for piece in text:
        head, newline, rest = piece.rpartition("\n")
        if newline:
            yield ("".join(kept) + head).split("\n")
            kept = []
        kept.append(rest)
    if last := "".join(kept):
        yield [last]


def _paragraphs(batches: Iterable[list[str]]) -> Iterator[list[Part]]:
    begins = True
    for lines in batches:
        found: list[Part] = []
        run: list[str] = []
        for line in [*lines, None]:
            if line is not None and line.strip():
                run.append(line)
                continue
            if run:
                found.append(Part(begins, "\n".join(run) + "\n"))
                run, begins = [], False
            begins = begins or line is not None
        yield found
