"""Generations and conversations, from protobuf to the SDK's own types."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable

from charloom.client import _session_responses
from charloom.client._conversation_types import Applied, ConversationEvent, ConversationText, Ended
from charloom.client._generation_types import FinishReason, Resampled, Result, Sampling, Timings, Usage
from charloom.client._text_types import Alternative, TokenLogprob
from charloom.v1 import conversation_pb2, generation_pb2, text_pb2

_FINISH_REASONS = {
    generation_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    generation_pb2.FINISH_REASON_DRAINING: FinishReason.DRAINING,
    generation_pb2.FINISH_REASON_STOP: FinishReason.STOP,
}


def token_logprobs(messages: Iterable[text_pb2.TokenLogprob]) -> tuple[TokenLogprob, ...]:
    """Read the log-probabilities of tokens."""
    return tuple(map(token_logprob, messages))


def token_logprob(message: text_pb2.TokenLogprob) -> TokenLogprob:
    """Read the log-probability of a token."""
    return TokenLogprob(
        symbol=message.chosen.symbol,
        logprob=message.chosen.logprob,
        top=alternatives(message.top),
        allowed_logprob=message.allowed_logprob,
    )


def alternatives(messages: Iterable[text_pb2.Alternative]) -> tuple[Alternative, ...]:
    """Read the most probable tokens of a position."""
    return tuple(Alternative(symbol=one.symbol, logprob=one.logprob) for one in messages)


def result(message: generation_pb2.GenerationResult) -> Result:
    """Read how a generation ended."""
    return Result(
        finish_reason=_FINISH_REASONS.get(message.finish_reason, FinishReason.UNKNOWN),
        usage=Usage(prompt_tokens=message.usage.prompt_tokens, completion_tokens=message.usage.completion_tokens),
        timings=Timings(
            queued=message.timings.queued.ToNanoseconds() / 1e9,
            first_token=message.timings.first_token.ToNanoseconds() / 1e9,
            total=message.timings.total.ToNanoseconds() / 1e9,
        ),
        seed=message.seed,
        sampling=_sampling(message.sampling),
        max_tokens=message.max_tokens,
        model=message.model,
        model_digest=message.model_digest,
        position=message.position,
        session=_session_responses.session_info(message.session) if message.HasField("session") else None,
        stop=message.stop or None,
        state=message.state or None,
        allowed_logprob=message.allowed_logprob if message.HasField("allowed_logprob") else None,
        resampled=_resampled(message.resampled) if message.HasField("resampled") else None,
    )


def _resampled(message: generation_pb2.Resampled) -> Resampled:
    return Resampled(
        weight=message.weight, ancestor=message.ancestor, times=message.times, match_logprob=message.match_logprob
    )


def conversation_event(message: conversation_pb2.ConverseResponse) -> ConversationEvent | None:
    """Read an event of a conversation; `None` for a kind that this version of the client does not know."""
    kind = message.WhichOneof("event")
    if kind == "text":
        return ConversationText(text=message.text, position=message.position)
    if kind == "applied":
        return Applied(number=message.applied, position=message.position)
    if kind == "ended":
        return Ended(result=result(message.ended), position=message.position)
    return None


def _sampling(message: generation_pb2.Sampling) -> Sampling:
    told = {one.name: getattr(message, one.name) for one in dataclasses.fields(Sampling)}
    told = {name: _shortest(value) if isinstance(value, float) else value for name, value in told.items()}
    told["logit_bias"] = _biases(message.logit_bias)
    if not message.HasField("allowed_characters"):
        told["allowed_characters"] = None
    return Sampling(**told)


def _biases(entries: Iterable[generation_pb2.LogitBias]) -> dict[str, float]:
    """Biases by characters; entries with the same characters are summed, as in the server."""
    biases: dict[str, float] = {}
    for entry in entries:
        biases[entry.characters] = biases.get(entry.characters, 0.0) + _shortest(entry.bias)
    return biases


def _shortest(value: float) -> float:
    """The number with the fewest digits that has this value as float32, so that 0.8 comes back as 0.8."""
    for digits in range(6, 9):
        candidate = float(f"{value:.{digits}g}")
        if struct.pack("f", candidate) == struct.pack("f", value):
            return candidate
    return value
