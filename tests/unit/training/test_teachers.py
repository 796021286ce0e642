"""Soft targets: what teachers predict of a text, and a run that learns from it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from charloom.bundle import WEIGHTS_FILE, BundleError, DecoderKind, read_bundle
from charloom.cli.main import main
from charloom.export import export_bundle
from charloom.models import BUNDLED_MODEL
from charloom.training import soft_targets as soft_targets_module
from charloom.training.checkpoint import load_trained, read_checkpoint, write_checkpoint
from charloom.training.data.batches import Batches
from charloom.training.data.corpus import Corpus
from charloom.training.data.stream import Stream
from charloom.training.data.texts import digest_of
from charloom.training.files import CheckpointError
from charloom.training.learner import Learner
from charloom.training.loop import Trainer
from charloom.training.run_directory import BEST_FILE, LAST_FILE, load_validation
from charloom.training.soft_targets import FACTS_FILE, SOFT_TARGETS_FILE, read_soft_targets, write_soft_targets
from charloom.training.teachers import Teachers, load_teachers
from tests.unit.training.test_full_disks import BEFORE_THE_FIRST_STEP
from tests.unit.training.training_runs import (
    TINY_FLAGS,
    Recorder,
    assert_same_checkpoint,
    corpus_of,
    random_model,
    tiny_config,
    train,
)

CPU = torch.device("cpu")
SMALL = {"layers": 1, "dropout": 0.1, "learning_rate": 3e-2, "precision": "fp32"}


def source(length: int, seed: int) -> str:
    """Text of a source of which each character depends on the one before it."""
    chances = np.random.default_rng(0).dirichlet(np.full(10, 0.2), size=10).cumsum(-1)
    last, text = 0, []
    for chance in np.random.default_rng(seed).random(length):
        last = min(9, int(np.searchsorted(chances[last], chance)))
        text.append("abcdefghij"[last])
    return "".join(text)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows the source well, from a longer text than its students have."""
    run = tmp_path_factory.mktemp("teachers") / "teacher"
    train(tiny_config(**SMALL, epochs=3, batch_size=16), corpus_of(source(8000, seed=1)), run)
    return run


@pytest.fixture(scope="module")
def corpus(teacher: Path) -> Corpus:
    """Another text of the same source, too short to know it from."""
    text = source(900, seed=2)
    vocabulary = load_trained(teacher).vocabulary
    parts = Stream(vocabulary.encode(text)).split(0.5)
    return Corpus(vocabulary, *parts, hashlib.sha256(text.encode()).hexdigest(), len(text), "text.txt")


def student(run: Path, corpus: Corpus, teacher: Path | None = None, stop_after: int = 0, **settings: Any) -> float:
    """The best loss of a run with this teacher; it goes on where there is one."""
    teachers = None if teacher is None else load_teachers([teacher])
    resume = (run / LAST_FILE).exists()
    trainer = Trainer(tiny_config(**SMALL | settings), corpus, run, teachers=teachers, resume=resume)

    def on_step(step: int) -> None:
        if step == stop_after:
            trainer.stop()

    return trainer.train(Recorder(on_step)).best_loss


