"""Which files of a folder are read, and in which encoding."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from charloom.bundle import Unit
from charloom.training.data.corpus import read_corpus
from charloom.training.data.text_settings import TextSettings
from charloom.training.data.texts import CorpusError, name_of, pieces, text_files


def make(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def names_in(folder: Path, **settings: object) -> list[str]:
    return [str(file.relative_to(folder)) for file in text_files([folder], TextSettings.model_validate(settings)).files]


def test_hidden_files_and_folders_are_never_read(tmp_path: Path) -> None:
    hidden = [".secret.txt", "._a.txt", ".ipynb_checkpoints/a.txt", "b/.git/c.txt"]
    make(tmp_path / ".cache" / "texts", dict.fromkeys([*hidden, "a.txt", "b/c.txt"], b"text"))
    assert names_in(tmp_path / ".cache" / "texts") == ["a.txt", "b/c.txt"]  # what is above the folder does not count


def test_patterns_choose_files_in_capitals_or_not(tmp_path: Path) -> None:
    make(tmp_path, dict.fromkeys(["BOOK.TXT", "a.txt", "b.md", "tune.abc"], b"text"))
    assert names_in(tmp_path) == ["BOOK.TXT", "a.txt"]
    assert names_in(tmp_path, include="*.md, *.ABC") == ["b.md", "tune.abc"]
    with pytest.raises(CorpusError, match=r"there is no file \*\.py in .*--include"):
        names_in(tmp_path, include="*.py")


@pytest.mark.parametrize("include", ["", "*.txt,", " "])
def test_an_empty_pattern_is_refused(include: str) -> None:
    with pytest.raises(ValidationError, match="a pattern is empty"):
        TextSettings(include=include)


def test_files_that_are_no_text_are_left_out_where_asked_for_and_counted(tmp_path: Path) -> None:
    make(tmp_path, {"a.txt": b"good text", "b.txt": b"", "c.txt": b"caf\xe9", "d.txt": b"more"})
    with pytest.raises(CorpusError, match=r"b\.txt is empty"):
        read_corpus(tmp_path, Unit.CHARACTER)
    corpus = read_corpus(tmp_path, Unit.CHARACTER, settings=TextSettings(skip_bad=True))
    assert (corpus.characters, corpus.left_out) == (len("good text\nmore"), 2)
    make(tmp_path / "bad", {"a.txt": b"\xff"})
    with pytest.raises(CorpusError, match=r"no file \*\.txt below .*bad is text in utf-8"):
        read_corpus(tmp_path / "bad", Unit.CHARACTER, settings=TextSettings(skip_bad=True))
    with pytest.raises(CorpusError, match="is not UTF-8"):  # a file that is given by name is meant
        read_corpus(tmp_path / "c.txt", Unit.CHARACTER, settings=TextSettings(skip_bad=True))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp1252", "latin-1", "utf-8-sig"])
def test_a_text_is_the_same_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    text = "Ein Café – nein, zwei Cafés.\r\n" if encoding != "latin-1" else "Ein Café.\r\n"
    (tmp_path / "a.txt").write_bytes((text * 100).encode(encoding))
    assert "".join(pieces(tmp_path / "a.txt", TextSettings(encoding=encoding).encoding)) == text * 100


@pytest.mark.parametrize(
    ("raw", "advice"),
    [
        ("Some English text.".encode("utf-16"), "--encoding utf-16$"),
        ("Some English text.".encode("utf-32"), "--encoding utf-32$"),
        ("Some English text.".encode("utf-16-le"), "--encoding utf-16-le$"),
        ("Some English text.".encode("utf-16-be"), "--encoding utf-16-be$"),
        (b"\x93quoted\x94", "--encoding .*cp1252.*iconv"),
    ],
)
def test_advice_names_the_encoding(raw: bytes, advice: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(raw)
    with pytest.raises(CorpusError, match=advice):
        list(pieces(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    ("encoding", "raw", "why"),
    [
        ("utf-7", b"half of a pair: +2AA-", "surrogates not allowed"),
        ("raw_unicode_escape", rb"half of a pair: \udc00", "surrogates not allowed"),
        ("punycode", b"\\", "Invalid extended code point"),
    ],
)
def test_what_is_no_text_in_a_strange_encoding_is_refused_with_advice(
    encoding: str, raw: bytes, why: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(raw)
    with pytest.raises(CorpusError, match=rf"a\.txt is not {encoding.upper()}: .*{why}.*--encoding$"):
        list(pieces(tmp_path / "a.txt", encoding))


def test_a_few_zeros_are_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\0two\0three\0")
    assert list(pieces(tmp_path / "a.txt")) == ["one\0two\0three\0"]


@pytest.mark.parametrize("encoding", ["klingon", "base64", ""])
def test_an_encoding_that_python_lacks_is_refused_with_advice(encoding: str) -> None:
    with pytest.raises(ValidationError, match="give one that Python knows"):
        TextSettings(encoding=encoding)


def test_a_name_that_is_no_utf8_is_spelt_out(tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    file.write_text("text")
    assert name_of([file]) == r"caf\xe9.txt"
    corpus = read_corpus(file, Unit.CHARACTER)
    corpus.name.encode()  # it is written into checkpoints and manifests
