"""Which precision a run has on a processor, and what a user is told who asks for another.

`ONEDNN_MAX_CPU_ISA` makes any x86 processor one without AVX-512, for a process that has it from its start.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from charloom.training import precision
from charloom.training.config import SettingsError, TrainingConfig
from charloom.training.precision import can_train
from tests.unit.training.training_runs import HAS_BF16, needs_bf16

CPU = torch.device("cpu")
CPUINFO = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""


def without_avx512(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=400, check=False
    )


def chosen_precision(asked: str, device: torch.device, **settings: Any) -> str:
    return precision.chosen_precision(TrainingConfig(precision=asked, **settings), device)


def test_every_device_trains_in_fp32() -> None:
    assert can_train(CPU, "fp32")
    assert chosen_precision("fp32", CPU) == "fp32"


@needs_bf16
def test_bf16_is_taken_where_asked_for_and_where_the_choice_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_precision("bf16", CPU) == "bf16"
    for native, choice in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(precision, "_multiplies_bf16", lambda device, native=native: native)
        assert chosen_precision("auto", CPU) == choice


def test_without_onednn_the_choice_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own bf16 products on a CPU are slower than those of fp32."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert chosen_precision("auto", CPU) == "fp32"


def test_a_precision_without_a_kernel_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "can_train", lambda device, asked: asked == "fp32")
    with pytest.raises(SettingsError, match=r"precision bf16: .* AVX-512 .*--precision auto, which is fp32 here"):
        chosen_precision("bf16", CPU)
    assert chosen_precision("auto", CPU) == "fp32"


@pytest.mark.parametrize(
    "settings", [{"cell": "peephole"}, {"cell": "layer-norm"}, {"zoneout_cell": 0.1}, {"zoneout_hidden": 0.1}], ids=str
)
def test_what_needs_no_kernel_of_an_lstm_is_not_refused(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "can_train", lambda device, asked: asked == "fp32")
    assert [chosen_precision(asked, CPU, **settings) for asked in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]


@pytest.mark.parametrize("asked", ["bf16", "fp16"])
def test_the_command_refuses_it_in_one_line_before_it_reads_the_text(asked: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["-m", "charloom.cli.main", "train", str(tmp_path / "missing.txt"), "--run", str(run)]
    refused = without_avx512(*command, "--precision", asked, "--device", "cpu")
    assert refused.returncode == 1, refused
    assert refused.stderr.startswith(f"charloom train: precision {asked}: this cpu device has no LSTM in it")
    assert refused.stderr.count("\n") == 1
    assert not run.exists()


def test_a_processor_without_avx512_trains_in_fp32_unless_told_otherwise(text_file: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(text_file.read_text("utf-8")[:5000], "utf-8")
    sizes = ["--hidden-size", "16", "--layers", "1", "--batch-size", "8", "--sequence-length", "32", "--epochs", "1"]
    made = without_avx512(
        *["-m", "charloom.cli.main", "train", str(text), "--run", str(tmp_path / "run"), *sizes],
        *["--device", "cpu", "--threads", "1"],
    )
    assert made.returncode == 0, made.stderr
    assert " fp32 on cpu" in made.stdout


@pytest.mark.skipif(
    "ONEDNN_MAX_CPU_ISA" in os.environ or not re.search(r"\bavx512vl\b", CPUINFO), reason="no AVX-512 here"
)
def test_a_processor_with_avx512_has_bf16_so_that_no_test_of_it_is_skipped() -> None:
    assert HAS_BF16
