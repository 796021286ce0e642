"""Documents in batches and in losses: each from the zero state, none padded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charloom.bundle import DecoderKind, read_bundle
from charloom.export import export_bundle
from charloom.export.measure import decoder_tail_loss
from charloom.network.model import CharLSTM
from charloom.training import evaluate
from charloom.training.checkpoint import load_trained
from charloom.training.data.batches import Batches
from charloom.training.data.corpus import read_corpus
from charloom.training.data.documents import Documents
from charloom.training.data.stream import Stream
from charloom.training.evaluate import tail_estimate, tail_loss, windows_loss
from charloom.training.loop import Trainer
from charloom.training.run_directory import load_validation, save_validation
from tests.unit.training.training_runs import Recorder, random_model, tiny_config

VOCABULARY = 7


@pytest.fixture(scope="module")
def model() -> CharLSTM:
    return random_model(VOCABULARY)


def stream_of(count: int, *starts: int) -> Stream:
    tokens = np.random.default_rng(1).integers(VOCABULARY, size=count).astype(np.uint8)
    return Stream(tokens, np.array([0, *starts], np.int64))


@torch.no_grad()
def loss_by_documents(model: CharLSTM, stream: Stream, first: int = 0, last: int | None = None) -> float:
    """Mean loss of the predictions at the places from `first` up to `last`, one token at a time.

    It starts from the zero state there, and at each document.
    """
    model.eval()
    last = len(stream) - 1 if last is None else last
    assert stream.starts is not None
    state = model.zero_state(1)
    total = 0.0
    for place in range(first, last):
        if place in stream.starts.tolist():
            state = model.zero_state(1)
        logits, state = model(torch.tensor([[int(stream.tokens[place])]]), state)
        total -= float(torch.log_softmax(logits[0, 0], 0)[int(stream.tokens[place + 1])])
    return total / (last - first)


@pytest.mark.parametrize("starts", [(), (1,), (10, 11, 12), (63, 64, 65, 128, 299)])
@pytest.mark.parametrize("chunk", [7, 64, 4096])
def test_tail_starts_each_document_from_the_zero_state(starts: tuple[int, ...], chunk: int, model: CharLSTM) -> None:
    stream = stream_of(300, *starts)
    assert tail_loss(model, stream, chunk) == pytest.approx(loss_by_documents(model, stream), abs=1e-5)
    if len(starts) > 1:
        assert abs(tail_loss(model, stream) - tail_loss(model, stream[:])) > 1e-3


def test_windows_start_documents_inside_them_from_the_zero_state(model: CharLSTM) -> None:
    stream = stream_of(257, 3, 100, 101, 255)  # so short that every window starts at 0
    assert windows_loss(model, stream, 1) == pytest.approx(loss_by_documents(model, stream), abs=1e-5)


def test_the_estimate_starts_documents_from_the_zero_state_while_it_warms_too(
    model: CharLSTM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "ESTIMATE_WARMUP", 20)
    stream = stream_of(241, 30, 38, 55, 79, 119, 120, 150, 199)
    monkeypatch.setattr(evaluate, "ESTIMATE_STREAMS", 6)
    # Streams of 40, and each has the start of a document in the 20 tokens before it or at its first one: warm enough.
    assert tail_estimate(model, stream, 7) == pytest.approx(loss_by_documents(model, stream, 0, 240), abs=1e-5)


@st.composite
def packed(draw: st.DrawFn) -> Batches:
    rows, length = draw(st.integers(1, 5)), draw(st.integers(1, 10))
    count = (rows + 1) * length + draw(st.integers(0, 200))
    starts = draw(st.sets(st.integers(1, count - 1), max_size=20))
    stream = Stream(np.arange(count, dtype=np.uint16), np.array([0, *sorted(starts)], np.int64))
    return Batches(stream, rows, length, draw(st.integers(0, 2**63 - 1)))


@given(batches=packed(), epoch=st.integers(0, 3))
def test_in_an_epoch_each_token_is_a_target_once_but_for_the_remainder_and_nothing_is_padded(
    batches: Batches, epoch: int
) -> None:
    blocks = [batches.batch(epoch * batches.per_epoch + index) for index in range(batches.per_epoch)]
    stream = batches.tokens
    assert isinstance(stream, Stream)
    assert stream.starts is not None
    targets = np.sort(np.concatenate([block.targets.ravel() for block in blocks]))
    assert np.array_equal(targets, np.arange(targets[0], targets[0] + len(targets)))  # each once, in one stretch
    remainder = len(stream) - len(targets)
    assert remainder < (batches.batch_size + 1) * batches.sequence_length
    assert 1 <= targets[0] <= batches.sequence_length  # the offset, and the first token of all
    for block in blocks:
        assert block.inputs.dtype == block.targets.dtype == np.int64
        assert np.array_equal(block.targets, block.inputs + 1)  # the last of a document predicts the next one's start
        assert block.resets is not None
        assert np.array_equal(block.resets, np.isin(block.inputs, stream.starts))


def test_one_text_has_no_resets() -> None:
    assert Batches(np.arange(100), 2, 5, 1).batch(0).resets is None
    assert Batches(Stream(np.arange(100)), 2, 5, 1).batch(3).resets is None


@pytest.mark.parametrize("starts", [None, [0, 4, 9]])
def test_the_validation_part_keeps_its_documents_in_the_run(starts: list[int] | None, tmp_path: Path) -> None:
    save_validation(tmp_path, Stream(np.arange(5), np.array([0, 1])))
    kept = Stream(np.arange(20, dtype=np.uint8), None if starts is None else np.array(starts))
    save_validation(tmp_path, kept)
    found = load_validation(tmp_path)
    assert found.tokens.dtype == np.uint8
    assert found.tolist() == list(range(20))
    assert (None if found.starts is None else found.starts.tolist()) == starts


def test_a_run_of_documents_is_trained_evaluated_and_exported_with_them(text_file: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(text_file.read_text("utf-8")[:12_000], "utf-8")
    config = tiny_config(documents="line", epochs=1, precision="fp32")
    corpus = read_corpus(tmp_path / "text.txt", config.unit, documents=config.documents, directory=tmp_path)
    recorder = Recorder()
    run = tmp_path / "run"
    Trainer(config, corpus, run).train(recorder)
    trained, validation = load_trained(run), load_validation(run)
    assert recorder.evaluations[-1].validation_loss == tail_estimate(trained.model, corpus.validation)
    manifest = export_bundle(trained, validation, tmp_path / "model", name="model", decoders=[DecoderKind.ONNX_FP32])
    figures = manifest.validation["tail"]
    assert figures["checkpoint"] == pytest.approx(loss_by_documents(trained.model, corpus.validation), abs=1e-5)
    assert figures["onnx-fp32"] == pytest.approx(figures["checkpoint"], abs=1e-5)
    assert config.documents is Documents.LINE

    path = read_bundle(tmp_path / "model").decoder_file(DecoderKind.ONNX_FP32)
    for chunk in (1, 5, 10_000):
        assert decoder_tail_loss(path, manifest, validation, chunk) == pytest.approx(figures["onnx-fp32"], abs=1e-6)
    as_one_text = decoder_tail_loss(path, manifest, validation[:])
    assert abs(as_one_text - figures["onnx-fp32"]) > 1e-4


def test_a_training_step_starts_documents_from_the_zero_state(text_file: Path, tmp_path: Path) -> None:
    """The loss that is reported is that of a plain loop over each row, with the state zeroed at each document."""
    (tmp_path / "text.txt").write_text(text_file.read_text("utf-8")[:6000], "utf-8")
    config = tiny_config(documents="line", epochs=1, precision="fp32", dropout=0, evaluations_per_epoch=1)
    corpus = read_corpus(tmp_path / "text.txt", config.unit, documents=config.documents)
    trainer = Trainer(config, corpus, tmp_path / "run")
    batch = trainer.batches.batch(0)
    assert batch.resets is not None
    assert batch.resets.any()
    rows = [
        loss_by_documents(trainer.learner.model, Stream(np.append(inputs, targets[-1:]), np.flatnonzero(resets)))
        for inputs, targets, resets in zip(batch.inputs, batch.targets, batch.resets, strict=True)
    ]
    recorder = Recorder(lambda step: trainer.stop())
    trainer.train(recorder)
    assert recorder.steps[0].loss == pytest.approx(np.mean(rows), abs=1e-5)
