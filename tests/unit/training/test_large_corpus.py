"""Tokens on disk: corpora that are larger than memory, and tokens that are used again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from charloom.bundle import CharacterVocabulary, Unit
from charloom.training.data import corpus as corpus_module
from charloom.training.data.corpus import read_corpus
from charloom.training.data.documents import Documents
from charloom.training.data.token_files import smallest_type

MEGABYTES = 50
READ = """
import resource, sys
from pathlib import Path
from charloom.bundle import Unit
from charloom.training.data.batches import Batches
from charloom.training.data.corpus import read_corpus

def mapped():
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

limit = mapped() + 6 * {room}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
corpus = read_corpus(Path(sys.argv[1]), Unit.CHARACTER, directory=Path(sys.argv[2]))
batches = Batches(corpus.train, 64, 128, 1)
for step in range(0, batches.per_epoch, 100):
    assert batches.batch(step).inputs.max() < corpus.vocabulary.size
print(len(corpus.train), len(corpus.validation), corpus.characters, batches.per_epoch)
try:
    corpus.train[:]
except MemoryError:
    print("as int64 it does not fit")
"""


def test_a_text_is_read_in_less_memory_than_its_tokens_as_int64_take(tmp_path: Path) -> None:
    size = MEGABYTES << 20
    line = "".join(chr(32 + i * 7 % 90) for i in range(1023)) + "\n"
    with (tmp_path / "large.txt").open("w") as file:
        for _ in range(size // 1024 // 1024):
            file.write(line * 1024)
    script = READ.format(room=size)  # int64 takes 8 times the size; there is room for 6 times, the mapped file included
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "large.txt"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    train = int(size * (1 - 0.1))
    per_epoch = (train - 128) // 64 // 128
    assert done.stdout == f"{train} {size - train} {size} {per_epoch}\nas int64 it does not fit\n"
    assert (tmp_path / "tokens.bin").stat().st_size == size


@pytest.mark.parametrize(("symbols", "bytes_each"), [(2, 1), (256, 1), (257, 2), (65_536, 2), (65_537, 4), (2**32, 4)])
def test_tokens_are_kept_in_the_smallest_type_that_holds_them(symbols: int, bytes_each: int) -> None:
    kind = smallest_type(symbols)
    assert (kind.kind, kind.itemsize) == ("u", bytes_each)
    assert np.array([symbols - 1]).astype(kind)[0] == symbols - 1


def test_a_vocabulary_of_more_than_256_symbols_is_read_back_as_it_was(tmp_path: Path) -> None:
    text = "".join(chr(0x4E00 + i * 37 % 700) for i in range(3000))
    (tmp_path / "text.txt").write_text(text, "utf-8")
    corpus = read_corpus(tmp_path / "text.txt", Unit.CHARACTER)
    assert corpus.train.tokens.dtype == np.uint16
    assert corpus.vocabulary.decode(corpus.train.tolist() + corpus.validation.tolist()) == text


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Reads a text with a given vocabulary; tells the tokens, and whether the text was encoded for that."""
    (tmp_path / "text.txt").write_text("one\ntwo\nthree\n" * 10, "utf-8")
    encoded: list[int] = []
    encode = corpus_module._encoded
    monkeypatch.setattr(corpus_module, "_encoded", lambda *given: encoded.append(1) or encode(*given))

    def run(symbols: str = "ehnortw\n", documents: Documents = Documents.LINE) -> tuple[list[int], bool]:
        encoded.clear()
        vocabulary = CharacterVocabulary.of_text(symbols)
        corpus = read_corpus(
            tmp_path / "text.txt", Unit.CHARACTER, 0.2, vocabulary, documents=documents, directory=tmp_path
        )
        assert corpus.characters == (140 if documents is Documents.STREAM else 110)
        assert (corpus.train.starts is None) == (documents is Documents.STREAM)
        return corpus.train.tolist() + corpus.validation.tolist(), bool(encoded)

    return run


def test_tokens_are_made_once_for_a_text_a_vocabulary_and_a_way_to_cut(read, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    first, made = read()
    assert made
    assert read() == (first, False)
    others, made = read("ehnortwxyz\n")
    assert made
    assert others == first  # the first eight symbols are the same
    assert read(documents=Documents.STREAM)[1]
    assert not (tmp_path / "documents.bin").exists()
    assert read()[1]
    (tmp_path / "text.txt").write_text("two\none\nthree\n" * 10, "utf-8")
    changed, made = read()
    assert made
    assert changed != first


@pytest.mark.parametrize(
    "damage", ["tokens.bin", "documents.bin", "tokens.json", "no facts", "other schema", "no tokens", "no documents"]
)
def test_tokens_that_are_not_whole_are_made_again(read, damage: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    first, _ = read()
    if damage == "no facts":
        (tmp_path / "tokens.json").unlink()
    elif damage in ("no tokens", "no documents"):
        (tmp_path / {"no tokens": "tokens.bin", "no documents": "documents.bin"}[damage]).unlink()
    elif damage == "other schema":
        facts = json.loads((tmp_path / "tokens.json").read_text()) | {"schema": "charloom.tokens/0"}
        (tmp_path / "tokens.json").write_text(json.dumps(facts))
    else:
        file = tmp_path / damage
        file.write_bytes(file.read_bytes()[:-1])
    assert read() == (first, True)


def test_tokens_in_use_stay_as_they_are_when_the_files_are_made_anew(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abcd" * 20)
    corpus = read_corpus(tmp_path / "text.txt", Unit.CHARACTER, directory=tmp_path)
    before = corpus.train.tolist()
    (tmp_path / "text.txt").write_text("xyz")
    read_corpus(tmp_path / "text.txt", Unit.CHARACTER, directory=tmp_path)
    assert corpus.train.tolist() == before
