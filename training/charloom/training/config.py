"""The settings of a training run: one place for defaults, limits and their meaning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from charloom.bundle import DEFAULT_WORDS, Mask, Normalisation, Unit
from charloom.network.config import ModelConfig
from charloom.training.data.documents import Documents
from charloom.training.data.text_settings import TextSettings


class SettingsError(ValueError):
    """Settings contradict each other, or what there is to compute with; the message says what to choose."""


class TrainingConfig(ModelConfig, TextSettings):
    """Everything that decides the outcome of a run, besides the text."""

    unit: Unit = Field(
        Unit.CHARACTER,
        description="what one token is: character, byte (any UTF-8 text) or word (the most frequent ones)",
    )
    vocabulary_size: int | None = Field(
        None,
        ge=3,
        description=f"most symbols of a word vocabulary, unknown words' one included (default: {DEFAULT_WORDS})",
    )
    normalise: Normalisation = Field(
        Normalisation.NONE, description="Unicode form of the text, and of all text that the model is given later"
    )
    mask: Mask = Field(
        Mask.NONE,
        description="numbers that are made alike in the text, for logs: none, each of the digits as 0, or each of the "
        "numbers (hexadecimal ones with 0x too) as one 0; who watches with the model does the same",
    )
    documents: Documents = Field(
        Documents.STREAM,
        description="what is a text of its own, begun from the zero state: all of it as one stream, each file, "
        "what stands between blank lines, or each line",
    )
    cold_start: float = Field(
        0.0, ge=0, lt=1, description="share of the sequences that begin from the zero state, as a new session does"
    )
    batch_size: int = Field(64, ge=1, description="parallel streams of text, B")
    accumulate: int = Field(
        1,
        ge=1,
        description="parts of a batch that are computed one after another, to save memory",
    )
    sequence_length: int = Field(128, ge=1, description="steps of truncated backpropagation through time, T")
    epochs: int = Field(20, ge=1, description="passes over the training part")
    learning_rate: float = Field(3e-3, gt=0, description="peak learning rate of AdamW")
    schedule: Literal["cosine", "plateau"] = Field(
        "cosine", description="cosine decay, or reduce when the validation loss stops falling"
    )
    warmup_steps: int = Field(200, ge=0, description="steps of linear warm-up, at most a tenth of the run")
    final_learning_rate_ratio: float = Field(
        0.01,
        ge=0,
        le=1,
        description="lowest learning rate, as a share of the peak: a cosine's at its end, and no plateau's is lower",
    )
    plateau_patience: int = Field(2, ge=0, description="evaluations without progress before the rate is reduced")
    plateau_factor: float = Field(0.5, gt=0, lt=1, description="factor of one reduction on a plateau")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay, on matrices only")
    gradient_clip: float = Field(1.0, gt=0, description="largest global norm of the gradient")
    teacher_share: float = Field(
        0.5, ge=0, le=1, description="share of the teachers' predictions in the loss, the rest is the text's"
    )
    teacher_temperature: float = Field(
        1.0, gt=0, description="what the logits of teachers and model are divided by where they are compared"
    )
    average_decay: float = Field(
        0.0, ge=0, lt=1, description="keep and evaluate a moving average of the weights with this decay; 0 = do not"
    )
    early_stopping: int = Field(
        0, ge=0, description="stop after this many evaluations without progress; 0 = make all epochs"
    )
    validation_share: float = Field(0.1, gt=0, lt=1, description="last part of the text, kept for validation")
    evaluations_per_epoch: int = Field(1, ge=1, description="evaluations, each with a sample; at most one a step")
    checkpoint_every: int = Field(200, ge=1, description="steps between two checkpoints")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="autocast to bf16 or (with scaled gradients) fp16; auto is bf16 where the device has it"
    )
    seed: int = Field(1, ge=0, lt=2**63, description="of initialisation, dropout and samples")

    @model_validator(mode="after")
    def _batches_can_be_divided(self) -> TrainingConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate ({self.accumulate}) must divide batch_size ({self.batch_size})")
        return self

    @model_validator(mode="after")
    def _only_words_are_chosen(self) -> TrainingConfig:
        if self.vocabulary_size is not None and self.unit is not Unit.WORD:
            raise ValueError("vocabulary_size is for unit word; a character or byte vocabulary has all that occurs")
        return self
