"""`charloom train` where the disk is full: before its first step, and later."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from charloom.cli.main import main
from charloom.training.checkpoint import read_checkpoint
from charloom.training.run_directory import LAST_FILE
from tests.unit.training.training_runs import TINY_FLAGS, assert_close_runs


def test_a_disk_that_fills_during_a_checkpoint_leaves_the_one_before(text: Path, tmp_path: Path) -> None:
    """The file size limit of the process stands for the full disk: a write behind it fails."""
    run = tmp_path / "run"
    arguments = ["train", str(text), "--run", str(run), *TINY_FLAGS, "--checkpoint-every", "1"]
    size_of_one = "import resource, sys\nfrom charloom.cli.main import main\nfrom charloom.training import loop\n"
    full_after_two = size_of_one + (
        "saved = loop.Trainer._save\n"
        "def save(self):\n"
        "    if self.step == 3: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "    saved(self)\n"
        "loop.Trainer._save = save\n"
        f"sys.exit(main({arguments!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", full_after_two], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 1
    assert f"cannot write {run / LAST_FILE}: File too large; what was saved there before is whole" in done.stderr
    assert read_checkpoint(run / LAST_FILE).facts["step"] == 2
    assert [file.name for file in run.iterdir() if file.name.endswith(".partial")] == []
    assert main(["train", str(text), "--run", str(run), "--resume", "--device", "cpu", "--threads", "1"]) == 0
    whole = tmp_path / "whole"
    assert main(["train", str(text), "--run", str(whole), *TINY_FLAGS, "--checkpoint-every", "1"]) == 0
    assert_close_runs(run / LAST_FILE, whole / LAST_FILE, 0)


BEFORE_THE_FIRST_STEP = """
import contextlib, io, json, resource, sys
from charloom.cli.main import main
before = resource.getrlimit(resource.RLIMIT_FSIZE)
for size, *arguments in json.load(sys.stdin):
    said = io.StringIO()
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    with contextlib.redirect_stderr(said):
        status = main(arguments)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    print(json.dumps([status, said.getvalue()]))
"""
"""Runs the commands that it reads, each with a limit of the size of a file, and prints what came of them."""


def test_a_disk_that_is_full_before_the_first_step_is_said_in_one_line(text: Path, tmp_path: Path) -> None:
    """Whichever file does not fit: vocabulary, tokens, validation part, settings."""
    commands = [
        [size, "train", str(text), "--run", str(tmp_path / f"{name}-{size}"), *TINY_FLAGS, *flags]
        for name, flags in {"stream": [], "documents": ["--documents", "line"]}.items()
        for size in (100, 1000, 3000)
    ]
    for command in commands:
        Path(str(command[4])).mkdir()
    made = [sys.executable, "-W", "ignore", "-c", BEFORE_THE_FIRST_STEP]
    done = subprocess.run(made, input=json.dumps(commands), capture_output=True, text=True, timeout=400, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for (size, _, _, _, run, *_), (status, said) in zip(commands, found, strict=True):
        assert status == 1, (run, size)
        assert said.startswith("charloom train: "), said
        assert "File too large" in said
        assert said.count("\n") == 1, said
        assert [file.name for file in Path(run).iterdir() if file.name.endswith(".partial")] == []
