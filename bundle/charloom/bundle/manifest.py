"""`manifest.json`: what a bundle says of itself.

Knows: the fields, their meaning and the digest over them. Does not know: files on disk, decoders, torch.
"""

from __future__ import annotations

import enum
import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from charloom.bundle.vocabulary import Unit

SCHEMA_VERSION: Literal[2] = 2
"""The only schema that this version reads and writes."""

MANIFEST_FILE = "manifest.json"
VOCABULARY_FILE = "vocabulary.json"
WEIGHTS_FILE = "weights.safetensors"
INSPECTOR_FILE = "inspector.onnx"


class DecoderKind(str, enum.Enum):
    """The forms in which a bundle can hold the decoder."""

    ONNX_INT8 = "onnx-int8"
    ONNX_FP32 = "onnx-fp32"
    TORCHSCRIPT = "torchscript"

    @property
    def file(self) -> str:
        """The file of the bundle that holds this form."""
        return _DECODER_FILES[self]


_DECODER_FILES = {
    DecoderKind.ONNX_INT8: "decoder.int8.onnx",
    DecoderKind.ONNX_FP32: "decoder.onnx",
    DecoderKind.TORCHSCRIPT: "decoder.ts",
}


class CellKind(str, enum.Enum):
    """The recurrent cells; all of them carry h and c."""

    LSTM = "lstm"
    PEEPHOLE = "peephole"
    LAYER_NORM = "layer-norm"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Part):
    """One file of the bundle."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Cell(_Part):
    """The recurrent cell and its sizes; the carried state is h and c, float32, [layers, rows, hidden_size] each."""

    kind: CellKind = CellKind.LSTM
    layers: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    embedding_size: int = Field(ge=1)
    parameters: int = Field(ge=1)


class Manifest(_Part):
    """The content of `manifest.json`."""

    schema_version: Literal[2] = SCHEMA_VERSION
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    digest: str = ""
    """sha256 over all other fields: one value names the model, weights and vocabulary included."""
    unit: Unit
    vocabulary_size: int = Field(ge=1)
    start_token: int = Field(ge=0)
    """The token before the first one: what a fresh session feeds first."""
    cell: Cell
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of `weights.safetensors`, even where the bundle leaves it out; each decoder repeats it in its metadata."""
    files: dict[str, FileEntry]
    training: dict[str, Any] = Field(default_factory=dict)
    """Where the model comes from: corpus, settings, steps, duration, versions."""
    validation: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Loss in nats per token, by protocol (`tail`, `windows-256`) and by decoder."""

    @property
    def decoders(self) -> tuple[DecoderKind, ...]:
        """The decoders in the bundle, the preferred one first."""
        return tuple(kind for kind in DecoderKind if kind.file in self.files)

    def computed_digest(self) -> str:
        """sha256, in hexadecimal, of the canonical JSON of all fields but `digest`."""
        content = json.dumps(self.model_dump(mode="json", exclude={"digest"}), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def with_digest(self) -> Manifest:
        """The same manifest, its digest filled in."""
        return self.model_copy(update={"digest": self.computed_digest()})
