"""Protobuf to the SDK's own types."""

from __future__ import annotations

import dataclasses
import heapq
import struct
from array import array
from collections.abc import Iterable, Sequence
from datetime import timezone
from typing import TypeAlias

import grpc

from charloom.client._conversation_types import Applied, ConversationEvent, ConversationText, Ended
from charloom.client._errors import InternalError
from charloom.client._inspection_types import Activations, InspectedToken, Inspection
from charloom.client._session_types import DeletionReceipt, Origin, SealedState, SessionInfo
from charloom.client._tenant_types import ErasureReceipt, ExportedSession, KeptSession
from charloom.client._text_types import Alternative, Observed, Peek, Score, TextScore, TokenLogprob
from charloom.client._types import (
    FinishReason,
    Resampled,
    Result,
    Sampling,
    Timings,
    Usage,
)
from charloom.v1 import conversation_pb2, generation_pb2, reading_pb2, sessions_pb2, tenants_pb2, text_pb2

_FINISH_REASONS = {
    generation_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    generation_pb2.FINISH_REASON_DRAINING: FinishReason.DRAINING,
    generation_pb2.FINISH_REASON_STOP: FinishReason.STOP,
}


def token_logprobs(messages: Iterable[text_pb2.TokenLogprob]) -> tuple[TokenLogprob, ...]:
    """Read how probable some tokens were."""
    return tuple(map(token_logprob, messages))


def token_logprob(message: text_pb2.TokenLogprob) -> TokenLogprob:
    """Read how probable a token was."""
    return TokenLogprob(
        symbol=message.chosen.symbol,
        logprob=message.chosen.logprob,
        top=_alternatives(message.top),
        allowed_logprob=message.allowed_logprob,
    )


def _alternatives(messages: Iterable[text_pb2.Alternative]) -> tuple[Alternative, ...]:
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
        session=session_info(message.session) if message.HasField("session") else None,
        stop=message.stop or None,
        state=message.state or None,
        allowed_logprob=message.allowed_logprob if message.HasField("allowed_logprob") else None,
        resampled=_resampled(message.resampled) if message.HasField("resampled") else None,
    )


def _resampled(message: generation_pb2.Resampled) -> Resampled:
    return Resampled(
        weight=message.weight, ancestor=message.ancestor, times=message.times, match_logprob=message.match_logprob
    )


def score(message: reading_pb2.ScoreResponse) -> Score:
    """Read how probable a text is."""
    return Score(
        logprobs=token_logprobs(message.logprobs),
        nats_per_token=message.nats_per_token,
        bits_per_character=message.bits_per_character,
        perplexity=message.perplexity,
    )


def text_score(text: str, message: reading_pb2.TextScore) -> TextScore:
    """Read how probable one of many texts is."""
    return TextScore(
        text=text,
        tokens=message.tokens,
        logprob=message.logprob,
        nats_per_token=message.nats_per_token,
        bits_per_character=message.bits_per_character,
        perplexity=message.perplexity,
    )


def peek(message: reading_pb2.PeekResponse) -> Peek:
    """Read what would come next."""
    return Peek(
        text=message.text,
        distributions=token_logprobs(message.distributions),
        position=message.position,
        allowed_logprob=message.allowed_logprob if message.HasField("allowed_logprob") else None,
    )


def observed(message: reading_pb2.ObserveResponse | None) -> Observed:
    """Read what the model made of a text.

    Raises:
        InternalError: if the server closed the stream instead of answering, which is `None`.

    """
    if message is None:
        text = "the server closed the stream without an answer to this text"
        raise InternalError(text, code=grpc.StatusCode.INTERNAL)
    return Observed(logprobs=token_logprobs(message.logprobs), position=message.position)


def inspection(messages: Sequence[reading_pb2.InspectResponse]) -> Inspection:
    """Read what happens while a text is read."""
    layers = {}
    for place, first in enumerate(messages[0].layers if messages else ()):
        told = [message.layers[place] for message in messages]
        layers[first.layer] = Activations(
            gates=_gates(told),
            input_gate=_matrix([one.input_gate for one in told]),
            forget_gate=_matrix([one.forget_gate for one in told]),
            candidate=_matrix([one.candidate for one in told]),
            output_gate=_matrix([one.output_gate for one in told]),
            cell=_matrix([one.cell for one in told]),
            hidden=_matrix([one.hidden for one in told]),
        )
    with_distributions = bool(messages and messages[0].distribution)
    return Inspection(
        tokens=tuple(
            InspectedToken(
                symbol=message.token.symbol,
                logprob=message.token.logprob,
                position=message.position,
                next=_alternatives(message.next),
            )
            for message in messages
        ),
        layers=layers,
        distributions=_matrix([message.distribution for message in messages]) if with_distributions else None,
    )


def _gates(told: Sequence[reading_pb2.LayerActivations]) -> dict[str, memoryview[float]]:
    """The gates of one layer by name; a server that does not name them has those of an LSTM."""
    if not told[0].gates:
        fields = {"input": "input_gate", "forget": "forget_gate", "candidate": "candidate", "output": "output_gate"}
        return {name: _matrix([getattr(one, field) for one in told]) for name, field in fields.items()}
    return {gate.name: _matrix([one.gates[place].values for one in told]) for place, gate in enumerate(told[0].gates)}


