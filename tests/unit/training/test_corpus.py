from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charloom.bundle import ByteVocabulary, CharacterVocabulary, Mask, Tokens, Unit, vocabulary_file
from charloom.training.data import texts
from charloom.training.data.batches import Batches
from charloom.training.data.corpus import Corpus, read_corpus
from charloom.training.data.documents import Documents
from charloom.training.data.texts import CorpusError


def corpus_in(directory: Path, content: bytes | str, unit: Unit = Unit.CHARACTER, share: float = 0.1) -> Corpus:
    path = directory / "text.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_corpus(path, unit, share)


def test_a_missing_file_is_named_with_advice(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"cannot read .*nothing\.txt: No such file.*give the path of a text file"):
        read_corpus(tmp_path / "nothing.txt", Unit.CHARACTER)


def test_a_folder_without_text_files_is_named_with_advice(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("text")
    with pytest.raises(CorpusError, match=r"there is no file \*\.txt in .* or below it; give other .* --include"):
        read_corpus(tmp_path, Unit.CHARACTER)


def test_an_empty_file_is_named_with_advice(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"text\.txt is empty; give a file with text"):
        corpus_in(tmp_path, b"")


@pytest.mark.parametrize(("raw", "offset", "byte"), [(b"ab\xe9c", 2, "e9"), (b"\xff", 0, "ff"), (b"abc\xc3", 3, "c3")])
def test_text_that_is_not_utf8_is_refused_with_byte_and_offset(
    raw: bytes, offset: int, byte: str, tmp_path: Path
) -> None:
    with pytest.raises(CorpusError, match=rf"not UTF-8: byte 0x{byte} at offset {offset} .*--encoding"):
        corpus_in(tmp_path, raw)


def test_the_split_is_contiguous_and_loses_nothing(tmp_path: Path) -> None:
    text = "".join(chr(97 + i % 26) for i in range(1000))
    corpus = corpus_in(tmp_path, text)
    decode = corpus.vocabulary.decode
    assert decode(corpus.train.tolist()) == text[:900]
    assert decode(corpus.validation.tolist()) == text[900:]
    assert corpus.characters == 1000
    assert corpus.name == "text.txt"
    assert corpus.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_the_split_of_a_text_of_tinyshakespeare_s_length_is_the_published_one(tmp_path: Path) -> None:
    corpus = corpus_in(tmp_path, ("to be, or not\n" * 80_000)[:1_115_394])
    assert (len(corpus.train), len(corpus.validation)) == (1_003_854, 111_540)


def test_the_vocabulary_is_of_the_whole_text_validation_part_included(tmp_path: Path) -> None:
    corpus = corpus_in(tmp_path, "a" * 95 + "bcdef")
    assert isinstance(corpus.vocabulary, CharacterVocabulary)
    assert corpus.vocabulary.symbols == ("a", "b", "c", "d", "e", "f")


def test_a_byte_corpus_is_split_in_bytes_and_counts_characters(tmp_path: Path) -> None:
    text = "ελληνικά " * 100
    corpus = corpus_in(tmp_path, text, Unit.BYTE, share=0.25)
    assert isinstance(corpus.vocabulary, ByteVocabulary)
    tokens = [*corpus.train.tolist(), *corpus.validation.tolist()]
    assert bytes(tokens) == text.encode()
    assert len(corpus.train) == int(0.75 * len(tokens))
    assert corpus.characters == len(text)


def test_a_given_vocabulary_is_used_and_its_gaps_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abé")
    advice = "take them out of the text, or train without a given vocabulary"
    with pytest.raises(CorpusError, match=rf"1 character.*'é' \(U\+00E9\) 1 times; {advice}"):
        read_corpus(tmp_path / "text.txt", Unit.CHARACTER, vocabulary=CharacterVocabulary.of_text("abc"))


def positions(count: int) -> Tokens:
    """Tokens that are their own positions."""
    return np.arange(count, dtype=np.int64)


@st.composite
def made_batches(draw: st.DrawFn) -> Batches:
    rows, length = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    count = (rows + 1) * length + draw(st.integers(0, 300))
    return Batches(positions(count), rows, length, draw(st.integers(0, 2**63 - 1)))


@given(batches=made_batches(), epoch=st.integers(0, 5))
def test_an_epoch_reads_contiguous_streams_inside_the_text_each_token_at_most_once(
    batches: Batches, epoch: int
) -> None:
    blocks = [batches.batch(epoch * batches.per_epoch + index) for index in range(batches.per_epoch)]
    for batch in blocks:
        assert batch.inputs.shape == batch.targets.shape == (batches.batch_size, batches.sequence_length)
        assert np.array_equal(batch.targets, batch.inputs + 1)
    streams = np.concatenate([batch.inputs for batch in blocks], axis=1)
    assert np.all(np.diff(streams, axis=1) == 1)  # each stream goes on where it was, from batch to batch too
    assert streams.min() >= 0
    assert streams.max() + 1 < len(batches.tokens)
    assert len(np.unique(streams)) == streams.size
    assert streams.size > len(batches.tokens) - (batches.batch_size + 1) * batches.sequence_length  # little is left out


@given(batches=made_batches(), step=st.integers(0, 1000))
def test_a_batch_is_a_function_of_seed_and_step_alone(batches: Batches, step: int) -> None:
    again = Batches(batches.tokens, batches.batch_size, batches.sequence_length, batches.seed)
    again.batch(step + 1)
    for left, right in zip(batches.batch(step), again.batch(step), strict=True):
        assert np.array_equal(left, right)


def test_the_offset_differs_between_epochs_and_between_seeds() -> None:
    first, second = (Batches(positions(5000), 4, 64, seed) for seed in (1, 2))
    offsets = [[int(b.batch(epoch * b.per_epoch)[0][0, 0]) for epoch in range(20)] for b in (first, second)]
    assert offsets[0] != offsets[1]
    for each in offsets:
        assert len(set(each)) > 10
        assert 0 <= min(each) <= max(each) < 64


def test_the_state_is_zero_at_the_first_step_of_each_epoch_only() -> None:
    batches = Batches(positions(500), 4, 10, 1)
    starts = [step for step in range(3 * batches.per_epoch) if batches.starts_epoch(step)]
    assert starts == [0, batches.per_epoch, 2 * batches.per_epoch]


def test_the_shortest_text_gives_one_batch_and_one_token_less_is_refused_with_advice() -> None:
    shortest = Batches(positions((8 + 1) * 16), 8, 16, 1)
    assert shortest.per_epoch == 1
    with pytest.raises(CorpusError) as caught:
        Batches(positions((8 + 1) * 16 - 1), 8, 16, 1)
    message = str(caught.value)
    assert "has 143 tokens" in message
    assert "batch_size 8 x sequence_length 16" in message
    assert "give more text, or lower --batch-size or --sequence-length" in message


def test_the_refusal_of_a_short_text_says_how_many_tokens_are_enough() -> None:
    with pytest.raises(CorpusError, match="fewer than the 144 "):
        Batches(positions((8 + 1) * 16 - 1), 8, 16, 1)


@pytest.mark.parametrize("documents", [Documents.STREAM, Documents.LINE])
def test_numbers_of_a_text_are_masked_wherever_it_is_cut(
    documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "BLOCK", 5)
    text = tmp_path / "some.log"
    text.write_text("took 12345678 ms at 0xdeadbeef\n" * 4)
    corpus = read_corpus(text, Unit.CHARACTER, 0.25, documents=documents, mask=Mask.NUMBERS)
    assert set(corpus.vocabulary.to_json()["symbols"]) <= set("took 0 ms at 0\n")  # type: ignore[call-overload]
    assert "took 0 ms at 0" in corpus.vocabulary.decode(corpus.train[:].tolist())


@pytest.mark.parametrize(
    ("limit", "problem"),
    [("MOST_SYMBOLS", "it has 7 symbols, more than 5"), ("LARGEST_VOCABULARY", r"its file has \d+ bytes, more than 5")],
)
def test_a_vocabulary_that_no_model_can_have_is_refused_before_tokens_are_written(
    limit: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary_file, limit, 5)
    text = tmp_path / "text.txt"
    text.write_text("one two three four\n" * 100)
    with pytest.raises(
        CorpusError, match=f"vocabulary of text.txt is too large: {problem}; lower --vocabulary-size, or"
    ):
        read_corpus(text, Unit.WORD, directory=tmp_path)
    assert list(tmp_path.iterdir()) == [text]


def test_tokens_that_were_kept_are_of_the_same_mask(tmp_path: Path) -> None:
    text = tmp_path / "some.log"
    text.write_text("took 12345678 ms\n" * 40)
    vocabulary = read_corpus(text, Unit.BYTE, directory=tmp_path).vocabulary
    plain = read_corpus(text, Unit.BYTE, vocabulary=vocabulary, directory=tmp_path)
    masked = read_corpus(text, Unit.BYTE, vocabulary=vocabulary, directory=tmp_path, mask=Mask.NUMBERS)
    assert len(masked.train) < len(plain.train)
