"""The decoder on TorchScript, CPU or CUDA.

Knows: torch, and the number of rows from which its products are independent of the batch. Does not know: batching.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from charloom.engine.decoder import ROW_AXIS, Inputs, Outputs, Shape

FEWEST_ROWS = 4
"""Below this, torch's CPU products take another path and round differently; smaller batches are padded."""


class TorchDecoder:
    """`decoder.ts` of a bundle.

    Args:
        path: the file
        device: "cpu" or "cuda"
    """

    kind = "torchscript"

    def __init__(self, path: Path, device: str) -> None:
        if device == "cpu":
            torch.set_num_threads(1)  # one thread per worker; workers are what scales
        extra: dict[str, Any] = {"weights_sha256": ""}  # torch replaces the values, with bytes in some versions
        self._module = torch.jit.load(path, map_location=device, _extra_files=extra)  # type: ignore[no-untyped-call]
        self._module.eval()
        self.device = device
        self.shape = Shape(self._module.layers, self._module.hidden, self._module.vocabulary)
        value = extra["weights_sha256"]
        self.weights_sha256 = value.decode() if isinstance(value, bytes) else value

    def run(self, inputs: Inputs) -> Outputs:
        """Take the steps."""
        rows = len(inputs.token)
        padded = _pad(inputs, FEWEST_ROWS - rows) if rows < FEWEST_ROWS else inputs
        with torch.inference_mode():
            arguments = [torch.from_numpy(np.ascontiguousarray(value)).to(self.device) for value in padded]
            tokens, logprob, h, c = (result.cpu().numpy() for result in self._module(*arguments))
        return Outputs(tokens[:, :rows], logprob[:, :rows], h[:, :rows], c[:, :rows])


def _pad(inputs: Inputs, missing: int) -> Inputs:
    """Repeat the last row `missing` times."""
    return Inputs(
        *(
            np.concatenate([value, np.repeat(value.take([-1], axis), missing, axis)], axis)
            for name, value in inputs._asdict().items()
            for axis in [ROW_AXIS[name]]
        )
    )
