"""`manifest.json`: what a bundle holds, where it comes from, and the digest over both."""

from __future__ import annotations

import enum
import hashlib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from charloom.bundle.chat import ChatTemplate
from charloom.bundle.vocabulary import MOST_SYMBOLS, Unit

SCHEMA_VERSION: Literal[3] = 3
"""The schema that this version writes."""
READ_SCHEMAS = (2, SCHEMA_VERSION)
"""The schemas that it reads. In schema 2 every cell has the arrays and gates of an LSTM and does not say so, and the
graphs have h and c as inputs and outputs of their own."""

MANIFEST_FILE = "manifest.json"
VOCABULARY_FILE = "vocabulary.json"
WEIGHTS_FILE = "weights.safetensors"
INSPECTOR_FILE = "inspector.onnx"
LABEL_HEAD_FILE = "labels.npy"
"""File of a classifier's output layer, from the network's state to probabilities of labels."""

LARGEST_MANIFEST = 2**20
"""Bytes."""
LARGEST_FILE = 2**34
"""Bytes of any file of a bundle: all of them are read to be hashed before a server starts."""
LARGEST_STATE = 2**18
"""Numbers in the state of one session, 1 MiB; every row of a batch has one."""

MOST_EARLIER = 64
"""Digests of earlier models in each of `continues` and `follows`; an export keeps the newest."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A name that answers, logs and paths can hold without escaping."""
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


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


class Task(str, enum.Enum):
    """What a model does with a text."""

    LANGUAGE_MODEL = "language-model"
    """It continues a text, and computes how probable a text is."""
    CLASSIFICATION = "classification"
    """It labels a text."""


class CellKind(str, enum.Enum):
    """The recurrent cells."""

    LSTM = "lstm"
    PEEPHOLE = "peephole"
    LAYER_NORM = "layer-norm"
    GRU = "gru"
    CIFG = "cifg"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Part):
    """One file of the bundle."""

    bytes: int = Field(ge=0, le=LARGEST_FILE)
    sha256: _Digest


class Cell(_Part):
    """The recurrent cell and its sizes; the carried state is float32, [arrays, layers, rows, hidden_size]."""

    kind: CellKind = CellKind.LSTM
    arrays: tuple[Name, ...] = Field(default=("h", "c"), min_length=1, max_length=8)
    """What is carried from step to step, by name; the first is what the layer above reads."""
    gates: tuple[Name, ...] = Field(default=("input", "forget", "candidate", "output"), max_length=16)
    """By name, in the order in which the inspector shows them."""
    layers: int = Field(ge=1, le=64)
    hidden_size: int = Field(ge=1, le=2**14)
    embedding_size: int = Field(ge=1, le=2**14)
    parameters: int = Field(ge=1, le=10**12)

    @model_validator(mode="after")
    def _state_has_room(self) -> Cell:
        numbers = math.prod((len(self.arrays), self.layers, self.hidden_size))
        if numbers > LARGEST_STATE:
            raise ValueError(f"arrays x layers x hidden_size is {numbers}, more than {LARGEST_STATE}")
        return self


class LabelScores(_Part):
    """How good a classifier was on the texts that its run kept for the test."""

    accuracy: float = Field(ge=0, le=1)
    """Share of the texts whose label is right."""
    loss: float = Field(ge=0)
    """Mean cross-entropy, nats per text."""
    calibration_error: float = Field(ge=0, le=1)
    """How far confidence and accuracy are apart: the expected calibration error over 15 bins."""


class Labelling(_Part):
    """Settings of a classifier: it reads a text from the zero state; its last layer's final h determines the label."""

    labels: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(min_length=2, max_length=1024)
    """In the order of the columns of `labels.npy`."""
    max_length: int = Field(ge=1)
    """Tokens that it reads of a text; what comes after is left out."""
    unknown_token: int | None = Field(ge=0)
    """The token that stands for all that the vocabulary lacks; the one behind its last where it has none of its own for
    that. None where it lacks nothing."""
    test: dict[Name, LabelScores] = Field(default_factory=dict, max_length=16)
    """By decoder, and of the network before the export as `checkpoint`."""

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) < len(labels):
            raise ValueError("two labels are the same")
        return labels


