from __future__ import annotations

import dataclasses
import math
import pickle
from datetime import datetime, timezone

import pytest
from google.protobuf import timestamp_pb2
from grpc_health.v1 import health_pb2

from charloom.client import (
    Alternative,
    Applied,
    ConversationText,
    DeletionReceipt,
    Ended,
    FinishReason,
    HealthStatus,
    InternalError,
    Origin,
    Sampling,
    SealedState,
    SessionInfo,
    Timings,
    TokenLogprob,
    Unit,
    Usage,
)
from charloom.client._model_responses import health_status, model_info
from charloom.client._reading_responses import observed, peek, score
from charloom.client._responses import conversation_event, result, token_logprob
from charloom.client._session_responses import deletion_receipt, forks, sealed_state, session_info
from charloom.v1 import conversation_pb2, generation_pb2, models_pb2, reading_pb2, sessions_pb2, text_pb2

from . import fake_answers


def test_a_result_has_every_value_of_its_message() -> None:
    read = result(fake_answers.result("s1"))
    assert read.finish_reason is FinishReason.LENGTH
    assert read.finish_reason == "length"
    assert read.usage == Usage(prompt_tokens=3, completion_tokens=16)
    assert read.timings == Timings(queued=0.0005, first_token=0.002, total=2.0)
    assert read.sampling == Sampling(
        temperature=0.8,
        top_k=0,
        top_p=0.95,
        min_p=0.05,
        repetition_penalty=1.1,
        presence_penalty=0.0,
        frequency_penalty=0.3,
        logit_bias={"xyz": -0.7},
        allowed_characters=None,
        forbidden_characters="q",
    )
    assert {field.name for field in dataclasses.fields(read.sampling)} == {
        field.name for field in generation_pb2.Sampling.DESCRIPTOR.fields
    }
    assert {field.name for field in dataclasses.fields(read)} == {
        field.name for field in generation_pb2.GenerationResult.DESCRIPTOR.fields
    }
    assert read.stop is None
    assert (read.seed, read.max_tokens, read.position) == (42, 16, 19)
    assert (read.model, read.model_digest) == ("small", "d1")
    assert read.session is not None
    assert (read.session.id, read.session.position, read.session.version) == ("s1", 19, 1)


def test_a_result_without_a_session_says_none() -> None:
    assert result(fake_answers.result()).session is None


def test_a_stop_string_is_named() -> None:
    read = result(generation_pb2.GenerationResult(finish_reason=generation_pb2.FINISH_REASON_STOP, stop="\n\n"))
    assert (read.finish_reason, read.stop) == (FinishReason.STOP, "\n\n")


def test_allowing_nothing_is_told_from_allowing_all() -> None:
    message = generation_pb2.GenerationResult(sampling=generation_pb2.Sampling(allowed_characters=""))
    assert result(message).sampling.allowed_characters == ""


def test_biases_of_the_same_characters_add_up() -> None:
    biases = [("ab", 1.5), ("c", 0.1), ("ab", -1.0)]
    entries = [generation_pb2.LogitBias(characters=characters, bias=bias) for characters, bias in biases]
    message = generation_pb2.GenerationResult(sampling=generation_pb2.Sampling(logit_bias=entries))
    assert result(message).sampling.logit_bias == {"ab": 0.5, "c": 0.1}


def test_a_log_probability_has_its_symbol_and_those_of_others() -> None:
    read = token_logprob(
        text_pb2.TokenLogprob(
            chosen=text_pb2.Alternative(symbol="é".encode(), logprob=-1.5),
            top=[
                text_pb2.Alternative(symbol=b"e", logprob=-0.5),
                text_pb2.Alternative(symbol=b"\n", logprob=-2),
            ],
        )
    )
    assert read == TokenLogprob(
        symbol=b"\xc3\xa9",
        logprob=-1.5,
        top=(Alternative(symbol=b"e", logprob=-0.5), Alternative(symbol=b"\n", logprob=-2.0)),
    )
    assert [read.text, *(other.text for other in read.top)] == ["é", "e", "\n"]


