"""`charloom train` on several processes, which take the steps of one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from torch import distributed as dist

from charloom.cli.main import main
from charloom.cli.training import train
from charloom.training.checkpoint import read_checkpoint
from charloom.training.run_directory import BEST_FILE, LAST_FILE
from tests.unit.training.training_runs import TINY_FLAGS, assert_close_runs

CHARLOOM = (sys.executable, "-W", "ignore", "-m", "charloom.cli.main")


def torchrun(
    *arguments: object, processes: int = 2, command: Sequence[object] = CHARLOOM
) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--no-python"]
    run += [f"--nproc-per-node={processes}", "--", *map(str, command), "train", *map(str, arguments)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(run, env=environment, capture_output=True, text=True, timeout=400, check=False)


def test_two_processes_take_the_steps_of_one_and_may_go_on_as_one(text: Path, tmp_path: Path) -> None:
    """With dropout, the steps of one process with two parts; without it (and with a teacher), with the whole batch."""
    two, halves, whole = tmp_path / "two", tmp_path / "halves", tmp_path / "whole"
    done = torchrun(text, "--run", two, *TINY_FLAGS, "--dropout", "0.3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes") == 1  # one of them speaks
    assert done.stdout.count("report: ") == 1
    assert (two / "report.html").is_file()
    assert main(["train", str(text), "--run", str(halves), *TINY_FLAGS, "--dropout", "0.3", "--accumulate", "2"]) == 0
    assert_close_runs(two / LAST_FILE, halves / LAST_FILE, 1e-6)
    assert_close_runs(two / BEST_FILE, halves / BEST_FILE, 1e-6)

    plain, flags = tmp_path / "plain", [*TINY_FLAGS, "--dropout", "0", "--teacher", str(halves)]
    assert torchrun(text, "--run", plain, *flags).returncode == 0
    assert main(["train", str(text), "--run", str(whole), *flags]) == 0
    assert_close_runs(plain / LAST_FILE, whole / LAST_FILE, 1e-4)
    losses = [(run / "log.jsonl").read_text().count("\n") for run in (plain, whole)]
    assert losses[0] == losses[1] > 1


def test_a_run_of_two_processes_goes_on_in_one_and_the_other_way_round(text: Path, tmp_path: Path) -> None:
    """Without dropout a step is the same in any number of parts; a state of the whole batch is saved."""
    flags = [*TINY_FLAGS, "--dropout", "0", "--checkpoint-every", "5"]
    whole, two, one = tmp_path / "whole", tmp_path / "two", tmp_path / "one"
    assert main(["train", str(text), "--run", str(whole), *flags]) == 0
    stop = (
        "import sys\nfrom charloom.cli.main import main\nfrom charloom.training.loop import Trainer\n"
        "asked = Trainer._asked_to_stop\n"
        "Trainer._asked_to_stop = lambda self: (self.step == 12 and self.stop()) or asked(self)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    (tmp_path / "stop.py").write_text(stop)
    stopped = torchrun(text, "--run", two, *flags, command=[sys.executable, "-W", "ignore", tmp_path / "stop.py"])
    assert "stopped at step 12" in stopped.stdout, stopped.stderr
    assert main(["train", str(text), "--run", str(two), "--resume", "--device", "cpu", "--threads", "1"]) == 0
    assert_close_runs(two / LAST_FILE, whole / LAST_FILE, 1e-4)

    alone = [sys.executable, "-W", "ignore", str(tmp_path / "stop.py"), "train", str(text), "--run", str(one), *flags]
    subprocess.run(alone, capture_output=True, timeout=400, check=False)
    assert read_checkpoint(one / LAST_FILE).facts["step"] == 12
    resumed = torchrun(text, "--run", one, "--resume", "--device", "cpu", "--threads", "1")
    assert resumed.returncode == 0, resumed.stderr
    assert_close_runs(one / LAST_FILE, whole / LAST_FILE, 1e-4)


def test_processes_wait_as_long_as_the_first_one_works_and_not_for_its_measurement(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
    for name, value in (address | {"TORCHELASTIC_RUN_ID": "one", "LOCAL_RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    waits: list[timedelta] = []
    in_group: list[bool] = []
    codes: list[int] = []
    join = dist.init_process_group

    def joined(backend: str, timeout: timedelta) -> None:
        waits.append(timeout)
        join(backend, timeout=timeout)

    def measured(*_: object) -> dict[str, float]:
        in_group.append(dist.is_initialized())
        return {"tail": 1.0}

    monkeypatch.setattr(dist, "init_process_group", joined)
    monkeypatch.setattr(train, "losses", measured)
    monkeypatch.setattr(os, "_exit", codes.append)
    assert main(["train", str(text), "--run", str(tmp_path / "run"), *TINY_FLAGS]) == 0
    assert (in_group, codes) == ([False], [0])
    assert waits[0] >= timedelta(days=7)


def test_a_batch_that_processes_cannot_share_is_refused_by_all_of_them(text: Path, tmp_path: Path) -> None:
    done = torchrun(text, "--run", tmp_path / "run", *TINY_FLAGS, "--batch-size", "9")
    assert done.returncode != 0
    assert "batch_size 9 cannot be divided among 2 processes x 1 parts; choose a multiple of 2" in done.stderr
    assert not (tmp_path / "run" / LAST_FILE).exists()
