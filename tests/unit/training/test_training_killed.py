"""A real `charloom train` process, killed without warning in the middle of its run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from charloom.cli.main import main
from charloom.training.checkpoint import load_trained, read_checkpoint
from charloom.training.run_directory import BEST_FILE, LAST_FILE
from tests.unit.training.training_runs import assert_same_checkpoint

MACHINE = ["--threads", "1", "--device", "cpu"]
FLAGS = [
    *MACHINE,
    *("--layers", "2", "--hidden-size", "32", "--embedding-size", "16"),
    *("--dropout", "0.3", "--batch-size", "16", "--sequence-length", "32", "--learning-rate", "0.02"),
    *("--epochs", "2", "--evaluations-per-epoch", "4", "--checkpoint-every", "7", "--warmup-steps", "10"),
    *("--validation-share", "0.008"),  # too little for windows-256, whose measurement would take the most time here
]
ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
WAITING = """
import sys, time
from charloom.cli.main import main
from charloom.training.loop import Trainer
asked = Trainer._asked_to_stop
Trainer._asked_to_stop = lambda self: asked(self) or (self.step == 80 and time.sleep(600))
sys.exit(main())
"""
"""Runs the command, which waits before its end for whoever is late to kill it."""


def kill_after_a_checkpoint(arguments: list[str], run: Path) -> int:
    """Start a run, wait for its first checkpoint and kill it; returns the step of the checkpoint that is left."""
    command = [sys.executable, "-W", "ignore", "-c", WAITING, "train", *arguments]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        limit = time.monotonic() + 400
        while not (run / BEST_FILE).exists() or not (run / LAST_FILE).exists():
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() < limit
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    step: int = read_checkpoint(run / LAST_FILE).facts["step"]
    return step


def test_a_killed_and_resumed_run_has_bit_for_bit_the_weights_of_the_uninterrupted_one(
    text_file: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(text_file.read_text("utf-8")[:30_000], "utf-8")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    step = kill_after_a_checkpoint([str(text), "--run", str(killed), *FLAGS], killed)
    load_trained(killed)  # what is left can be exported
    assert main(["train", str(text), "--run", str(killed), "--resume", *MACHINE]) == 0
    assert main(["train", str(text), "--run", str(whole), *FLAGS]) == 0
    assert 0 < step < read_checkpoint(whole / LAST_FILE).facts["step"]
    assert_same_checkpoint(killed / LAST_FILE, whole / LAST_FILE)
    assert_same_checkpoint(killed / BEST_FILE, whole / BEST_FILE)
