from __future__ import annotations

import pytest
from pydantic import ValidationError

from charloom.bundle import CellKind
from charloom.cli.flags import explain
from charloom.lab.tasks.config import ClassificationConfig
from charloom.network.config import ModelConfig
from charloom.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layers", 0, "greater than or equal to 1"),
        ("layers", 17, "less than or equal to 16"),
        ("layers", "two", "valid integer"),
        ("hidden_size", 0, "greater than or equal to 1"),
        ("embedding_size", 8193, "less than or equal to 8192"),
        ("dropout", 1, "less than 1"),
        ("dropout", -0.1, "greater than or equal to 0"),
        ("unit", "line", "'character', 'byte' or 'word'"),
        ("batch_size", 0, "greater than or equal to 1"),
        ("sequence_length", 1.5, "valid integer"),
        ("epochs", 0, "greater than or equal to 1"),
        ("learning_rate", 0, "greater than 0"),
        ("schedule", "linear", "'cosine' or 'plateau'"),
        ("warmup_steps", -1, "greater than or equal to 0"),
        ("final_learning_rate_ratio", 1.1, "less than or equal to 1"),
        ("plateau_patience", -1, "greater than or equal to 0"),
        ("plateau_factor", 1, "less than 1"),
        ("weight_decay", -1, "greater than or equal to 0"),
        ("gradient_clip", 0, "greater than 0"),
        ("weight_drop", 1, "less than 1"),
        ("zoneout_cell", 1, "less than 1"),
        ("average_decay", 1, "less than 1"),
        ("cell", "rnn", "'lstm', 'peephole', 'layer-norm'"),
        ("validation_share", 0, "greater than 0"),
        ("validation_share", 1, "less than 1"),
        ("evaluations_per_epoch", 0, "greater than or equal to 1"),
        ("checkpoint_every", 0, "greater than or equal to 1"),
        ("precision", "fp8", "'auto', 'fp32', 'bf16' or 'fp16'"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**63, "less than"),
        ("learning_rat", 1, "Extra inputs are not permitted"),
    ],
)
def test_a_setting_out_of_range_is_named_with_what_is_allowed(field: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainingConfig.model_validate({field: value})
    (error,) = caught.value.errors()
    assert error["loc"] == (field,)
    assert message in error["msg"]


def test_parts_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"accumulate \(3\) must divide batch_size \(64\)"):
        TrainingConfig(accumulate=3)


def test_zoneout_of_a_cell_state_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValidationError, match="zoneout_cell needs a cell state, and gru has none; use zoneout_hidden"):
        TrainingConfig(cell=CellKind.GRU, zoneout_cell=0.1)


def test_every_setting_says_what_it_means() -> None:
    assert [name for name, field in TrainingConfig.model_fields.items() if not field.description] == []


def test_the_settings_of_a_run_are_those_of_its_model_and_more() -> None:
    assert TrainingConfig.model_fields.keys() > ModelConfig.model_fields.keys()


def test_settings_are_the_same_after_writing_and_reading() -> None:
    config = TrainingConfig(learning_rate=1 / 3, seed=2**62 + 1)
    assert TrainingConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("settings", "given", "said", "of_flags"),
    [
        (
            TrainingConfig,
            {"tie_weights": True, "embedding_size": 4, "hidden_size": 8},
            "tie_weights needs embedding_size (4) equal to hidden_size (8)",
            "--tie-weights needs --embedding-size (4) equal to --hidden-size (8)",
        ),
        (
            TrainingConfig,
            {"cell": "gru", "zoneout_cell": 0.1},
            "zoneout_cell needs a cell state, and gru has none; use zoneout_hidden",
            "--zoneout-cell needs a cell state, and gru has none; use --zoneout-hidden",
        ),
        (
            TrainingConfig,
            {"accumulate": 3},
            "accumulate (3) must divide batch_size (64)",
            "--accumulate (3) must divide --batch-size (64)",
        ),
        (
            ClassificationConfig,
            {"validation_share": 0.6, "test_share": 0.4},
            "validation_share 0.6 and test_share 0.4 leave nothing to train on; their sum is to be below 1",
            "--validation-share 0.6 and --test-share 0.4 leave nothing to train on; their sum is to be below 1",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_named_as_fields_and_by_the_command_as_flags(
    settings: type[TrainingConfig] | type[ClassificationConfig], given: dict[str, object], said: str, of_flags: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        settings.model_validate(given)
    assert [error["msg"] for error in caught.value.errors()] == [f"Value error, {said}"]
    assert explain(caught.value, settings) == of_flags
