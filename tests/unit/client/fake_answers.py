"""Canned answers of a server, and messages that they are made of.

Knows: charloom.v1 and grpc. Does not know: the SDK under test, nor how a real server works.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2, message, timestamp_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from charloom.v1 import (
    classification_pb2,
    conversation_pb2,
    generation_pb2,
    models_pb2,
    reading_pb2,
    sessions_pb2,
    suggesting_pb2,
    text_pb2,
    watching_pb2,
)

PIECES = ("Once ", "upon", " a time")
TEXT = "".join(PIECES)
POSITIONS = (8, 12, 19)
"""After each piece; before them is a prompt of three."""

Answer = Callable[[Any, grpc.ServicerContext], Any]


def session(id: str = "s1", position: int = 0, version: int = 0, model: str = "small") -> sessions_pb2.Session:
    return sessions_pb2.Session(
        id=id,
        model=model,
        model_digest="d1",
        position=position,
        version=version,
        seed=2**64 - 1,
        create_time=timestamp_pb2.Timestamp(seconds=1_700_000_000),
        update_time=timestamp_pb2.Timestamp(seconds=1_700_000_001, nanos=500_000_000),
        expire_time=timestamp_pb2.Timestamp(seconds=1_700_000_601),
        time_to_live=duration_pb2.Duration(seconds=600, nanos=250_000_000),
        earliest_position=position // 2,
        origin=sessions_pb2.Origin(session_id="parent", position=2),
    )


def result(session_id: str = "", seed: int = 42) -> generation_pb2.GenerationResult:
    return generation_pb2.GenerationResult(
        finish_reason=generation_pb2.FINISH_REASON_LENGTH,
        usage=generation_pb2.Usage(prompt_tokens=3, completion_tokens=len(TEXT)),
        timings=generation_pb2.Timings(
            queued=duration_pb2.Duration(nanos=500_000),
            first_token=duration_pb2.Duration(nanos=2_000_000),
            total=duration_pb2.Duration(seconds=2),
        ),
        seed=seed,
        sampling=generation_pb2.Sampling(
            temperature=0.8,
            top_k=0,
            top_p=0.95,
            min_p=0.05,
            repetition_penalty=1.1,
            presence_penalty=0,
            frequency_penalty=0.3,
            logit_bias=[generation_pb2.LogitBias(characters="xyz", bias=-0.7)],
            forbidden_characters="q",
        ),
        max_tokens=len(TEXT),
        model="small",
        model_digest="d1",
        position=3 + len(TEXT),
        session=session(session_id, position=3 + len(TEXT), version=1) if session_id else None,
    )


def model(name: str = "small") -> models_pb2.Model:
    return models_pb2.Model(
        name=name,
        digest="d1",
        unit=models_pb2.UNIT_CHARACTER,
        vocabulary_size=3,
        symbols=["\n", "a", "é"],
        cell="lstm",
        layers=2,
        hidden_size=512,
        parameters=3_300_000,
        decoder="onnx-int8",
        device="cpu",
        state_bytes=8192,
        max_tokens=100_000,
        max_prompt_characters=10_000,
        batch_invariance=models_pb2.BATCH_INVARIANCE_HOLDS,
        validation=[
            models_pb2.Validation(protocol="tail", decoder="checkpoint", nats_per_token=1.4),
            models_pb2.Validation(protocol="tail", decoder="onnx-int8", nats_per_token=1.402),
            models_pb2.Validation(protocol="windows-256", decoder="checkpoint", nats_per_token=1.45),
        ],
    )


def logprobs(text: str, options: generation_pb2.GenerationOptions) -> list[text_pb2.TokenLogprob]:
    """Of each character of a text, if the options ask for them: a half for each, and half of that for the next one."""

    def alternative(character: str, rank: int) -> text_pb2.Alternative:
        return text_pb2.Alternative(symbol=character.encode(), logprob=rank * math.log(0.5))

    def top(character: str) -> list[text_pb2.Alternative]:
        return [alternative(chr(ord(character) + rank), rank + 1) for rank in range(options.top_logprobs)]

    asked = text if options.logprobs else ""
    return [text_pb2.TokenLogprob(chosen=alternative(one, 1), top=top(one)) for one in asked]


def stream(request: generation_pb2.GenerateRequest, context: grpc.ServicerContext) -> Iterator[Any]:
    """The usual answer of Generate: the text after the position that it resumes at, then a result without text."""
    options = request.options
    for piece, position in zip(PIECES, POSITIONS, strict=True):
        if position > request.resume_position:
            yield generation_pb2.GenerateResponse(text=piece, position=position, logprobs=logprobs(piece, options))
    yield generation_pb2.GenerateResponse(position=POSITIONS[-1], result=result(options.session_id))


def breaking(after: int, code: grpc.StatusCode, text: str, *details: message.Message) -> Answer:
    """An answer of Generate that fails when this many pieces of the text have been sent, by this call or before."""

    def answer(request: generation_pb2.GenerateRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        for one in stream(request, context):
            if not after or one.position > POSITIONS[after - 1] or one.HasField("result"):
                abort(context, code, text, *details)
            yield one

    return answer


def draining(after: int) -> Answer:
    """An answer of Generate by a server that stops when this many pieces of the text have been sent."""

    def answer(request: generation_pb2.GenerateRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        *pieces, last = stream(request, context)
        position = max(request.resume_position, POSITIONS[after - 1])
        yield from (one for one in pieces if one.position <= position)
        last.position = last.result.position = position
        last.result.finish_reason = generation_pb2.FINISH_REASON_DRAINING
        if last.result.HasField("session"):
            last.result.session.position = position
        yield last

    return answer


def in_turn(*answers: Answer) -> Answer:
    """One answer after the other, and the last one for all further calls."""
    following = itertools.chain(answers, itertools.repeat(answers[-1]))
    return lambda request, context: next(following)(request, context)


def continuation(index: int) -> tuple[str, ...]:
    """The pieces of one of several continuations."""
    return (f"{index}: ", *PIECES[index:])


def several(request: generation_pb2.GenerateRequest, context: grpc.ServicerContext) -> Iterator[Any]:
    """An answer of Generate with `n` continuations: a piece of each in turn, the last one first, then the results."""
    options = request.options
    sources = {index: iter(continuation(index)) for index in reversed(range(options.n))}
    while sources:
        for index, source in list(sources.items()):
            piece = next(source, None)
            if piece is None:
                del sources[index]
                # Several leave the session alone, so their results have none.
                ending = result(options.session_id if options.n == 1 else "", seed=(options.seed or 42) + index)
                yield generation_pb2.GenerateResponse(position=19, index=index, result=ending)
            else:
                yield generation_pb2.GenerateResponse(
                    text=piece, position=19, index=index, logprobs=logprobs(piece, options)
                )


def read(text: str, top: int = 0) -> list[text_pb2.TokenLogprob]:
    """Of each character of a text that the model reads."""
    return logprobs(text, generation_pb2.GenerationOptions(logprobs=True, top_logprobs=top))


def score(request: reading_pb2.ScoreRequest, context: grpc.ServicerContext) -> reading_pb2.ScoreResponse:
    """The usual answer of Score: one bit for each character."""
    return reading_pb2.ScoreResponse(
        logprobs=read(request.text, request.top_logprobs),
        nats_per_token=math.log(2),
        bits_per_character=1,
        perplexity=2,
    )


def peek(request: reading_pb2.PeekRequest, context: grpc.ServicerContext) -> reading_pb2.PeekResponse:
    """The usual answer of Peek: an O is next."""
    return reading_pb2.PeekResponse(text="O", distributions=read("O", request.top or 4), position=3)


def observe(requests: Iterator[reading_pb2.ObserveRequest], context: grpc.ServicerContext) -> Iterator[Any]:
    """The usual answer of Observe."""
    start = next(requests).start
    position = 3
    for request in requests:
        position += len(request.text)
        yield reading_pb2.ObserveResponse(logprobs=read(request.text, start.top_logprobs), position=position)


UNITS = 3


def activation(layer: int, place: int, unit: int) -> float:
    """What the usual answer of Inspect says for a unit; unit 1 varies most, unit 0 not at all."""
    return (layer + 1) * place * (0, 0.25, -0.125)[unit]


def inspect(request: reading_pb2.InspectRequest, context: grpc.ServicerContext) -> Iterator[Any]:
    """The usual answer of Inspect: all that a layer has is the same, but for the forget gate, which is half of it."""
    for place, token in enumerate(read(request.text)):
        layers = []
        for layer in request.layers or (0, 1):
            values = [activation(layer, place, unit) for unit in range(UNITS)]
            half = [value / 2 for value in values]
            layers.append(
                reading_pb2.LayerActivations(
                    layer=layer,
                    input_gate=values,
                    forget_gate=half,
                    candidate=values,
                    output_gate=values,
                    cell=values,
                    hidden=values,
                    gates=[
                        reading_pb2.Gate(name="forget", values=half),
                        reading_pb2.Gate(name="candidate", values=values),
                    ],
                )
            )
        yield reading_pb2.InspectResponse(
            token=token.chosen,
            position=place + 1,
            layers=layers,
            next=[one.chosen for one in read("abc"[: request.top_next])],
            distribution=[math.log(0.5), math.log(0.25), math.log(0.25)] if request.distribution else (),
        )


def converse(requests: Iterator[conversation_pb2.ConverseRequest], context: grpc.ServicerContext) -> Iterator[Any]:
    """The usual answer of Converse: injected text counts, and everything that is generated is the usual text."""
    position, session_id = 0, ""
    for number, request in enumerate(requests):
        if request.HasField("start"):
            session_id = request.start.session_id
            position += len(request.start.prompt)
        yield conversation_pb2.ConverseResponse(position=position, applied=number)
        position += len(request.inject)
        if request.HasField("generate"):
            for piece in PIECES:
                position += len(piece)
                yield conversation_pb2.ConverseResponse(position=position, text=piece)
            yield conversation_pb2.ConverseResponse(position=position, ended=result(session_id))


def forks(request: sessions_pb2.ForkSessionRequest, context: grpc.ServicerContext) -> sessions_pb2.ForkSessionResponse:
    """The usual answer of ForkSession."""
    count = request.count if request.HasField("count") else 1
    ids = request.new_session_ids or [f"fork{number}" for number in range(count)]
    return sessions_pb2.ForkSessionResponse(sessions=[session(id, position=request.position) for id in ids])


def error_info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="charloom", metadata=metadata)


def retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    delay = duration_pb2.Duration(nanos=int(seconds * 1e9) % 10**9, seconds=int(seconds))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def abort(context: grpc.ServicerContext, code: grpc.StatusCode, text: str, *details: message.Message) -> NoReturn:
    packed = [any_pb2.Any() for _ in details]
    for one, detail in zip(packed, details, strict=True):
        one.Pack(detail)
    status = status_pb2.Status(code=code.value[0], message=text, details=packed)
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status raises")


def score_many(
    requests: Iterator[reading_pb2.ScoreManyRequest], context: grpc.ServicerContext
) -> Iterator[reading_pb2.ScoreManyResponse]:
    """A bit for each character; a text of more than 70,000 is refused."""
    next(requests)
    for texts in until_too_long(requests, context):
        yield reading_pb2.ScoreManyResponse(
            scores=[
                reading_pb2.TextScore(
                    tokens=len(text),
                    logprob=-len(text) * math.log(2),
                    nats_per_token=math.log(2),
                    bits_per_character=1,
                    perplexity=2,
                )
                for text in texts
            ]
        )


def until_too_long(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[list[str]]:
    """The texts of each request; one of more than 70,000 characters is refused after those before it."""
    count = 0
    for request in requests:
        texts = list(request.texts.texts)
        good = list(itertools.takewhile(lambda text: len(text) <= 70_000, texts))
        count += len(good)
        if good:
            yield good
        if len(good) < len(texts):
            abort(context, grpc.StatusCode.INVALID_ARGUMENT, f"texts[{count}]: too long", error_info("INVALID_REQUEST"))


def rank(request: suggesting_pb2.RankRequest, _: grpc.ServicerContext) -> suggesting_pb2.RankResponse:
    """All as probable as each other, a nat for each character."""
    each = 1 / len(request.candidates)
    return suggesting_pb2.RankResponse(
        candidates=[
            suggesting_pb2.RankedCandidate(logprob=-len(text), tokens=len(text), probability=each)
            for text in request.candidates
        ]
    )


def labelled(text: str) -> classification_pb2.LabelledText:
    """The usual label: `short` up to three characters, else `long`; a Z is unknown."""
    if not text.strip():
        return classification_pb2.LabelledText()
    chances = {"short": 0.75, "long": 0.25} if len(text) <= 3 else {"short": 0.25, "long": 0.75}
    return classification_pb2.LabelledText(
        label=max(chances, key=chances.__getitem__),
        probabilities=[
            classification_pb2.LabelProbability(label=label, probability=chance) for label, chance in chances.items()
        ],
        tokens=len(text),
        left_out=max(0, len(text) - 8),
        unknown=[classification_pb2.UnknownPart(text="Z", position=at) for at, c in enumerate(text) if c == "Z"],
        unknown_count=text.count("Z"),
    )


def classify_stream(
    requests: Iterator[classification_pb2.ClassifyStreamRequest], context: grpc.ServicerContext
) -> Iterator[classification_pb2.ClassifyStreamResponse]:
    """The usual label of the text so far."""
    next(requests)
    text = ""
    for request in requests:
        text += request.text
        yield classification_pb2.ClassifyStreamResponse(labelled=labelled(text))


def classify_many(
    requests: Iterator[classification_pb2.ClassifyManyRequest], context: grpc.ServicerContext
) -> Iterator[classification_pb2.ClassifyManyResponse]:
    """The usual label of each text; one of more than 70,000 characters is refused."""
    next(requests)
    for texts in until_too_long(requests, context):
        yield classification_pb2.ClassifyManyResponse(labelled=map(labelled, texts))


def watch(
    requests: Iterator[watching_pb2.WatchRequest], context: grpc.ServicerContext
) -> Iterator[watching_pb2.WatchResponse]:
    """The usual verdicts: a line with an A is an alert."""
    next(requests)
    for request in requests:
        verdicts = [watching_pb2.WatchVerdict(threshold=1, alert="A" in line.text) for line in request.lines.lines]
        yield watching_pb2.WatchResponse(verdicts=verdicts)


def failing(code: grpc.StatusCode, text: str, *details: message.Message) -> Answer:
    """An answer that fails with this status."""

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        abort(context, code, text, *details)

    return answer
