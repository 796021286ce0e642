"""The settings of a classifier: one place for defaults, limits and their meaning."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from charloom.bundle import Unit
from charloom.training.data.text_settings import TextSettings


class ClassifierConfig(BaseModel):
    """The shape of a `Classifier`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(1, ge=1, le=8, description="LSTM layers, L")
    hidden_size: int = Field(128, ge=1, le=8192, description="units per layer and direction, H")
    embedding_size: int = Field(64, ge=1, le=8192, description="size of a symbol's embedding, E")
    bidirectional: bool = Field(
        False, description="read in both directions; such a classifier cannot be exported and served"
    )
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout between layers and on the final states")


class ClassificationConfig(ClassifierConfig, TextSettings):
    """Everything that decides the outcome of a run, besides the texts."""

    unit: Unit = Field(
        Unit.CHARACTER, description="what one token is: character, byte or word (the 10,000 most frequent)"
    )
    max_length: int = Field(2000, ge=1, description="tokens that are read of a text; what comes after is left out")
    batch_size: int = Field(32, ge=1, description="texts of a batch, B")
    epochs: int = Field(30, ge=1, description="most passes over the training texts")
    patience: int = Field(5, ge=1, description="epochs without progress in validation after which training ends")
    learning_rate: float = Field(2e-3, gt=0, description="learning rate of AdamW")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay, on matrices only")
    gradient_clip: float = Field(1.0, gt=0, description="largest global norm of the gradient")
    unknown_share: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="characters or words that training reads as unknown, so that the model can do with such",
    )
    validation_share: float = Field(0.1, gt=0, lt=1, description="share of each label's texts that chooses the epoch")
    test_share: float = Field(0.1, gt=0, lt=1, description="share kept for the test, where there is no folder test/")
    seed: int = Field(1, ge=0, lt=2**63, description="of the split, initialisation, dropout and the order of texts")

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> ClassificationConfig:
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share {self.validation_share} and test_share {self.test_share} leave nothing to train "
                "on; their sum is to be below 1"
            )
        return self
