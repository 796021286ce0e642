"""The decoder on TorchScript, on the CPU."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from charloom.controls import ADAPTATION_INPUTS, CONSTRAINT_INPUTS
from charloom.engine.decoding.automaton import unconstrained
from charloom.engine.decoding.decoder import (
    Inputs,
    Outputs,
    Shape,
    completed,
    has_constraints,
    has_filters,
    has_penalties,
    lacking,
    nobody_learns,
)
from charloom.engine.decoding.earlier_graphs import JoinedModule
from charloom.engine.decoding.state_pool import HostStatePool

FEWEST_ROWS = 4
"""Below this, torch's CPU products take another path and round differently; smaller batches are padded."""


_FILES_AND_FOREIGN = re.compile(rb"""\b(?:from_file|save|ops(?!\.prim\.)|getattr(?!\([\w.]+, "\w+"\)))\b""")
"""Names in the code of a module by which it could read or write files, or get at operators that are not torch's own:
those of other namespaces, and those whose name is put together."""
_LONGEST_CODE = 2**22
"""Bytes of one file of code, which a decoder has a few thousand of."""
_MOST_UNPACKED = 2**25
"""How many bytes more there may be in the archive than it has itself; only code is compressed."""
_WRITTEN_BY_TORCH = re.compile(
    r"[^/]+/(data\.pkl|constants\.pkl|(data|constants)/\d+|code/[\w/]+\.py(\.debug_pkl)?|extra/\w+|version|byteorder"
    r"|\.data/serialization_id|\.format_version|\.storage_alignment)",
    re.ASCII,
)


def load_module(path: Path, device: str) -> tuple[Any, Shape, str, frozenset[str]]:
    """A `decoder.ts`: the module, its sizes, the hash of the weights that it was made from, and `Decoder.lacks`.

    Raises:
        ValueError: its code could use other files, which no hash covers.
    """
    checked = _checked(path)
    extra: dict[str, Any] = {"weights_sha256": ""}  # torch replaces the values, with bytes in some versions
    module: Any = torch.jit.load(checked, map_location=device, _extra_files=extra)  # type: ignore[no-untyped-call]
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


def _checked(path: Path) -> io.BytesIO:
    """An archive of exactly what was looked at, before torch loads it, because loading may run some of its code.

    Torch reads archives otherwise than Python: it takes another of two directories, and names in any case.
    """
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as looked_at:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > path.stat().st_size + _MOST_UNPACKED:
            raise ValueError(f"it has more than {_MOST_UNPACKED} bytes more unpacked than packed")
        if len({entry.filename.lower() for entry in entries}) < len(entries):
            raise ValueError("two of its entries have one name, or differ only in case")
        for entry in entries:
            if not _WRITTEN_BY_TORCH.fullmatch(entry.filename):
                raise ValueError(f"it has an entry {entry.filename[:100]!r}, which torch does not write")
            is_code = entry.filename.endswith(".py")
            if is_code and entry.file_size > _LONGEST_CODE:
                raise ValueError(f"its code {entry.filename} has {entry.file_size} bytes, more than {_LONGEST_CODE}")
            content = archive.read(entry)
            if is_code and (found := _FILES_AND_FOREIGN.search(content)):
                raise ValueError(
                    f"its code {entry.filename} has the name {found[0].decode()!r}, which no decoder needs"
                )
            looked_at.writestr(entry.filename, content)
    copy.seek(0)
    return copy


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
        """Run the decoder contract on one batch."""
        rows = len(inputs.token)
        padded = pad_rows(inputs, max(rows, FEWEST_ROWS))
        with torch.inference_mode():
            arrays = padded.by_name(self.lacks)
            top = int(arrays.pop("top")[0])
            asked = {"filtered": has_filters(inputs), "penalised": has_penalties(inputs)}
            if self.lacks.isdisjoint(CONSTRAINT_INPUTS):
                constraints = padded.constraints or unconstrained(len(padded.token), self.shape.vocabulary)
                arrays |= constraints.by_name()
                asked["constrained"] = has_constraints(inputs)
            if self.lacks.isdisjoint(ADAPTATION_INPUTS):
                learning = padded.adaptation
                arrays |= nobody_learns(self.shape.vocabulary) if learning is None else learning.by_name()
                asked["adaptive"] = learning is not None
            tensors = {
                name: torch.from_numpy(np.require(array, requirements=["C", "W"])) for name, array in arrays.items()
            }
            *found, _ = self._module(**tensors, top=top, **asked)
        outputs = completed(padded, [part.numpy() for part in found])
        return outputs.with_rows(lambda part, axis: part.take(range(rows), axis))

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
