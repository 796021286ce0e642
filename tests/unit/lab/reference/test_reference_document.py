from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).resolve().parents[4] / "docs" / "reference-lstms.md"


def test_the_document_s_example_learns_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, str(DOCUMENT), "exec"), names)
    validation = names["curves"].validation  # type: ignore[attr-defined]
    assert validation == sorted(validation, reverse=True)
    assert validation[-1] < validation[0] / 2
    assert Path("curves.svg").stat().st_size > 1000


def test_the_document_names_every_module() -> None:
    text = DOCUMENT.read_text("utf-8")
    modules = (DOCUMENT.parents[1] / "training" / "charloom" / "lab" / "reference").glob("[!_]*.py")
    names = [module.name for module in modules]
    assert "numpy_lstm.py" in names
    assert [name for name in names if f"    {name} " not in text] == []
