"""Files as text, and text as documents."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charloom.bundle import CharacterVocabulary, Normalisation, Unit, WordVocabulary
from charloom.training.data import texts
from charloom.training.data.corpus import read_corpus, read_stream
from charloom.training.data.documents import Documents, parts
from charloom.training.data.stream import Stream
from charloom.training.data.texts import CorpusError, digest_of, name_of, pieces, spool, text_files

TEXTS = st.lists(st.text("ab é\u0301\n\r\t夜'", min_size=1).filter(lambda text: text.strip("\ufeff")), min_size=1)


def written(folder: Path, contents: list[str]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for file in folder.glob("*.txt"):
        file.unlink()
    for number, content in enumerate(contents):
        (folder / f"{number:03}.txt").write_bytes(content.encode())
    return text_files([folder]).files


def documents_of(contents: list[str], kind: Documents) -> list[str]:
    """The documents by their definitions, from whole texts."""
    if kind is Documents.FILE:
        return contents
    if kind is Documents.STREAM:
        return ["".join(text if text.endswith("\n") else text + "\n" for text in contents[:-1]) + contents[-1]]
    lines = [text.removesuffix("\n").split("\n") for text in contents]
    if kind is Documents.LINE:
        return [line.removesuffix("\r") for each in lines for line in each if line.strip()]
    found = []
    for each in lines:
        blocks = re.split(r"(?:^|\n)\0(?=\n|$)", "\n".join(line if line.strip() else "\0" for line in each))
        found += ["\n".join(filter(None, block.split("\n"))) + "\n" for block in blocks if block.strip("\n")]
    return found


@pytest.mark.parametrize("kind", Documents)
@pytest.mark.parametrize("uncut", [False, True])
@given(contents=TEXTS, block=st.integers(1, 12))
def test_documents_are_found_wherever_the_pieces_of_the_files_are_cut(
    kind: Documents, uncut: bool, contents: list[str], block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = written(tmp_path_factory.getbasetemp() / "documents", contents)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(texts, "BLOCK", block)
        found: list[str] = []
        for some in parts(files, kind, uncut=uncut):
            for part in some:
                assert part.text
                if part.begins:
                    found.append("")
                elif not found:
                    assert kind is Documents.STREAM
                    found.append("")
                found[-1] += part.text
    assert found == documents_of(contents, kind)


@given(contents=TEXTS, block=st.integers(1, 12), kind=st.sampled_from(Documents))
def test_words_and_composed_characters_are_the_same_wherever_the_pieces_are_cut(
    contents: list[str], block: int, kind: Documents, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = written(tmp_path_factory.getbasetemp() / "uncut", contents)
    expected = documents_of(contents, kind)
    vocabulary = WordVocabulary(["�", "\n", " ", "a", "b", "ab", "é", "aé", "a'b", "夜"], Normalisation.NFC)
    if not expected:
        return
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(texts, "BLOCK", block)
        stream = read_stream(files, vocabulary, kind)
    tokens: list[int] = []
    for document in expected:
        tokens += [] if kind is Documents.STREAM else [vocabulary.start_token]
        tokens += vocabulary.encode(document).tolist()
    assert stream.tolist() == tokens


def test_lines_end_at_newlines_alone(tmp_path: Path) -> None:
    files = written(tmp_path / "texts", ["one\x0b1\u20282\r\n \t\n\ntwo\x85"])
    assert [part.text for some in parts(files, Documents.LINE, uncut=False) for part in some] == [
        "one\x0b1\u20282",
        "two\x85",
    ]


def test_a_folder_stands_for_the_text_files_below_it_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/deep/y.txt", "c.txt", "a/notes.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "folder.txt").mkdir()
    names = [str(path.relative_to(tmp_path)) for path in text_files([tmp_path]).files]
    assert names == ["a/deep/y.txt", "a/z.txt", "b.txt", "c.txt"]
    again = text_files([tmp_path / "c.txt", tmp_path / "a", tmp_path / "c.txt"]).files
    assert [path.name for path in again] == ["c.txt", "y.txt", "z.txt", "c.txt"]
    assert name_of([tmp_path / "c.txt", tmp_path / "a"]) == "c.txt and 1 more"
    assert name_of([tmp_path / "a"]) == "a"


@pytest.mark.parametrize("block", [1, 2, 3, 5, 1000])
def test_a_byte_order_mark_is_no_text(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "BLOCK", block)
    files = written(tmp_path / "texts", ["\ufeffab", "\ufeffc"])
    assert ["".join(pieces(file)) for file in files] == ["ab", "c"]
    empty = written(tmp_path / "texts", ["\ufeff"])
    with pytest.raises(CorpusError, match=r"000\.txt is empty"):
        list(pieces(empty[0]))


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(("raw", "offset", "byte"), [("é夜\xe9".encode() + b"\xe9!", 7, "e9"), (b"abc\xc3", 3, "c3")])
def test_a_byte_that_is_not_utf8_is_named_with_file_and_offset_wherever_it_is(
    raw: bytes, offset: int, byte: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "BLOCK", block)
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.txt").write_bytes(raw)
    with pytest.raises(CorpusError, match=rf"b\.txt is not UTF-8: byte 0x{byte} at offset {offset} .*--encoding"):
        read_corpus(tmp_path, Unit.CHARACTER)


def test_an_empty_file_among_others_is_named(tmp_path: Path) -> None:
    files = written(tmp_path, ["some text", ""])
    with pytest.raises(CorpusError, match=r"001\.txt is empty"):
        read_corpus(files, Unit.CHARACTER)


def test_the_digest_of_one_file_is_that_of_its_bytes_and_of_several_knows_where_they_end(tmp_path: Path) -> None:
    one = written(tmp_path, ["abc"])
    assert digest_of(one) == hashlib.sha256(b"abc").hexdigest()
    found = {digest_of(written(tmp_path, contents)) for contents in (["abc"], ["ab", "c"], ["a", "bc"], ["c", "ab"])}
    assert len(found) == 4


def test_what_comes_once_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "BLOCK", 3)
    spool(io.BytesIO(b"0123456789"), tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == b"0123456789"


@pytest.mark.parametrize("kind", [Documents.FILE, Documents.BLANK_LINE, Documents.LINE])
def test_documents_begin_with_the_start_token_of_a_fresh_session(kind: Documents, tmp_path: Path) -> None:
    contents = ["one\n\ntwo\nthree", "four\n"]
    corpus = read_corpus(written(tmp_path, contents), Unit.CHARACTER, 0.3, documents=kind)
    vocabulary = corpus.vocabulary
    assert vocabulary.symbol(vocabulary.start_token) == b"\n"
    assert corpus.train.starts is not None
    assert corpus.validation.starts is not None
    found = []
    for part in (corpus.train, corpus.validation):
        assert part.starts is not None
        places = [*part.starts.tolist(), len(part)]
        found += [vocabulary.decode(part[a:b].tolist()) for a, b in itertools.pairwise(places)]
    assert found == ["\n" + document for document in documents_of(contents, kind)]


def test_documents_without_a_newline_have_one_before_them_all_the_same(tmp_path: Path) -> None:
    for unit in (Unit.CHARACTER, Unit.WORD):
        corpus = read_corpus(written(tmp_path, ["a b", "b a"]), unit, 0.5, documents=Documents.FILE, vocabulary_size=3)
        assert corpus.vocabulary.symbol(corpus.vocabulary.start_token) == b"\n"
    assert corpus.vocabulary.size == 3


@pytest.mark.parametrize(("contents", "what"), [(["aaaa", "aa"], "nothing but 'a'"), ([" \n\n \n"], "no documents")])
def test_a_text_that_teaches_nothing_is_refused(contents: list[str], what: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=f"{what}: there is nothing to learn; give a text of different characters"):
        read_corpus(written(tmp_path, contents), Unit.BYTE, documents=Documents.LINE)


def test_one_document_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"has 1 document\(s\).*take it as one with --documents stream"):
        read_corpus(written(tmp_path, ["only this"]), Unit.CHARACTER, documents=Documents.FILE)


def test_missing_characters_are_counted_the_most_frequent_first(tmp_path: Path) -> None:
    vocabulary = CharacterVocabulary.of_text("ab")
    with pytest.raises(CorpusError) as caught:
        read_corpus(written(tmp_path, ["abc", "ddd", "cefghijklmnop"]), Unit.CHARACTER, vocabulary=vocabulary)
    assert str(caught.value).startswith("19 character(s) of ")
    # each of the two files before the last is followed by a newline, which is missing too
    assert "vocabulary: 'd' (U+0064) 3 times, '\\n' (U+000A) 2 times, 'c' (U+0063) 2 times, 'e' " in str(caught.value)
    assert "and 5 more; take them out of the text" in str(caught.value)


def test_a_given_vocabulary_brings_its_unit_and_form(tmp_path: Path) -> None:
    vocabulary = CharacterVocabulary(sorted("é "), Normalisation.NFC)
    files = written(tmp_path, [unicodedata.normalize("NFD", "é é " * 5)])
    corpus = read_corpus(files, Unit.BYTE, 0.25, vocabulary)
    assert (len(corpus.train), len(corpus.validation), corpus.characters) == (15, 5, 20)


def test_the_cut_is_at_the_nearest_start_of_a_document() -> None:
    stream = Stream(np.arange(100), np.array([0, 10, 70, 84, 99]))
    for share, expected in ((0.1, 84), (0.08, 99), (0.3, 70), (0.4, 70), (0.7, 10), (0.999, 10), (1e-9, 99)):
        train, validation = stream.split(share)
        assert (len(train), len(validation)) == (expected, 100 - expected)
        assert train.starts is not None
        assert validation.starts is not None
        assert validation.starts[0] == train.starts[0] == 0
        assert [*train.starts, *(validation.starts + expected)] == [0, 10, 70, 84, 99]
        assert [*train.tolist(), *validation.tolist()] == list(range(100))
