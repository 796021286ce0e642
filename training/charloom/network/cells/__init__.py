"""The recurrent cells, a module for each; docs/cells.md says how to add one."""

from __future__ import annotations

from charloom.bundle import CellKind
from charloom.network.cells.cell import CANDIDATE, Cell
from charloom.network.cells.cifg import CIFG
from charloom.network.cells.gru import GRU
from charloom.network.cells.layer import Layer, LayerOutput, Step
from charloom.network.cells.layer_norm import LAYER_NORM
from charloom.network.cells.lstm import LSTM
from charloom.network.cells.peephole import PEEPHOLE

CELLS: dict[CellKind, Cell] = {
    CellKind.LSTM: LSTM,
    CellKind.PEEPHOLE: PEEPHOLE,
    CellKind.LAYER_NORM: LAYER_NORM,
    CellKind.GRU: GRU,
    CellKind.CIFG: CIFG,
}

__all__ = ["CANDIDATE", "CELLS", "Cell", "Layer", "LayerOutput", "Step"]
