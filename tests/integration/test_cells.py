"""Every cell served: a session with its state arrays goes on elsewhere, and its gates are shown by their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from charloom.bundle import CellKind, DecoderKind
from charloom.client import Client
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.network.cells import CELLS
from charloom.server.testing import running_server
from tests.unit.export.random_bundle import without_weights


@pytest.mark.parametrize("kind", [DecoderKind.ONNX_INT8, DecoderKind.TORCHSCRIPT], ids=lambda kind: kind.value)
@pytest.mark.parametrize("cell", list(CellKind), ids=lambda cell: cell.value)
def test_a_cell_is_served_kept_and_inspected(cell: CellKind, kind: DecoderKind, tmp_path: Path) -> None:
    bundle = without_weights(tmp_path / "bundle", cell=cell)
    with running_server([(bundle, open_decoder(bundle, kind=kind))]) as server, Client(server.address) as client:
        assert client.model("small").cell == cell.value
        whole = client.complete("abc", max_tokens=60, seed=7).text
        with client.session(seed=7) as session:
            first = session.complete("abc", max_tokens=25).text
            state = session.export().state
        with client.import_session(state) as session:
            assert session.restored_exactly
            assert first + session.complete(max_tokens=35).text == whole
        assert len(set(whole)) > 5
        found = client.inspect("abc cab").layers[1]
    names = CELLS[cell].gates
    assert tuple(found.gates) == names
    assert all(np.asarray(gate).shape == (7, 24) for gate in found.gates.values())
    assert (len(found.cell) > 0) is ("c" in CELLS[cell].arrays)
    fields = {"input": found.input_gate, "forget": found.forget_gate, "output": found.output_gate}
    for name, field in fields.items():
        assert field == (found.gates[name] if name in names else memoryview(b"").cast("f")), name