def damaged(run: Path, damage: Callable[[bytes], bytes]) -> None:
    file = run / SOFT_TARGETS_FILE
    file.write_bytes(damage(file.read_bytes()))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda content: content[:-2],
    "one bit": lambda content: content[:77] + bytes([content[77] ^ 1]) + content[78:],
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("documents", [False, True])
def test_soft_targets_are_the_mean_of_what_teachers_predict_with_the_state_carried(
    documents: bool, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is long enough to be read in parts, some tokens of each at a time, and comes out in order."""
    monkeypatch.setattr(soft_targets_module, "BLOCK", 10_000)
    size = corpus.vocabulary.size
    models = [random_model(size) for _ in range(2)]
    for parameter in models[1].parameters():
        parameter.data.neg_()
    tokens = corpus.vocabulary.encode(source(4801, seed=3))
    text = Stream(tokens, np.array([0, 700, 2400, 2401]) if documents else None)
    teachers = Teachers(models, corpus.vocabulary, [{"name": "one", "sha256": "1"}, {"name": "other", "sha256": "2"}])
    found = write_soft_targets(tmp_path, text, teachers, CPU)
    resets = text.resets(np.arange(4800)[None])
    with torch.no_grad():
        read = [
            model.eval()(
                torch.from_numpy(tokens[None, :-1]),
                model.zero_state(1),
                None if resets is None else torch.from_numpy(resets),
            )[0][0]
            for model in models
        ]
    expected = torch.stack([logits.softmax(-1) for logits in read]).mean(0)
    assert found.shape == (4800, size)
    np.testing.assert_allclose(np.exp(found.astype(np.float32)), expected.numpy(), rtol=3e-3)
    again = read_soft_targets(tmp_path, text, corpus.vocabulary, teachers.facts)
    assert again is not None
    assert np.array_equal(again, found)
    assert read_soft_targets(tmp_path, Stream(tokens[::-1]), corpus.vocabulary, teachers.facts) is None
    assert read_soft_targets(tmp_path, text, corpus.vocabulary, teachers.facts[::-1]) is None


def test_the_soft_targets_of_a_run_are_read_once_at_a_start(
    teacher: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, read = digest_of, []

    def counted(files: list[Path]) -> str:
        read.extend(file.name for file in files if file.name == SOFT_TARGETS_FILE)
        return digest(files)

    monkeypatch.setattr(soft_targets_module, "digest_of", counted)
    student(tmp_path / "run", corpus, teacher, stop_after=1)
    assert len(read) == 1
    student(tmp_path / "run", corpus, stop_after=2)
    assert len(read) == 2


def test_each_place_of_a_batch_has_the_prediction_made_there() -> None:
    """At whatever offset an epoch begins; tokens and soft targets here say their own place."""
    soft = np.repeat(np.arange(999, dtype=np.float16)[:, None], 3, axis=1)
    batches = Batches(np.arange(1000), batch_size=6, sequence_length=16, seed=5, soft_targets=soft)
    first = []
    for step in range(4 * batches.per_epoch):
        batch = batches.batch(step)
        assert batch.soft is not None
        assert batch.soft.shape == (6, 16, 3)
        for symbol in range(3):
            assert np.array_equal(batch.soft[:, :, symbol], batch.inputs)
        part = batch.rows(slice(2, 4))
        assert part.soft is not None
        assert np.array_equal(part.soft[:, :, 0], part.inputs)
        first.append(batch.inputs[0, 0])
    assert len({place % 16 for place in first}) > 1  # epochs do begin at different offsets


def test_with_a_share_of_0_a_run_is_bit_for_bit_the_one_without_a_teacher(
    teacher: Path, corpus: Corpus, tmp_path: Path
) -> None:
    student(tmp_path / "plain", corpus, accumulate=2)
    student(tmp_path / "taught", corpus, teacher, accumulate=2, teacher_share=0, teacher_temperature=3)
    for file in (LAST_FILE, BEST_FILE):
        plain, taught = (read_checkpoint(tmp_path / run / file).tensors for run in ("plain", "taught"))
        assert plain.keys() == taught.keys()
        assert [name for name, tensor in plain.items() if not torch.equal(tensor, taught[name])] == []
    student(tmp_path / "other", corpus, teacher, accumulate=2, teacher_share=0.1)
    other = read_checkpoint(tmp_path / "other" / LAST_FILE).tensors
    assert not torch.equal(other["model.head.bias"], plain["model.head.bias"])


def test_a_student_learns_faster_than_from_the_text_alone(teacher: Path, corpus: Corpus, tmp_path: Path) -> None:
    plain = student(tmp_path / "plain", corpus, epochs=10)
    taught = student(tmp_path / "taught", corpus, teacher, epochs=10, teacher_share=1)
    assert taught < plain - 0.01


def test_the_loss_is_the_text_s_and_the_teachers_in_their_shares_at_a_temperature(
    teacher: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the formula in float64."""
    seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    mixed = Learner._mixed

    def watched(self: Learner, of_text: Tensor, logits: Tensor, soft: Tensor) -> Tensor:
        loss = mixed(self, of_text, logits, soft)
        seen.append((of_text.detach(), logits.detach().double(), soft.double().flatten(0, 1), loss.detach()))
        return loss

    monkeypatch.setattr(Learner, "_mixed", watched)
    student(tmp_path / "run", corpus, teacher, stop_after=3, teacher_share=0.3, teacher_temperature=2)
    assert len(seen) == 3
    for of_text, logits, soft, loss in seen:
        taught = torch.exp(soft / 2) / torch.exp(soft / 2).sum(-1, keepdim=True)
        of_teachers = -(taught * torch.log_softmax(logits / 2, -1)).sum(-1).mean()
        torch.testing.assert_close(loss.double(), 0.7 * of_text.double() + 0.3 * 4 * of_teachers, rtol=1e-5, atol=0)


@pytest.fixture(scope="module")
def whole(teacher: Path, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a teacher that was never stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    student(run, corpus, teacher)
    return run


def test_a_stopped_run_goes_on_bit_for_bit_without_its_teacher(
    whole: Path, teacher: Path, corpus: Corpus, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    student(run, corpus, teacher, stop_after=2)
    student(run, corpus, stop_after=4)
    student(run, corpus)
    assert_same_checkpoint(run / LAST_FILE, whole / LAST_FILE)
    assert_same_checkpoint(run / BEST_FILE, whole / BEST_FILE)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_soft_targets_are_refused_and_with_the_teacher_computed_anew(
    damage: str, whole: Path, teacher: Path, corpus: Corpus, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    student(run, corpus, teacher, stop_after=3)
    damaged(run, DAMAGES[damage])
    with pytest.raises(CheckpointError, match=r"soft-targets\.bin is missing or damaged; give .*: --teacher teacher"):
        student(run, corpus)
    student(run, corpus, teacher)
    assert_same_checkpoint(run / LAST_FILE, whole / LAST_FILE)


def test_soft_targets_whose_facts_are_lost_or_damaged_do_not_count(
    teacher: Path, corpus: Corpus, tmp_path: Path
) -> None:
    teachers = load_teachers([teacher])
    write_soft_targets(tmp_path, corpus.train, teachers, CPU)
    facts = (tmp_path / FACTS_FILE).read_bytes()
    for content in (b"", b"[]", b'{"schema": 1}', facts[:-1], facts.replace(b"soft-targets/1", b"soft-targets/2")):
        (tmp_path / FACTS_FILE).write_bytes(content)
        assert read_soft_targets(tmp_path, corpus.train, corpus.vocabulary, teachers.facts) is None
    (tmp_path / FACTS_FILE).write_bytes(facts)
    assert read_soft_targets(tmp_path, corpus.train, corpus.vocabulary, teachers.facts) is not None


def test_a_run_keeps_its_teachers(whole: Path, teacher: Path, corpus: Corpus, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(teacher, changed)
    weights = read_checkpoint(changed / BEST_FILE)
    weights.tensors["model.head.bias"] += 1
    write_checkpoint(changed / BEST_FILE, weights)
    with pytest.raises(CheckpointError, match=r"not the teachers that .* began with \(teacher, in this order"):
        student(whole, corpus, changed)
    student(tmp_path / "plain", corpus, stop_after=1)
    with pytest.raises(CheckpointError, match=r"not the teachers that .* began with \(none"):
        student(tmp_path / "plain", corpus, teacher)


def test_a_teacher_whose_directory_was_renamed_is_the_same(
    whole: Path, teacher: Path, corpus: Corpus, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    student(run, corpus, teacher, stop_after=2)
    damaged(run, DAMAGES["empty"])
    student(run, corpus, Path(shutil.copytree(teacher, tmp_path / "renamed")), stop_after=4)
    student(run, corpus)
    assert_same_checkpoint(run / LAST_FILE, whole / LAST_FILE)


def test_a_teacher_that_predicts_nan_is_refused_and_leaves_nothing(
    teacher: Path, corpus: Corpus, tmp_path: Path
) -> None:
    teachers = load_teachers([teacher])
    teachers.models[0].head.bias.data[3] = float("nan")
    with pytest.raises(CheckpointError, match="a teacher predicts NaN: its weights are damaged"):
        write_soft_targets(tmp_path, corpus.train, teachers, CPU)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_says_who_taught_its_model(whole: Path, teacher: Path, tmp_path: Path) -> None:
    kinds = [DecoderKind.ONNX_FP32]
    export_bundle(load_trained(whole), load_validation(whole), tmp_path / "model", name="model", decoders=kinds)
    said = read_bundle(tmp_path / "model").manifest.training["teachers"]
    assert said == [{"name": "teacher", "sha256": hashlib.sha256((teacher / BEST_FILE).read_bytes()).hexdigest()}]


def test_a_bundle_teaches_what_its_run_does(teacher: Path, corpus: Corpus, tmp_path: Path) -> None:
    trained, bundle = load_trained(teacher), tmp_path / "bundle"
    export_bundle(trained, load_validation(teacher), bundle, name="model", decoders=[DecoderKind.ONNX_FP32])
    of_run, of_bundle = load_teachers([teacher]), load_teachers([bundle])
    soft = [write_soft_targets(tmp_path, corpus.train, teachers, CPU).tobytes() for teachers in (of_run, of_bundle)]
    assert soft[0] == soft[1]
    weights = (bundle / WEIGHTS_FILE).read_bytes()
    assert of_bundle.facts == [{"name": "bundle", "sha256": hashlib.sha256(weights).hexdigest()}]


def test_a_bundle_that_cannot_teach_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"it has no weights\.safetensors; export it again without --no-weights"):
        load_teachers([BUNDLED_MODEL])


# The command.


@pytest.fixture
def taught(teacher: Path, tmp_path: Path) -> list[str]:
    """`charloom train` of a text of the teacher's symbols, with it."""
    text = tmp_path / "text.txt"
    text.write_text(source(3000, seed=4))
    return ["train", str(text), "--run", str(tmp_path / "run"), *TINY_FLAGS, "--teacher", str(teacher)]


def test_the_command_takes_the_teacher_s_vocabulary_and_says_who_teaches(
    taught: list[str], teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(source(3000, seed=4).replace("a", "b"))  # fewer symbols than the teacher knows
    assert main(taught) == 0
    said = capsys.readouterr().out
    assert "the teachers read the training part first: 28,800 probabilities, 0 MB" in said
    assert "teachers: teacher; 50% of the loss, at temperature 1" in said
    assert load_trained(tmp_path / "run").vocabulary.to_json() == load_trained(teacher).vocabulary.to_json()


def masked_teacher(teacher: Path, copy: Path) -> Path:
    """The same teacher, as if it had learnt with its numbers masked."""
    shutil.copytree(teacher, copy)
    checkpoint = read_checkpoint(copy / BEST_FILE)
    checkpoint.facts["config"]["mask"] = "numbers"
    write_checkpoint(copy / BEST_FILE, checkpoint)
    return copy


def test_a_student_masks_the_numbers_that_its_teacher_masks(
    taught: list[str], teacher: Path, corpus: Corpus, tmp_path: Path
) -> None:
    masked = masked_teacher(teacher, tmp_path / "masked")
    (tmp_path / "text.txt").write_text(source(3000, seed=4))
    assert main([*taught[:-1], str(masked)]) == 0
    assert read_checkpoint(tmp_path / "run" / BEST_FILE).facts["config"]["mask"] == "numbers"
    with pytest.raises(CheckpointError, match="the teacher learnt with --mask numbers, and this run has none"):
        student(tmp_path / "plain", corpus, masked)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--teacher", "RUN", "OTHER"], "the teacher {other} has another vocabulary (256 symbols, unit byte) than the"),
        (["--teacher", "RUN", "--vocabulary", "OTHER"], "has another vocabulary (10 symbols, unit character) than "),
        (["--teacher", "RUN", "--unit", "byte"], "--unit byte: {run} has character; leave the flag out"),
        (["--teacher", "RUN", "--mask", "digits"], "--mask digits: {run} has none; leave the flag out"),
        (["--teacher", "RUN", "MASKED"], "the teachers learnt with different --mask ({run} none, {masked} numbers)"),
        (["--teacher", "NOTHING"], "there is no checkpoint"),
        (["--teacher-share", "0.3"], "--teacher-share: there is no teacher; give --teacher RUN|BUNDLE, or"),
        (["--teacher", "RUN", "--teacher-share", "0"], "--teacher-share 0: the teachers would teach nothing; give a"),
        (["--teacher", "RUN", "--teacher-share", "1.1"], "--teacher-share 1.1: Input should be less than or equal"),
        (["--teacher", "RUN", "--teacher-temperature", "0"], "--teacher-temperature 0: Input should be greater than 0"),
    ],
    ids=" ".join,
)
def test_teachers_that_do_not_fit_are_refused_before_the_text_is_read(
    flags: list[str], message: str, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    (other / "vocabulary.json").write_text(json.dumps({"unit": "byte"}))
    checkpoint = read_checkpoint(other / BEST_FILE)
    grown = {"model.embedding.weight": (256, 8), "model.head.weight": (256, 16), "model.head.bias": (256,)}
    for name, shape in grown.items():
        checkpoint.tensors[name] = torch.zeros(shape)
    write_checkpoint(other / BEST_FILE, checkpoint)
    masked = masked_teacher(teacher, tmp_path / "masked")
    places = {"RUN": teacher, "OTHER": other, "MASKED": masked, "NOTHING": tmp_path / "nothing"}
    given = [str(places.get(flag, flag)) for flag in flags]
    assert main(["train", str(tmp_path / "is-not-read.txt"), "--run", str(tmp_path / "run"), *given]) == 1
    said = capsys.readouterr().err
    assert message.format(run=teacher, other=other, masked=masked) in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_text_with_symbols_that_the_teacher_does_not_know_is_refused(
    taught: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(source(3000, seed=4) + "xyz")
    assert main(taught) == 1
    assert "3 character(s) of text.txt are not in the model's vocabulary" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_soft_targets_that_do_not_fit_the_disk_are_told_in_one_line(taught: list[str], tmp_path: Path) -> None:
    """The file size limit of a process stands for the full disk."""
    (tmp_path / "run").mkdir()
    made = [sys.executable, "-W", "ignore", "-c", BEFORE_THE_FIRST_STEP]
    commands = json.dumps([[20_000, *taught]])
    done = subprocess.run(made, input=commands, capture_output=True, text=True, timeout=400, check=True)
    status, said = json.loads(done.stdout.splitlines()[-1])
    file = tmp_path / "run" / SOFT_TARGETS_FILE
    assert (status, said) == (
        1,
        f"charloom train: cannot write {file}: File too large; nothing was saved there before; make room and go on\n",
    )
    assert [file.name for file in (tmp_path / "run").iterdir() if "soft-targets" in file.name] == []
