"""What the SDK returns of a generation and of a server: plain frozen values that know neither gRPC nor protobuf."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from charloom.client._classification_types import LabelScores
from charloom.client._session_types import SessionInfo
from charloom.client._text_types import TokenLogprob


class FinishReason(str, enum.Enum):
    """Why a generation ended. Each member equals its text."""

    LENGTH = "length"
    """`max_tokens` tokens were generated."""

    DRAINING = "draining"
    """The server is stopping; a session holds the state after the last token that arrived."""

    STOP = "stop"
    """A stop string was generated, and the result says which; or the text that a constraint allows has ended."""

    UNKNOWN = "unknown"
    """A reason that this version of the client does not know."""


class Unit(str, enum.Enum):
    """What one token of a model is. Each member equals its text."""

    CHARACTER = "character"
    """One Unicode code point."""

    BYTE = "byte"
    """A byte of UTF-8."""

    WORD = "word"
    """A word, or a character that is in none, such as a space or a comma."""

    UNKNOWN = "unknown"
    """A unit that this version of the client does not know."""


class HealthStatus(str, enum.Enum):
    """What a server says about itself, by the standard gRPC health protocol. Each member equals its text."""

    UNKNOWN = "UNKNOWN"
    """It does not know, or this version of the client does not know the answer."""

    SERVING = "SERVING"
    """It takes calls."""

    NOT_SERVING = "NOT_SERVING"
    """It is loading or stopping."""

    SERVICE_UNKNOWN = "SERVICE_UNKNOWN"
    """It does not have the service that was asked about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of one call."""

    prompt_tokens: int
    """Tokens of the prompt that were fed."""

    completion_tokens: int
    """Tokens that were generated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Seconds from the arrival of the call at the server, measured there."""

    queued: float
    """Until its first decoder step began."""

    first_token: float
    """Until its first token was generated."""

    total: float
    """Until its last token was generated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """The sampling parameters that were used, defaults included."""

    temperature: float
    """What the logits were divided by; 0 is greedy."""

    top_k: int
    """0 is off."""

    top_p: float
    """1 is off."""

    min_p: float
    """0 is off."""

    repetition_penalty: float
    """1 is off."""

    presence_penalty: float
    """0 is off."""

    frequency_penalty: float
    """0 is off."""

    logit_bias: Mapping[str, float] = field(hash=False)
    """Characters, and what was added to the logit of each."""

    allowed_characters: str | None
    """The only characters that could be generated; `None` is all."""

    forbidden_characters: str
    """Characters that could not be generated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampled:
    """How a continuation came out among those of its call, which were resampled while they ran."""

    weight: float
    """Its share of what all of them stand for; the shares of all are 1 together."""

    ancestor: int
    """The number of the continuation, from 0, that its text began as."""

    times: int
    """How often the continuations were resampled."""

    match_logprob: float
    """Natural logarithm of an unbiased estimate of the probability that a text of the model matches; the same for all
    continuations of the call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How a generation ended, with the values that were in effect."""

    finish_reason: FinishReason
    """Why it ended."""

    usage: Usage
    """What it consumed."""

    timings: Timings
    """How long it took, seen from the server."""

    seed: int
    """The seed that was used. The same seed, state and parameters give the same text."""

    sampling: Sampling
    """The sampling parameters that were used."""

    max_tokens: int
    """The limit that was used; 0 of a text without end, in a conversation."""

    model: str
    """Name of the model."""

    model_digest: str
    """Digest of the model."""

    position: int
    """Tokens fed and generated since the state was zero, after the last token."""

    session: SessionInfo | None
    """The session after this call; `None` without a session."""

    stop: str | None
    """The stop string that ended it; `None` if it ended for another reason."""

    state: bytes | None = field(repr=False)
    """The state after this call, for the option `state` of another; `None` unless `return_state` asked for it."""

    allowed_logprob: float | None = None
    """With a constraint: the natural logarithm of the probability that it left, of all tokens together: 0 where it
    changed nothing, and the lower, the further it has bent the model. `None` without a constraint."""

    resampled: Resampled | None = None
    """How it came out among the continuations of the call; `None` unless `resample` asked for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A generation as a whole."""

    text: str
    """The generated text, without the prompt."""

    result: Result
    """How it ended."""

    logprobs: tuple[TokenLogprob, ...]
    """Of each generated token, if `logprobs` were asked for; empty otherwise."""


class Task(str, enum.Enum):
    """What a model does with a text."""

    LANGUAGE_MODEL = "language-model"
    """It goes on with it, and tells how probable it is."""

    CLASSIFICATION = "classification"
    """It gives it a label."""

    UNKNOWN = "unknown"
    """Something that this version of the client does not know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """A model that a server has loaded."""

    name: str
    """Its name on this server."""

    digest: str
    """One value for weights, vocabulary and decoder files together."""

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
    """How much larger the state of a session is that learns from its text, in bytes; 0 where none of the model can."""

    max_tokens: int
    """Most tokens that one call may generate."""

    max_prompt_characters: int
    """Most characters that one prompt may have."""

    batch_invariance: bool | None
    """Whether a text is independent of the other streams in its batch, bit for bit, on the server's machine;
    `None` if that was not checked."""

    validation: Mapping[str, Mapping[str, float]] = field(hash=False)
    """Validation losses at the time of the export: protocol, then decoder, then nats per token."""

    task: Task
    """What it does."""

    labels: tuple[str, ...]
    """What labels it gives; empty unless it is a classifier."""

    max_length: int | None
    """Tokens that a classifier reads of a text; `None` of other models."""

    label_scores: Mapping[str, LabelScores] = field(hash=False)
    """How good a classifier was at the time of the export, by decoder; empty of other models."""


class ModelState(str, enum.Enum):
    """What a version of a model is doing."""

    LOADING = "loading"
    """It is being read, verified, opened and tried; it serves nothing yet."""

    SERVING = "serving"
    """New calls of its name go to it."""

    DRAINING = "draining"
    """It was replaced or unloaded: only calls and sessions that began with it go on."""

    UNKNOWN = "unknown"
    """Something that this version of the client does not know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    """A version of a model: one bundle."""

    name: str
    """Name of the model."""

    version: str
    """Name of the folder that it was loaded from."""

    digest: str
    """One value for weights, vocabulary and decoder files together."""

    state: ModelState
    """What it is doing."""

    grace_end_time: datetime | None
    """Of one that is draining: until when sessions go on with it."""

    calls: int
    """How many use it now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """What a load has brought."""

    version: ModelVersion
    """The version that serves."""

    changed: bool
    """Whether another one, or none, served under its name before."""
