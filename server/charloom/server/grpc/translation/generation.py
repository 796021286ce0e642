"""generation.proto: requests and results of a generation."""

from __future__ import annotations

import functools
import itertools
from dataclasses import asdict

from charloom.engine.calls.generation import GenerationResult, TextDelta
from charloom.engine.calls.requests import GenerationRequest, MostTokens
from charloom.engine.constraints.constraint import Constraint, Kind
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.limits import MOST_BIASES
from charloom.engine.loom.jobs import FinishReason
from charloom.engine.sessions.session import NewSession
from charloom.server.caller import current_caller
from charloom.server.grpc.translation.sessions import from_session
from charloom.server.grpc.translation.text import to_skip_unknown
from charloom.server.grpc.translation.times import from_seconds, to_time_to_live
from charloom.server.identity.scopes import Scope
from charloom.v1 import generation_pb2

_FINISH_REASONS = {
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.DRAINING: generation_pb2.FINISH_REASON_DRAINING,
}


_REMEMBERED, _LONGEST_REMEMBERED = 256, 64
"""Sets of sampling parameters that are cached between calls, and the bytes of the longest: most calls repeat a few."""


def to_request(
    options: generation_pb2.GenerationOptions,
    tenant: str,
    *,
    call_id: str = "",
    resume_position: int | None = None,
    model_digest: str = "",
    most_tokens: MostTokens | None = None,
) -> GenerationRequest:
    """The engine's request for these options and the arguments that are no options.

    Raises:
        InvalidRequest: a value is out of range or an enum's value is unknown.
        ScopeMissing: it makes a session, for which the caller lacks the scope.
    """
    return GenerationRequest(
        model=options.model,
        digest=model_digest,
        session_id=options.session_id,
        new_session=_to_new_session(options) if options.HasField("new_session") else None,
        prompt=options.prompt,
        tenant=tenant,
        state=options.state,
        return_state=options.return_state,
        call_id=call_id,
        resume_position=resume_position,
        skip_unknown=to_skip_unknown(options.unknown_characters),
        max_tokens=options.max_tokens if options.HasField("max_tokens") else None,
        min_tokens=options.min_tokens,
        sampling=to_sampling(options.sampling),
        seed=options.seed if options.HasField("seed") else None,
        expected_position=options.expected_position if options.HasField("expected_position") else None,
        stop=tuple(options.stop),
        include_stop=options.include_stop,
        constraint=_to_constraint(options.constraint),
        logprobs=options.logprobs,
        top_logprobs=options.top_logprobs,
        n=options.n if options.HasField("n") else 1,
        resample=options.resample,
        most_tokens=most_tokens,
    )


def _to_new_session(options: generation_pb2.GenerationOptions) -> NewSession:
    current_caller().require(Scope.SESSIONS)
    return NewSession(to_time_to_live(options.new_session), options.new_session.adaptive)


def _to_constraint(constraint: generation_pb2.Constraint) -> Constraint | None:
    kind = constraint.WhichOneof("kind")
    if kind is None:
        return None
    content = constraint.choices.texts if kind == "choices" else [getattr(constraint, kind)]
    return Constraint(Kind(kind), tuple(content))


def to_sampling(sampling: generation_pb2.Sampling) -> Sampling:
    """The engine's sampling parameters.

    Raises:
        InvalidRequest: a value is out of range.
    """
    if sampling.ByteSize() <= _LONGEST_REMEMBERED:
        return _remembered(sampling.SerializeToString())
    return _read(sampling)


@functools.lru_cache(_REMEMBERED)
def _remembered(sampling: bytes) -> Sampling:
    return _read(generation_pb2.Sampling.FromString(sampling))


def _read(sampling: generation_pb2.Sampling) -> Sampling:
    given = {field.name: value for field, value in sampling.ListFields()}
    if sampling.logit_bias:
        # One more than allowed is enough for the engine to refuse them.
        entries = itertools.islice(sampling.logit_bias, MOST_BIASES + 1)
        given["logit_bias"] = tuple((entry.characters, entry.bias) for entry in entries)
    return Sampling(**given)


def from_sampling(sampling: Sampling) -> generation_pb2.Sampling:
    """The message for sampling parameters, every field set. It is cached: do not change it."""
    if sampling.logit_bias or sampling.allowed_characters or sampling.forbidden_characters:
        return _echo(sampling)
    return _remembered_echo(sampling)


def _echo(sampling: Sampling) -> generation_pb2.Sampling:
    given = asdict(sampling)
    given["logit_bias"] = [
        generation_pb2.LogitBias(characters=characters, bias=bias) for characters, bias in sampling.logit_bias
    ]
    return generation_pb2.Sampling(**given)


_remembered_echo = functools.lru_cache(_REMEMBERED)(_echo)


def from_delta(
    delta: TextDelta, index: int, result: GenerationResult | None, model_digest: str = ""
) -> generation_pb2.GenerateResponse:
    """The message for some text of continuation number `index`, and for how it ended if this is its last.

    The first one has the digest of the model. It has no log-probabilities: see `encoded`.
    """
    return generation_pb2.GenerateResponse(
        text=delta.text,
        position=delta.position,
        index=index,
        model_digest=model_digest,
        result=None if result is None else from_result(result),
    )


def from_result(result: GenerationResult) -> generation_pb2.GenerationResult:
    """The message for the result of a generation."""
    finish = result.finish
    return generation_pb2.GenerationResult(
        finish_reason=_FINISH_REASONS[finish.reason],
        usage=generation_pb2.Usage(prompt_tokens=finish.fed, completion_tokens=finish.generated),
        timings=generation_pb2.Timings(
            queued=from_seconds(finish.queued),
            first_token=from_seconds(finish.first_token),
            total=from_seconds(finish.total),
        ),
        seed=finish.snapshot.seed,
        sampling=from_sampling(result.sampling),
        max_tokens=result.max_tokens,
        model=result.model,
        model_digest=result.model_digest,
        position=finish.snapshot.position,
        stop=result.stop or "",
        state=result.state,
        allowed_logprob=finish.allowed,
        resampled=None if result.resampled is None else generation_pb2.Resampled(**asdict(result.resampled)),
        session=None if result.session is None else from_session(result.session),
    )
