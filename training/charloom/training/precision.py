"""The precisions in which a device can train a model, and which one `auto` is."""

from __future__ import annotations

import torch

from charloom.network.cells import CELLS
from charloom.training.config import SettingsError, TrainingConfig

AUTOCAST: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What products are cast to, by precision."""


def chosen_precision(config: TrainingConfig, device: torch.device) -> str:
    """The precision to train in: a key of `AUTOCAST`; "auto" is bf16 where the device multiplies it natively, or fp32.

    Raises:
        SettingsError: the device cannot train in the precision that was asked for.
    """
    # Zoneout and the other cells are loops of plain products, which every device has in every precision.
    fused = CELLS[config.cell].layer.fused and not (config.zoneout_cell or config.zoneout_hidden)
    automatic = "bf16" if _multiplies_bf16(device) and (not fused or can_train(device, "bf16")) else "fp32"
    asked = config.precision
    if asked == "auto":
        return automatic
    if fused and not can_train(device, asked):
        extension = {"bf16": "AVX-512", "fp16": "AVX-512 FP16"}[asked]
        raise SettingsError(
            f"precision {asked}: this {device.type} device has no LSTM in it (a CPU needs {extension} for that); "
            f"take --precision auto, which is {automatic} here"
        )
    return asked


def full_precision() -> None:
    """Let this process compute fp32 in fp32: by default, cuDNN's LSTM takes TF32, which has ten bits of each factor."""
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")


def can_train(device: torch.device, precision: str) -> bool:
    """Whether the LSTM kernel of the device exists in a precision; found by running it on one number."""
    dtype = AUTOCAST[precision]
    if dtype is None:
        return True
    lstm = torch.nn.LSTM(1, 1, device=device)
    try:
        with torch.autocast(device.type, dtype=dtype):
            outputs, _ = lstm(torch.zeros(1, 1, 1, device=device))
        outputs.float().sum().backward()
    except RuntimeError:  # "could not create a primitive descriptor": oneDNN has no such kernel for this processor
        return False
    return True


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.backends.mkldnn.enabled and torch.ops.mkldnn._is_mkldnn_bf16_supported())
