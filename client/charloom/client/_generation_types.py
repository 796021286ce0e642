"""Results of a generation: plain frozen values that know neither gRPC nor protobuf."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from charloom.client._session_types import SessionInfo
from charloom.client._text_types import TokenLogprob


class FinishReason(str, enum.Enum):
    """Why a generation ended. Each member equals its text."""

    LENGTH = "length"
    """`max_tokens` tokens were generated."""

    DRAINING = "draining"
    """The server is stopping; a session holds the state after the last token that arrived."""

    STOP = "stop"
    """A stop string was generated, which the result names, or the text that a constraint allows has ended."""

    UNKNOWN = "unknown"
    """A reason that this version of the client does not know."""


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
    """Figures of one of a call's continuations that were resampled while they ran."""

    weight: float
    """Weight of its text; the weights of all continuations of the call sum to 1."""

    ancestor: int
    """Number, from 0, of the continuation in which its text began."""

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
    """The limit that was used; 0 for endless generation in a conversation."""

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
    """The state after this call, for the option `state` of another call; `None` unless `return_state` was set."""

    allowed_logprob: float | None = None
    """With a constraint: the sum over all tokens of the natural logarithm of the probability that the constraint
    allowed: 0 if it changed nothing, lower the further it bent the model. `None` without a constraint."""

    resampled: Resampled | None = None
    """Figures of the resampling; `None` unless `resample` was set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A generation as a whole."""

    text: str
    """The generated text, without the prompt."""

    result: Result
    """How it ended."""

    logprobs: tuple[TokenLogprob, ...]
    """Log-probability of each generated token, if `logprobs` was set; empty otherwise."""