def test_a_byte_that_is_no_character_has_a_text_all_the_same() -> None:
    assert Alternative(symbol=b"\xc3", logprob=0.0).text == "\\xc3"


def test_a_session_has_times_in_utc_and_seconds() -> None:
    assert session_info(fake_answers.session("s1", position=4, version=2)) == SessionInfo(
        id="s1",
        model="small",
        model_digest="d1",
        position=4,
        version=2,
        seed=2**64 - 1,
        create_time=datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc),
        update_time=datetime(2023, 11, 14, 22, 13, 21, 500_000, tzinfo=timezone.utc),
        expire_time=datetime(2023, 11, 14, 22, 23, 21, tzinfo=timezone.utc),
        time_to_live=600.25,
        earliest_position=2,
        origin=Origin(session_id="parent", position=2),
        adaptive=False,
    )
    assert {field.name for field in dataclasses.fields(SessionInfo)} == {
        field.name for field in sessions_pb2.Session.DESCRIPTOR.fields
    }


def test_a_session_that_began_with_nothing_has_no_origin() -> None:
    assert session_info(sessions_pb2.Session(id="s1")).origin is None


def test_a_session_that_was_imported_or_blended_comes_from_no_other() -> None:
    message = sessions_pb2.Session(origin=sessions_pb2.Origin(position=9))
    assert session_info(message).origin == Origin(session_id=None, position=9)
    at_zero = sessions_pb2.Session(origin=sessions_pb2.Origin())
    assert session_info(at_zero).origin == Origin(session_id=None, position=0)


def test_a_receipt_says_what_was_forgotten_and_when() -> None:
    read = deletion_receipt(
        sessions_pb2.DeleteSessionResponse(
            session=fake_answers.session("s1"), delete_time=timestamp_pb2.Timestamp(seconds=1_700_000_000)
        )
    )
    assert read == DeletionReceipt(
        session=session_info(fake_answers.session("s1")),
        deleted=datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc),
    )


def test_a_sealed_state_does_not_show_its_bytes() -> None:
    expiry = timestamp_pb2.Timestamp(seconds=1_700_000_000)
    read = sealed_state(sessions_pb2.ExportSessionResponse(state=b"sealed", expire_time=expiry))
    assert read == SealedState(state=b"sealed", expires=datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc))
    assert "sealed" not in repr(read)


@pytest.mark.parametrize("count", [1, 3])
def test_forks_that_were_not_asked_for_are_a_fault_of_the_server(count: int) -> None:
    answer = sessions_pb2.ForkSessionResponse(sessions=[fake_answers.session("a"), fake_answers.session("b")])
    assert [info.id for info in forks(answer, 2)] == ["a", "b"]
    with pytest.raises(InternalError, match=f"answered with 2 sessions where {count} were asked for"):
        forks(answer, count)


def test_a_score_has_every_value_of_its_message() -> None:
    message = reading_pb2.ScoreResponse(
        logprobs=fake_answers.read("Hi", 1), nats_per_token=1.5, bits_per_character=2.5, perplexity=4.5
    )
    read = score(message)
    assert [token.text for token in read.logprobs] == ["H", "i"]
    assert read.logprobs[0].top[0].text == "H"
    assert (read.nats_per_token, read.bits_per_character, read.perplexity) == (1.5, 2.5, 4.5)


def test_the_logprob_of_a_score_is_the_sum_over_its_tokens() -> None:
    read = score(reading_pb2.ScoreResponse(logprobs=fake_answers.read("Hi", 1)))
    assert read.logprob == read.logprobs[0].logprob + read.logprobs[1].logprob < 0
    assert score(reading_pb2.ScoreResponse()).logprob == 0


def test_a_peek_has_every_value_of_its_message() -> None:
    read = peek(reading_pb2.PeekResponse(text="ab", distributions=fake_answers.read("ab", 3), position=7))
    assert (read.text, read.position) == ("ab", 7)
    assert [[other.text for other in one.top] for one in read.distributions] == [["a", "b", "c"], ["b", "c", "d"]]


