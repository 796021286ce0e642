"""A folder of models that goes away and comes back."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from charloom.bundle import read_bundle
from charloom.server.model_folder import ModelFolder


def test_a_folder_that_is_gone_is_told_once_and_so_is_its_return(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = ModelFolder(tmp_path / "models", read_bundle)
    for _ in range(2):
        for _ in range(3):
            assert folder.changed() == []
        folder.path.mkdir()
        for _ in range(3):
            assert folder.changed() == []
        folder.path.rmdir()
    told = [record.getMessage().removeprefix(f"{folder.path} ").partition(",")[0] for record in caplog.records]
    assert told == 2 * ["cannot be read", "can be read again"]
