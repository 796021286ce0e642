"""`export_from_bundle` of bundles that somebody has tampered with: refused, with the file and the field."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from charloom.bundle import BundleError, read_bundle
from charloom.export import ExportError, export_from_bundle
from charloom.training.files import CheckpointError
from tests.unit.bundle.bundle_files import change_manifest, replace_file
from tests.unit.bundle.hostile_graphs import SIDE_FILE, numbers_elsewhere, tamper
from tests.unit.export.random_bundle import without_weights
from tests.unit.export.test_from_bundle import ONNX_KINDS, WRITTEN_BEFORE


def with_weights(target: Path, content: bytes, **cell: Any) -> Path:
    shutil.copytree(WRITTEN_BEFORE, target)
    replace_file(target, "weights.safetensors", content)
    change_manifest(
        target, lambda m: [m.update(weights_sha256=hashlib.sha256(content).hexdigest()), m["cell"].update(cell)]
    )
    return target


def test_numbers_in_another_file_are_none_of_the_bundle(tmp_path: Path) -> None:
    old = without_weights(tmp_path / "old").path
    for name in ("decoder.onnx", "decoder.int8.onnx", "inspector.onnx"):
        tamper(old, name, numbers_elsewhere)
    (old / SIDE_FILE).write_bytes(bytes(2**20))
    with pytest.raises(ExportError, match=r"none of its graphs .* has the same matrices"):
        export_from_bundle(read_bundle(old), tmp_path / "new", decoders=ONNX_KINDS)


def test_a_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    old = without_weights(tmp_path / "old").path
    for name in ("decoder.onnx", "decoder.int8.onnx"):
        replace_file(old, name, b"no graph")
    with pytest.raises(BundleError, match=r"the file decoder\.int8\.onnx is no ONNX file"):
        export_from_bundle(read_bundle(old), tmp_path / "new", decoders=ONNX_KINDS)


def test_a_file_that_holds_no_tensors_is_named(tmp_path: Path) -> None:
    old = with_weights(tmp_path / "old", b"\xff" * 100)
    with pytest.raises(BundleError, match=r"weights\.safetensors cannot be read"):
        export_from_bundle(read_bundle(old), tmp_path / "new")


def test_weights_that_the_manifest_makes_larger_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    old = with_weights(tmp_path / "old", save({"x": torch.zeros(1)}), layers=16, hidden_size=8192)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors do not fit the settings"):
        export_from_bundle(read_bundle(old), tmp_path / "new")


def test_settings_that_no_network_has_are_named(tmp_path: Path) -> None:
    old = without_weights(tmp_path / "old").path
    change_manifest(old, lambda manifest: manifest["training"]["config"].update(weight_drop=2))
    with pytest.raises(BundleError, match=r"manifest\.json, field training\.config\.weight_drop: "):
        export_from_bundle(read_bundle(old), tmp_path / "new")
