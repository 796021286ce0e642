"""A text for runs of the command."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def text(text_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(text_file.read_text("utf-8")[:6000], "utf-8")
    return path
