"""Runs whose files somebody has tampered with: each is refused with the file's name, none ends in a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM
from charloom.training.checkpoint import SCHEMA, load_trained, model_of, read_checkpoint, read_facts, read_last
from charloom.training.data.token_files import read_tokens
from charloom.training.files import CheckpointError, read_records
from charloom.training.run_directory import load_losses

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
