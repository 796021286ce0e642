"""generation.proto: what is asked of a generation, and how it ended."""

from __future__ import annotations

from dataclasses import asdict

from charloom.engine.calls.generation import GenerationResult
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.loom.jobs import FinishReason
from charloom.server.grpc.translation.sessions import from_session
from charloom.server.grpc.translation.text import to_skip_unknown
from charloom.server.grpc.translation.times import from_seconds
from charloom.v1 import generation_pb2

_FINISH_REASONS = {
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.DRAINING: generation_pb2.FINISH_REASON_DRAINING,
}


def to_request(options: generation_pb2.GenerationOptions, tenant: str) -> GenerationRequest:
    """The engine's request for some options.

    Raises:
        InvalidRequest: a value is out of range or an enum's value is unknown.
    """
    return GenerationRequest(
        model=options.model,
        session_id=options.session_id,
        prompt=options.prompt,
        tenant=tenant,
        state=options.state,
        return_state=options.return_state,
        skip_unknown=to_skip_unknown(options.unknown_characters),
        max_tokens=options.max_tokens if options.HasField("max_tokens") else None,
        min_tokens=options.min_tokens,
        sampling=to_sampling(options.sampling),
        seed=options.seed if options.HasField("seed") else None,
        expected_position=options.expected_position if options.HasField("expected_position") else None,
        stop=tuple(options.stop),
        include_stop=options.include_stop,
        logprobs=options.logprobs,
        top_logprobs=options.top_logprobs,
        n=options.n if options.HasField("n") else 1,
    )


def to_sampling(sampling: generation_pb2.Sampling) -> Sampling:
    """The engine's sampling parameters.

    Raises:
        InvalidRequest: a value is out of range.
    """
    given = {field.name: value for field, value in sampling.ListFields()}
    if sampling.logit_bias:
        given["logit_bias"] = tuple((entry.characters, entry.bias) for entry in sampling.logit_bias)
    return Sampling(**given)


def from_sampling(sampling: Sampling) -> generation_pb2.Sampling:
    """The message for sampling parameters."""
    given = asdict(sampling)
    given["logit_bias"] = [
        generation_pb2.LogitBias(characters=characters, bias=bias) for characters, bias in sampling.logit_bias
    ]
    return generation_pb2.Sampling(**given)


def from_result(result: GenerationResult) -> generation_pb2.GenerationResult:
    """The message for how a generation ended."""
    finish = result.finish
    message = generation_pb2.GenerationResult(
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
    )
    if result.session is not None:
        message.session.CopyFrom(from_session(result.session))
    return message
