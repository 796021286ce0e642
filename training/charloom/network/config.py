"""The settings that decide the shape of a network, and how it is regularised."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from charloom.bundle import CellKind
from charloom.network.cells import CELLS


class ModelConfig(BaseModel):
    """The shape of a `CharLSTM`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: CellKind = Field(CellKind.LSTM, description="the recurrent cell")
    layers: int = Field(2, ge=1, le=16, description="recurrent layers, L")
    hidden_size: int = Field(512, ge=1, le=8192, description="units per layer, H")
    embedding_size: int = Field(128, ge=1, le=8192, description="size of a symbol's embedding, E")
    dropout: float = Field(
        0.4, ge=0, lt=1, description="dropout on the input and output of each layer, never on the recurrence"
    )
    variational_dropout: bool = Field(
        False, description="one dropout mask for all steps of a sequence, instead of one for each step"
    )
    weight_drop: float = Field(0.0, ge=0, lt=1, description="dropout on the recurrent weights, one mask per sequence")
    zoneout_cell: float = Field(0.0, ge=0, lt=1, description="share of the cell state that a step leaves as it was")
    zoneout_hidden: float = Field(0.0, ge=0, lt=1, description="share of h that a step leaves as it was")
    tie_weights: bool = Field(
        False, description="share the embedding with the output layer, which needs it to be of the hidden size"
    )

    @model_validator(mode="after")
    def _zoneout_fits_the_cell(self) -> ModelConfig:
        if self.zoneout_cell and len(CELLS[self.cell].arrays) == 1:
            raise ValueError(f"zoneout_cell needs a cell state, and {self.cell.value} has none; use zoneout_hidden")
        return self

    @model_validator(mode="after")
    def _tied_sizes_fit(self) -> ModelConfig:
        if self.tie_weights and self.embedding_size != self.hidden_size:
            raise ValueError(
                f"tie_weights needs embedding_size ({self.embedding_size}) equal to hidden_size ({self.hidden_size})"
            )
        return self

    @property
    def zoneout(self) -> tuple[float, ...]:
        """The share for each state array of the cell: h is the output, any other one cell state."""
        return tuple(self.zoneout_hidden if name == "h" else self.zoneout_cell for name in CELLS[self.cell].arrays)
