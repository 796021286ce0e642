"""The decoder on TorchScript, on the CPU.

Knows: torch, and the number of rows from which its products are independent of the batch. Does not know: batching.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from charloom.engine.decoding.decoder import Inputs, Outputs, Shape, has_filters, has_penalties, lacking
from charloom.engine.decoding.earlier_graphs import JoinedModule
from charloom.engine.decoding.state_pool import HostStatePool

FEWEST_ROWS = 4
"""Below this, torch's CPU products take another path and round differently; smaller batches are padded."""


def load_module(path: Path, device: str) -> tuple[Any, Shape, str, frozenset[str]]:
    """A `decoder.ts`: the module, its sizes, the hash of the weights that it was made from, and `Decoder.lacks`."""
    extra: dict[str, Any] = {"weights_sha256": ""}  # torch replaces the values, with bytes in some versions
    module: Any = torch.jit.load(path, map_location=device, _extra_files=extra)  # type: ignore[no-untyped-call]
    module.eval()
    lacks = lacking([argument.name for argument in module.forward.schema.arguments])
    if not hasattr(module, "arrays"):
        module = JoinedModule(module, torch.stack)
    value = extra["weights_sha256"]
    return (
        module,
        Shape(module.arrays, module.layers, module.hidden, module.vocabulary),
        value.decode() if isinstance(value, bytes) else value,
        lacks,
    )


class TorchDecoder:
    """`decoder.ts` of a bundle.

    Args:
        path: the file
    """

    kind = "torchscript"
    device = "cpu"

    def __init__(self, path: Path) -> None:
        torch.set_num_threads(1)  # one thread per worker; workers are what scales
        self._module, self.shape, self.weights_sha256, self.lacks = load_module(path, "cpu")

    def run(self, inputs: Inputs) -> Outputs:
        """Take the steps."""
        rows = len(inputs.token)
        padded = pad_rows(inputs, max(rows, FEWEST_ROWS))
        with torch.inference_mode():
            arrays = padded.by_name(self.lacks)
            top = int(arrays.pop("top")[0])
            tensors = {
                name: torch.from_numpy(np.require(array, requirements=["C", "W"])) for name, array in arrays.items()
            }
            found = self._module(**tensors, top=top, filtered=has_filters(inputs), penalised=has_penalties(inputs))
        outputs = Outputs(*found[: len(Outputs._fields)])
        return outputs.with_rows(lambda part, axis: part.narrow(axis, 0, rows).numpy())

    def state_pool(self) -> HostStatePool:
        """In main memory."""
        return HostStatePool(self.shape)


def pad_rows(inputs: Inputs, rows: int) -> Inputs:
    """Repeat the last row until there are `rows`."""
    missing = rows - len(inputs.token)
    if not missing:
        return inputs
    return inputs.with_rows(
        lambda array, axis: np.concatenate([array, np.repeat(array.take([-1], axis), missing, axis)], axis)
    )
