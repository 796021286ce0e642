from __future__ import annotations

import dataclasses
import pickle
from datetime import datetime, timezone

import pytest
from grpc_health.v1 import health_pb2

from charloom.client import (
    Alternative,
    FinishReason,
    HealthStatus,
    InternalError,
    Sampling,
    SessionInfo,
    Timings,
    TokenLogprob,
    Unit,
    Usage,
)
from charloom.client._responses import completion, health_status, model_info, result, session_info, token_logprob
from charloom.v1 import generation_pb2, models_pb2

from . import fake_server


def test_a_result_has_every_value_of_its_message() -> None:
    read = result(fake_server.result("s1"))
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
    assert result(fake_server.result()).session is None


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
        generation_pb2.TokenLogprob(
            chosen=generation_pb2.Alternative(symbol="é".encode(), logprob=-1.5),
            top=[
                generation_pb2.Alternative(symbol=b"e", logprob=-0.5),
                generation_pb2.Alternative(symbol=b"\n", logprob=-2),
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


def test_a_completion_has_its_log_probabilities() -> None:
    options = generation_pb2.GenerationOptions(logprobs=True, top_logprobs=2)
    one = generation_pb2.Completion(
        text="Hi", result=fake_server.result(), logprobs=fake_server.logprobs("Hi", options)
    )
    read = completion(generation_pb2.CompleteResponse(completions=[one]))
    assert (read.text, read.result.seed) == ("Hi", 42)
    assert [token.text for token in read.logprobs] == ["H", "i"]
    assert [[other.text for other in token.top] for token in read.logprobs] == [["H", "I"], ["i", "j"]]
    assert read.logprobs[0].top[1].logprob == pytest.approx(-1.3862944)


def test_an_answer_without_a_completion_is_a_fault_of_the_server() -> None:
    with pytest.raises(InternalError, match="the server answered without a completion"):
        completion(generation_pb2.CompleteResponse())


def test_a_session_has_times_in_utc_and_seconds() -> None:
    assert session_info(fake_server.session("s1", position=4, version=2)) == SessionInfo(
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
    )


def test_a_model_has_every_value_of_its_message() -> None:
    read = model_info(fake_server.model())
    assert {field.name for field in dataclasses.fields(read)} == {
        field.name for field in models_pb2.Model.DESCRIPTOR.fields
    }
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
    message = fake_server.model()
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
    read = result(fake_server.result("s1"))
    assert pickle.loads(pickle.dumps(read)) == read
    assert hash(read) == hash(result(fake_server.result("s1")))
    with pytest.raises(dataclasses.FrozenInstanceError):
        read.seed = 1  # type: ignore[misc]
