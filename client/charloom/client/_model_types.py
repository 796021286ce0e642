"""Descriptions of a server's health and its models: plain frozen values that know neither gRPC nor protobuf."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from charloom.client._classification_types import LabelScores


class Unit(str, enum.Enum):
    """What one token of a model is. Each member equals its text."""

    CHARACTER = "character"
    """One Unicode code point."""

    BYTE = "byte"
    """A byte of UTF-8."""

    WORD = "word"
    """A word, or a character outside words, such as a space or a comma."""

    UNKNOWN = "unknown"
    """A unit that this version of the client does not know."""


class HealthStatus(str, enum.Enum):
    """Health that a server reports by the standard gRPC health protocol. Each member equals its text."""

    UNKNOWN = "UNKNOWN"
    """The server does not know, or this version of the client does not know the answer."""

    SERVING = "SERVING"
    """It takes calls."""

    NOT_SERVING = "NOT_SERVING"
    """It is loading or stopping."""

    SERVICE_UNKNOWN = "SERVICE_UNKNOWN"
    """It does not have the service that was asked for."""


class Task(str, enum.Enum):
    """What a model does with a text."""

    LANGUAGE_MODEL = "language-model"
    """It continues a text, and computes how probable a text is."""

    CLASSIFICATION = "classification"
    """It labels a text."""

    UNKNOWN = "unknown"
    """A task that this version of the client does not know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """A model that a server has loaded."""

    name: str
    """Its name on this server."""

    digest: str
    """One hash over weights, vocabulary and decoder files together."""

    unit: Unit
    """What one token is."""

    vocabulary_size: int
    """Number of symbols."""

    symbols: tuple[str, ...]
    """The symbols of a character model, in the order of their token ids; empty in other models."""

    cell: str
    """Kind of cell, for example "lstm"."""

    layers: int
    """Layers of the network."""

    hidden_size: int
    """Units per layer."""

    parameters: int
    """Trained values."""

    decoder: str
    """The decoder in use, for example "onnx-int8"."""

    device: str
    """Where it runs: "cpu" or "cuda"."""

    state_bytes: int
    """Size of one session's state, in bytes."""

    adaptive_state_bytes: int
    """Bytes that an adaptive session's state needs in addition; 0 if sessions of this model cannot learn."""

    max_tokens: int
    """The most tokens that one call may generate."""

    max_prompt_characters: int
    """The most characters that one prompt may have."""

    batch_invariance: bool | None
    """Whether a text is independent of the other streams in its batch, bit for bit, on the server's machine;
    `None` if that was not checked."""

    validation: Mapping[str, Mapping[str, float]] = field(hash=False)
    """Validation losses at the time of the export, in nats per token, by protocol and then by decoder."""

    task: Task
    """What it does with a text."""

    labels: tuple[str, ...]
    """The labels of a classifier; empty for other models."""

    max_length: int | None
    """The most tokens that a classifier reads of a text; `None` for other models."""

    label_scores: Mapping[str, LabelScores] = field(hash=False)
    """How good a classifier was at the time of the export, by decoder; empty for other models."""


class ModelState(str, enum.Enum):
    """The state of a version of a model."""

    LOADING = "loading"
    """It is being read, verified, opened and tried; it serves nothing yet."""

    SERVING = "serving"
    """New calls of its name go to it."""

    DRAINING = "draining"
    """It was replaced or unloaded: only calls and sessions that began with it continue."""

    UNKNOWN = "unknown"
    """A state that this version of the client does not know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    """A version of a model: one bundle."""

    name: str
    """Name of the model."""

    version: str
    """Name of the folder that it was loaded from."""

    digest: str
    """One hash over weights, vocabulary and decoder files together."""

    state: ModelState
    """Whether it is loading, serving or draining."""

    grace_end_time: datetime | None
    """Until when sessions may continue with a version that is draining."""

    calls: int
    """Number of calls that use it now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """The result of a load."""

    version: ModelVersion
    """The version that serves."""

    changed: bool
    """Whether a different version, or none, served under its name before."""