_NEW_IN_SCHEMA_3 = {"arrays", "gates"}
"""Of the cell."""


class Manifest(_Part):
    """The content of `manifest.json`."""

    schema_version: Literal[2, 3] = SCHEMA_VERSION
    name: Name
    digest: str = ""
    """sha256 over all other fields: one value names the model, weights and vocabulary included."""
    unit: Unit
    vocabulary_size: int = Field(ge=1, le=MOST_SYMBOLS)
    start_token: int = Field(ge=0)
    """The token before the first one: what a fresh session feeds first."""
    cell: Cell
    weights_sha256: _Digest
    """Of `weights.safetensors`, even where the bundle leaves it out; each decoder repeats it in its metadata."""
    files: dict[str, FileEntry]
    training: dict[str, Any] = Field(default_factory=dict)
    """Where the model comes from: corpus, settings, steps, duration, versions."""
    validation: dict[Name, Annotated[dict[Name, float], Field(max_length=16)]] = Field(
        default_factory=dict, max_length=16
    )
    """Loss in nats per token, by protocol (`tail`, `windows-256`) and by decoder."""

    chat: ChatTemplate | None = None
    """How messages become text, of a model that has learnt to converse."""
    labelling: Labelling | None = None
    """What labels it gives, of a classifier; None: it is a language model."""
    continues: tuple[_Digest, ...] = Field(default=(), max_length=MOST_EARLIER)
    """Digests of bundles of the same weights in other files: their sessions and sealed states go on with this one. The
    newest first."""
    follows: tuple[_Digest, ...] = Field(default=(), max_length=MOST_EARLIER)
    """Digests of models of the same symbols whose place this one took: their sessions can be moved to it. The newest
    first."""

    @field_validator("cell")
    @classmethod
    def _of_this_schema(cls, cell: Cell, info: ValidationInfo) -> Cell:
        version = info.data.get("schema_version")
        if cell.model_fields_set & _NEW_IN_SCHEMA_3 != (_NEW_IN_SCHEMA_3 if version == 3 else set()):
            raise ValueError("arrays and gates are named by schema 3, and only by that")
        return cell

    @field_validator("labelling")
    @classmethod
    def _unknown_token_is_one(cls, labelling: Labelling | None, info: ValidationInfo) -> Labelling | None:
        size = info.data.get("vocabulary_size", 0)
        if labelling is not None and labelling.unknown_token is not None and labelling.unknown_token > size:
            raise ValueError(f"unknown_token is {labelling.unknown_token}, and the vocabulary has {size} symbols")
        return labelling

    @property
    def task(self) -> Task:
        """What the model does."""
        return Task.LANGUAGE_MODEL if self.labelling is None else Task.CLASSIFICATION

    @property
    def network_tokens(self) -> int:
        """Number of different tokens that the network reads: one per symbol, and maybe one for unknown symbols."""
        own = self.labelling is not None and self.labelling.unknown_token == self.vocabulary_size
        return self.vocabulary_size + own

    @property
    def of_its_symbols(self) -> tuple[str, ...]:
        """Digests of models that are known to have this vocabulary, its own first."""
        return (self.digest, *self.continues, *self.follows)

    @property
    def parts_left_out(self) -> set[str]:
        """Fields that are not written, so that versions that do not know them can read the manifests without them."""
        return {name for name in ("chat", "labelling", "continues", "follows") if not getattr(self, name)}

    @property
    def decoders(self) -> tuple[DecoderKind, ...]:
        """The decoders in the bundle, the preferred one first."""
        return tuple(kind for kind in DecoderKind if kind.file in self.files)

    def computed_digest(self) -> str:
        """sha256, in hexadecimal, of the canonical JSON of all fields that are written but `digest`."""
        left_out: dict[str, Any] = {"digest": True} | dict.fromkeys(self.parts_left_out, True)
        if self.schema_version == 2:
            left_out["cell"] = _NEW_IN_SCHEMA_3
        content = json.dumps(self.model_dump(mode="json", exclude=left_out), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def with_digest(self) -> Manifest:
        """The same manifest, its digest filled in."""
        return self.model_copy(update={"digest": self.computed_digest()})
