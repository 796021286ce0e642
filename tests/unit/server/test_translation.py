"""From the engine's values to messages and back."""

from __future__ import annotations

import gc
import weakref
from datetime import datetime, timedelta, timezone

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from charloom.bundle import CharacterVocabulary, WordVocabulary
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.errors import InvalidRequest
from charloom.server.continuations import largest_symbol
from charloom.server.grpc.translation.encoded import encoded_item
from charloom.server.grpc.translation.generation import from_sampling, to_sampling
from charloom.server.grpc.translation.status import together
from charloom.server.grpc.translation.text import largest_logprob
from charloom.server.grpc.translation.times import from_seconds, from_time
from charloom.v1 import generation_pb2, status_pb2, text_pb2


@pytest.mark.parametrize(
    "time",
    [
        datetime(1970, 1, 1, tzinfo=timezone.utc),
        datetime(2026, 2, 28, 23, 59, 59, 999_999, timezone.utc),
        datetime(1969, 12, 31, 23, 59, 59, 1, timezone.utc),
        datetime(2026, 7, 1, 12, 0, 0, 5, timezone(timedelta(hours=-7))),
    ],
)
def test_times_are_those_of_protobuf(time: datetime) -> None:
    theirs = Timestamp()
    theirs.FromDatetime(time)
    assert from_time(time) == theirs


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 0.1, 0.999999999, 1.0, 1800.0, 604800.25])
def test_durations_are_those_of_protobuf(seconds: float) -> None:
    theirs = Duration()
    theirs.FromNanoseconds(int(seconds * 1e9))
    assert from_seconds(seconds) == theirs


def test_sampling_parameters_that_were_seen_before_are_the_same() -> None:
    asked = generation_pb2.Sampling(temperature=0.5, top_k=3)
    first = to_sampling(asked)
    assert first == Sampling(temperature=0.5, top_k=3)
    asked.temperature = 0.25
    assert to_sampling(asked) == Sampling(temperature=0.25, top_k=3)
    assert to_sampling(generation_pb2.Sampling(temperature=0.5, top_k=3)) is first


def test_what_was_refused_is_refused_again() -> None:
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="temperature"):
            to_sampling(generation_pb2.Sampling(temperature=-1))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5, top_k=7, top_p=0.25, min_p=0.125, presence_penalty=1.0),
        Sampling(logit_bias=(("ab", 1.0), ("a", -2.0)), allowed_characters="", forbidden_characters="xyz"),
    ],
)
def test_the_echo_of_sampling_parameters_has_every_field_and_reads_back(sampling: Sampling) -> None:
    message = from_sampling(sampling)
    result = generation_pb2.GenerationResult(sampling=message)
    result.sampling.temperature = 99  # a copy: the one that is remembered stays as it is
    assert to_sampling(from_sampling(sampling)) == sampling
    assert message.HasField("top_p")


def test_the_status_of_several_processes_is_their_sum() -> None:
    def status(scale: int, **more: object) -> status_pb2.GetStatusResponse:
        histogram = status_pb2.Histogram(bounds=[1.0], counts=[scale, 2 * scale], sum=3.0 * scale)
        return status_pb2.GetStatusResponse(
            seconds=scale,
            usage=scale / 10,
            models=[
                status_pb2.ModelStatus(
                    name="m", decoder="onnx-int8" if scale > 1 else "", places=scale, tick_rows=histogram
                )
            ],
            methods=[status_pb2.MethodStatus(name=f"only {scale}", ended=scale)],
            tenants=[status_pb2.TenantStatus(name="shop", generation_tokens=scale)],
            refusals={"OVERLOADED": scale},
            most_bytes=scale,
            **more,
        )

    found = together([status(1, sessions=7), status(2), status(4, sessions=8)])
    assert (found.seconds, found.usage, found.most_bytes, found.sessions) == (4, 0.4, 7, 8)
    (model,) = found.models
    assert (model.decoder, model.places, model.tick_rows.sum) == ("onnx-int8", 7, 21)
    assert list(model.tick_rows.counts) == [7, 14]
    assert [(one.name, one.ended) for one in found.methods] == [("only 1", 1), ("only 2", 2), ("only 4", 4)]
    assert [(one.name, one.generation_tokens) for one in found.tenants] == [("shop", 7)]
    assert dict(found.refusals) == {"OVERLOADED": 7}
    assert not together([status(1), status(2)]).HasField("sessions")


@pytest.mark.parametrize("lengths", [[1], [0, 200], [20_000, 3, 127, 128]])
def test_items_of_a_list_that_are_put_together_from_parts_are_those_of_protobuf(lengths: list[int]) -> None:
    items = [generation_pb2.Completion(text="a" * length) for length in lengths]
    items[0].result.model = "m"
    parts = [[item.SerializeToString()[:7], item.SerializeToString()[7:]] for item in items]
    made = b"".join(part for item in parts for part in encoded_item(item))
    assert made == generation_pb2.CompleteResponse(completions=items).SerializeToString()


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("longest", [1, 114, 120, 130, 16_378, 20_000])
def test_the_largest_log_probability_is_that_of_the_longest_symbols(longest: int, *, constrained: bool) -> None:
    vocabulary = WordVocabulary(["\N{REPLACEMENT CHARACTER}", "b", "é", "a" * longest, "b" * (longest + 1), "cd"])
    symbols = sorted(map(vocabulary.symbol, range(vocabulary.size)), key=len, reverse=True)
    for top in range(vocabulary.size + 1):
        told = [text_pb2.Alternative(symbol=symbol, logprob=-1) for symbol in symbols]
        message = text_pb2.TokenLogprob(chosen=told[0], top=told[:top], allowed_logprob=-1 if constrained else None)
        whole = generation_pb2.GenerateResponse(logprobs=[message])
        assert largest_logprob(vocabulary, top, constrained=constrained) == whole.ByteSize()


def test_sizes_of_answers_keep_no_vocabulary() -> None:
    vocabulary = CharacterVocabulary("abc")
    assert largest_symbol(vocabulary) == 3
    assert largest_logprob(vocabulary, 2, constrained=True) == 2 + 3 * 10 + 5
    gone = weakref.ref(vocabulary)
    del vocabulary
    gc.collect()
    assert gone() is None
