from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from charloom.engine.python_process import python_running

GREETS = "import json, sys; print(__name__, sys.argv[0] == __file__, sys.argv[1:], json.dumps(None)); sys.exit(3)"


@pytest.mark.parametrize("safe", ["", "1"])
def test_a_module_is_run_as_python_does_it_but_for_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safe: str
) -> None:
    path, here = tmp_path / "path", tmp_path / "here"
    for folder in (path, here):
        folder.mkdir()
    (path / "greets.py").write_text(GREETS)
    (here / "json.py").write_text("raise SystemExit(4)")
    monkeypatch.setenv("PYTHONPATH", str(path))
    monkeypatch.setenv("PYTHONSAFEPATH", safe)  # with it, what stands first is no working directory
    command = [*python_running("greets"), "one", "-c"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == "__main__ True ['one', '-c'] null\n"