def _matrix(rows: Sequence[Iterable[float]]) -> memoryview[float]:
    """Rows of one length, at least one of them, as a read-only matrix; of empty rows nothing, of the shape (0,)."""
    values = array("f")
    for row in rows:
        values.extend(row)
    if not values:
        return memoryview(b"").cast("f")
    return memoryview(values.tobytes()).cast("f", (len(rows), len(values) // len(rows)))


def conversation_event(message: conversation_pb2.ConverseResponse) -> ConversationEvent | None:
    """Read what happened in a conversation; `None` is something that this version of the client does not know."""
    kind = message.WhichOneof("event")
    if kind == "text":
        return ConversationText(text=message.text, position=message.position)
    if kind == "applied":
        return Applied(number=message.applied, position=message.position)
    if kind == "ended":
        return Ended(result=result(message.ended), position=message.position)
    return None


def session_info(message: sessions_pb2.Session) -> SessionInfo:
    """Read the description of a session."""
    return SessionInfo(
        id=message.id,
        model=message.model,
        model_digest=message.model_digest,
        position=message.position,
        version=message.version,
        seed=message.seed,
        create_time=message.create_time.ToDatetime(timezone.utc),
        update_time=message.update_time.ToDatetime(timezone.utc),
        expire_time=message.expire_time.ToDatetime(timezone.utc),
        time_to_live=message.time_to_live.ToNanoseconds() / 1e9,
        earliest_position=message.earliest_position,
        origin=Origin(session_id=message.origin.session_id or None, position=message.origin.position)
        if message.HasField("origin")
        else None,
        adaptive=message.adaptive,
    )


def forks(message: sessions_pb2.ForkSessionResponse, count: int) -> Sequence[SessionInfo]:
    """Read the answer of ForkSession to a request for `count` copies.

    Raises:
        InternalError: if it has more or less.

    """
    if len(message.sessions) != count:
        raise InternalError(
            f"the server answered with {len(message.sessions)} sessions where {count} were asked for",
            code=grpc.StatusCode.INTERNAL,
        )
    return [session_info(session) for session in message.sessions]


def deletion_receipt(message: sessions_pb2.DeleteSessionResponse) -> DeletionReceipt:
    """Read the receipt of DeleteSession."""
    return DeletionReceipt(session=session_info(message.session), deleted=message.delete_time.ToDatetime(timezone.utc))


def sealed_state(message: sessions_pb2.ExportSessionResponse) -> SealedState:
    """Read a session's state."""
    return SealedState(state=message.state, expires=message.expire_time.ToDatetime(timezone.utc))


def kept_session(message: tenants_pb2.TenantSession) -> KeptSession:
    """Read what is kept under an id."""
    return KeptSession(id=message.session_id, info=_info(message), problem=message.problem or None)


Listed: TypeAlias = "sessions_pb2.Session | sessions_pb2.UnreadableSession"


def in_order(page: sessions_pb2.ListSessionsResponse) -> list[Listed]:
    """The sessions of a page, in the order of their ids."""
    readable: Iterable[Listed] = page.sessions
    return list(heapq.merge(readable, page.unreadable, key=_id_of))


def listed_session(message: Listed) -> KeptSession:
    """Read a session of a page."""
    if isinstance(message, sessions_pb2.Session):
        return KeptSession(id=message.id, info=session_info(message), problem=None)
    return KeptSession(id=message.session_id, info=None, problem=message.problem)


def _id_of(message: Listed) -> str:
    return message.id if isinstance(message, sessions_pb2.Session) else message.session_id


def exported_session(message: tenants_pb2.TenantSession) -> ExportedSession:
    """Read what is kept under an id, with text and state."""
    expires = message.state_expire_time.ToDatetime(timezone.utc)
    return ExportedSession(
        id=message.session_id,
        info=_info(message),
        problem=message.problem or None,
        text=message.text,
        sealed=SealedState(state=message.state, expires=expires) if message.state else None,
    )


def _info(message: tenants_pb2.TenantSession) -> SessionInfo | None:
    return session_info(message.session) if message.HasField("session") else None


def erasure_receipt(message: tenants_pb2.EraseTenantResponse) -> ErasureReceipt:
    """Read the receipt of EraseTenant."""
    return ErasureReceipt(
        tenant=message.tenant,
        sessions=message.sessions,
        bytes=message.bytes,
        ids_sha256=message.ids_sha256,
        erased=message.erase_time.ToDatetime(timezone.utc),
        request_id=message.request_id,
    )


def _sampling(message: generation_pb2.Sampling) -> Sampling:
    told = {one.name: getattr(message, one.name) for one in dataclasses.fields(Sampling)}
    told = {name: _shortest(value) if isinstance(value, float) else value for name, value in told.items()}
    told["logit_bias"] = _biases(message.logit_bias)
    if not message.HasField("allowed_characters"):
        told["allowed_characters"] = None
    return Sampling(**told)


def _biases(entries: Iterable[generation_pb2.LogitBias]) -> dict[str, float]:
    """By their characters; entries of the same characters add up, as they do in the server."""
    biases: dict[str, float] = {}
    for entry in entries:
        biases[entry.characters] = biases.get(entry.characters, 0.0) + _shortest(entry.bias)
    return biases


def _shortest(value: float) -> float:
    """The number with the fewest digits that has this value in 32 bits: 0.8 comes back as 0.8."""
    for digits in range(6, 9):
        candidate = float(f"{value:.{digits}g}")
        if struct.pack("f", candidate) == struct.pack("f", value):
            return candidate
    return value