def test_surprisals_are_positive_and_a_certainty_is_no_surprise() -> None:
    tokens = [text_pb2.TokenLogprob(chosen=text_pb2.Alternative(logprob=value)) for value in (-1.5, 0.0, -0.25)]
    read = observed(reading_pb2.ObserveResponse(logprobs=tokens, position=3))
    assert read.surprisals == (1.5, 0.0, 0.25)
    assert [math.copysign(1, value) for value in read.surprisals] == [1, 1, 1]
    assert read.position == 3


def test_each_event_of_a_conversation_is_told_apart() -> None:
    make = conversation_pb2.ConverseResponse
    assert conversation_event(make(position=4, text="ab")) == ConversationText(text="ab", position=4)
    assert conversation_event(make(position=4, text="")) == ConversationText(text="", position=4)
    assert conversation_event(make(position=5, applied=0)) == Applied(number=0, position=5)
    ending = fake_answers.result("s1")
    assert conversation_event(make(position=6, ended=ending)) == Ended(result=result(ending), position=6)
    assert conversation_event(make(position=7)) is None


def test_a_state_is_there_only_if_it_was_sent() -> None:
    assert result(generation_pb2.GenerationResult()).state is None
    read = result(generation_pb2.GenerationResult(state=b"sealed"))
    assert read.state == b"sealed"
    assert "sealed" not in repr(read)


def test_a_model_has_every_value_of_its_message() -> None:
    read = model_info(fake_answers.model())
    message = models_pb2.Model.DESCRIPTOR
    wire = {field.name for field in message.fields} - {"labelling"}  # whose fields are the model's own here
    renamed = {"scores": "label_scores"}
    wire |= {renamed.get(field.name, field.name) for field in message.fields_by_name["labelling"].message_type.fields}
    assert {field.name for field in dataclasses.fields(read)} == wire
    assert (read.name, read.unit, read.symbols) == ("small", Unit.CHARACTER, ("\n", "a", "é"))
    assert (read.layers, read.hidden_size, read.parameters, read.state_bytes) == (2, 512, 3_300_000, 8192)
    assert read.batch_invariance is True
    assert read.validation == {
        "tail": {"checkpoint": 1.4, "onnx-int8": 1.402},
        "windows-256": {"checkpoint": 1.45},
    }


@pytest.mark.parametrize(
    ("number", "meaning"),
    [
        (models_pb2.BATCH_INVARIANCE_UNSPECIFIED, None),
        (models_pb2.BATCH_INVARIANCE_HOLDS, True),
        (models_pb2.BATCH_INVARIANCE_FAILS, False),
        (99, None),
    ],
)
def test_batch_invariance_is_yes_no_or_unchecked(number: int, meaning: bool | None) -> None:
    message = fake_answers.model()
    message.batch_invariance = number
    assert model_info(message).batch_invariance is meaning


def test_words_of_a_later_version_are_unknown_and_not_a_failure() -> None:
    ending = generation_pb2.GenerationResult(finish_reason=99)
    assert result(ending).finish_reason is FinishReason.UNKNOWN
    assert model_info(models_pb2.Model(unit=99)).unit is Unit.UNKNOWN


@pytest.mark.parametrize("name", ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"])
def test_the_health_message_is_read_as_its_own_stubs_write_it(name: str) -> None:
    data = health_pb2.HealthCheckResponse(status=name).SerializeToString()
    assert health_status(data) is HealthStatus(name)


@pytest.mark.parametrize("value", [0.1, 0.8, 0.95, 1.0, 0.0, 100.0, 1 / 3, 1e-7])
def test_a_sampling_parameter_comes_back_with_as_many_digits_as_it_had(value: float) -> None:
    message = generation_pb2.GenerationResult(sampling=generation_pb2.Sampling(temperature=value))
    assert result(message).sampling.temperature == pytest.approx(value, rel=1e-7)
    assert len(repr(result(message).sampling.temperature)) <= max(len(repr(value)), 12)


def test_values_can_be_pickled_and_cannot_be_changed() -> None:
    read = result(fake_answers.result("s1"))
    assert pickle.loads(pickle.dumps(read)) == read
    assert hash(read) == hash(result(fake_answers.result("s1")))
    with pytest.raises(dataclasses.FrozenInstanceError):
        read.seed = 1  # type: ignore[misc]
