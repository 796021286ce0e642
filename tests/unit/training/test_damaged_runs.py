"""Runs whose files somebody has tampered with: each is refused with the file's name, none ends in a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file

from charloom.bundle import Bundle, BundleError, Mask, write_manifest
from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM
from charloom.training.checkpoint import (
    SCHEMA,
    Checkpoint,
    load_trained,
    model_of,
    read_checkpoint,
    read_facts,
    read_last,
    write_checkpoint,
)
from charloom.training.data.corpus import read_corpus
from charloom.training.data.documents import Documents
from charloom.training.data.token_files import read_tokens
from charloom.training.files import CheckpointError, drop_records_after, read_records
from charloom.training.loop import Trainer
from charloom.training.run_directory import load_losses, load_validation
from charloom.training.teachers import load_teachers
from charloom.training.watching.html_report import report_page

STANDING = ("step", "stale", "seconds", "plateau", "recent", "validation_loss")
"""What a run is resumed with, beside tensors."""
NESTED = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def run(run_directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_directory, tmp_path / "run"))


def with_facts(run: Path, facts: str) -> Path:
    path = run / "best.safetensors"
    save_file(load_file(path), path, metadata={"schema": SCHEMA, "facts": facts})
    return path


@pytest.mark.parametrize("facts", [NESTED, "{", "[1]"], ids=["nested", "cut short", "a list"])
def test_facts_that_are_none_are_refused_by_file(facts: str, run: Path) -> None:
    path = with_facts(run, facts)
    for read in (read_checkpoint, read_facts):
        with pytest.raises(CheckpointError, match=r"best\.safetensors is damaged"):
            read(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts.pop("config"),
        lambda facts: facts.update(config=[]),
        lambda facts: facts["config"].pop("layers"),
        lambda facts: facts["config"].update(hidden_size=2**31),
        lambda facts: facts["config"].update(mask="one of a later version"),
        lambda facts: facts["config"].update(documents="chapter"),
        lambda facts: facts.pop("step"),
        lambda facts: facts.update(step="7"),
    ],
)
def test_settings_that_no_network_has_are_refused_by_file(
    change: Callable[[dict[str, Any]], object], run: Path
) -> None:
    facts = read_facts(run / "best.safetensors")
    change(facts)
    with_facts(run, json.dumps(facts))
    with pytest.raises(CheckpointError, match=r"best\.safetensors has no usable settings") as caught:
        load_trained(run)
    assert "\n" not in str(caught.value)


def test_settings_that_an_older_version_did_not_have_are_as_they_are_by_default(run: Path) -> None:
    facts = read_facts(run / "best.safetensors")
    for name in ("zoneout_cell", "mask", "documents"):
        del facts["config"][name]
    with_facts(run, json.dumps(facts))
    trained = load_trained(run)
    assert (trained.step, trained.mask, trained.documents) == (facts["step"], Mask.NONE, Documents.STREAM)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        *((lambda last, name=name: last.facts.pop(name), f"it has no '{name}'") for name in STANDING),
        (lambda last: last.facts.update(step=-1), "it is at step -1 of"),
        (lambda last: last.facts.update(step="1"), "'str' object cannot be interpreted as an integer"),
        (lambda last: last.facts["plateau"].update(factor="x"), "validation error for Plateau"),
        (lambda last: last.facts["plateau"].update(later=1), "unexpected keyword argument 'later'"),
        (lambda last: last.facts["recent"].update(steps={}), "validation error for StepSums"),
        (lambda last: last.facts.update(recent=[1]), "must be an iterable"),
        (lambda last: last.facts.update(teachers=[{}]), "it has no 'name'"),
        (lambda last: last.facts["learner"].pop("scaler"), "it has no 'scaler'"),
        (lambda last: last.facts["learner"].update(scaler={"scale": 1.0}), "learner.scaler is not that of a run in"),
        (lambda last: last.tensors.pop("state.c"), "the tensors state are h, not h, c"),
        (lambda last: last.tensors.update({"state.c": torch.zeros(1)}), r"state.c is (1,) torch.float32, not (2, "),
        (lambda last: last.tensors.pop("optimizer.0.exp_avg"), "the tensors optimizer.0 are"),
        (lambda last: last.tensors.update({"optimizer.0.exp_avg": torch.zeros(1)}), "optimizer.0.exp_avg is (1,)"),
        (lambda last: last.tensors.update({"optimizer.99.step": torch.zeros(())}), "state of parameters"),
        (lambda last: last.tensors.update({"optimizer.x.step": torch.zeros(())}), "invalid literal for int()"),
    ],
)
def test_a_damaged_last_checkpoint_is_refused_by_file(
    change: Callable[[Checkpoint], object], said: str, run: Path, text_file: Path
) -> None:
    path = run / "last.safetensors"
    last, config = read_last(run)
    change(last)
    write_checkpoint(path, last)
    with pytest.raises(CheckpointError) as caught:
        Trainer(config, read_corpus(text_file, config.unit), run, resume=True)
    message = str(caught.value)
    assert message.startswith(f"{path} is damaged (")
    assert said in message
    assert message.endswith("; restore it from a copy")


def test_lines_of_a_log_without_a_step_are_refused_by_file(run: Path) -> None:
    for line in ('{"other": 1}', '{"step": "x"}'):
        (run / "log.jsonl").write_text(line + "\n")
        with pytest.raises(CheckpointError, match=r"log\.jsonl is damaged"):
            drop_records_after(run / "log.jsonl", 1)
        assert (run / "log.jsonl").read_text() == line + "\n"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"mask": "bogus"}, "field training: 'bogus' is not a valid Mask"),
        (
            {"tie_weights": True},
            "field training.config: tie_weights needs embedding_size (24) equal to hidden_size (48)",
        ),
    ],
)
def test_a_bundle_with_settings_that_this_version_does_not_know_is_no_teacher(
    setting: dict[str, object], said: str, bundle: Bundle, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    training = bundle.manifest.training
    training = training | {"config": training["config"] | setting}
    write_manifest(path, bundle.manifest.model_copy(update={"training": training}))
    with pytest.raises(BundleError) as caught:
        load_teachers([path])
    assert f"manifest.json, {said}" in str(caught.value)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (np.full(400, 200, np.uint8), "which are not all below"),
        (np.full(400, -1), "tokens from -1 to -1"),
        (np.full(400, 0.5), r"is float64 of shape \(400,\)"),
        (np.zeros((40, 10), np.uint8), r"is uint8 of shape \(40, 10\)"),
        (np.zeros(1, np.uint8), "has 1 tokens"),
    ],
)
def test_validation_tokens_that_no_model_reads_are_refused(
    tokens: npt.NDArray[np.generic], said: str, run: Path
) -> None:
    np.save(run / "validation.npy", tokens)
    with pytest.raises(CheckpointError, match=f"cannot read the validation tokens of .*{said}"):
        load_validation(run, load_trained(run).vocabulary.size)


@pytest.mark.parametrize("starts", [[], [1, 5], [0, 5, 5], [0, 1_000_000], [0.0, 1.0], [[0, 1]]])
def test_starts_of_validation_documents_that_are_none_are_refused(starts: list[float], run: Path) -> None:
    np.save(run / "validation-documents.npy", np.array(starts))
    with pytest.raises(CheckpointError, match=r"validation-documents\.npy"):
        load_validation(run)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("losses.json", '{"step": 1, "losses": {"tail": "a"}}'),
        ("losses.json", '{"step": "x", "losses": {"tail": 1.0}}'),
        ("losses.json", "{}"),
        ("warnings.jsonl", '{"step": "x", "cause": "a", "severity": 1.0, "text": "a"}\n'),
        ("log.jsonl", None),
    ],
)
def test_the_report_of_a_run_refuses_damaged_files_by_name(file: str, content: str | None, run: Path) -> None:
    if content is None:
        content = json.dumps(read_records(run / file)[0] | {"validation_loss": "x"}) + "\n"
    (run / file).write_text(content)
    with pytest.raises(CheckpointError, match=file) as caught:
        report_page(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("corpus", [None, [], {}])
def test_a_checkpoint_that_does_not_tell_its_text_cannot_be_resumed(corpus: object, run: Path) -> None:
    path = run / "last.safetensors"
    facts = read_facts(path) | {"corpus": corpus}
    save_file(load_file(path), path, metadata={"schema": SCHEMA, "facts": json.dumps(facts)})
    with pytest.raises(CheckpointError, match=r"last\.safetensors does not tell which text it learnt"):
        read_last(run)


def test_weights_of_another_size_are_refused_before_memory_is_taken_for_a_model() -> None:
    largest = ModelConfig(layers=16, hidden_size=8192, embedding_size=8192)  # 34 GB
    with pytest.raises(CheckpointError, match="the weights do not fit the settings"):
        model_of(50, largest, {"head.bias": torch.zeros(50)}, "the weights")


def test_weights_that_fit_are_those_of_the_model() -> None:
    config = ModelConfig(hidden_size=8, embedding_size=4)
    weights = CharLSTM(5, config).state_dict()
    found = model_of(5, config, weights, "the weights").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


def test_nested_json_in_the_other_files_of_a_run_is_refused_by_file(run: Path) -> None:
    (run / "log.jsonl").write_text(NESTED + "\n")
    with pytest.raises(CheckpointError, match=r"log\.jsonl is damaged \(it is nested"):
        read_records(run / "log.jsonl")
    (run / "losses.json").write_text(NESTED)
    with pytest.raises(CheckpointError, match=r"losses\.json is damaged \(it is nested"):
        load_losses(run, 1)
    (run / "tokens.json").write_text(NESTED)
    assert read_tokens(run, {}) is None
    (run / "vocabulary.json").write_text(NESTED)
    with pytest.raises(
        CheckpointError, match=r"vocabulary\.json is not a vocabulary: it is nested.*; restore"
    ) as caught:
        load_trained(run)
    assert "bundle" not in str(caught.value)
