"""Stop strings, bias, log-probabilities and continuations over the wire."""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest

from charloom.bundle import Bundle
from charloom.server.app import Server
from charloom.v1 import generation_pb2, generation_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from tests.integration.conftest import refused
from tests.integration.test_wire import complete, options
from tests.waiting import eventually

Generation = generation_pb2_grpc.GenerationServiceStub
Sessions = sessions_pb2_grpc.SessionServiceStub
STOP = generation_pb2.FINISH_REASON_STOP


def streamed(stub: Generation, **fields: Any) -> list[generation_pb2.GenerateResponse]:
    return list(stub.Generate(generation_pb2.GenerateRequest(options=options(**fields))))


@pytest.mark.parametrize("include", [False, True])
def test_a_stream_ends_at_its_stop_string_and_the_session_goes_on_there(
    generation: Generation, sessions: Sessions, include: bool
) -> None:
    plain = complete(generation, max_tokens=300, seed=8).text
    stop = plain[120:124]
    end = plain.index(stop) + (4 if include else 0)
    session = sessions.CreateSession(sessions_pb2.CreateSessionRequest(seed=8)).session.id
    messages = streamed(generation, session_id=session, max_tokens=300, stop=[stop], include_stop=include)
    assert "".join(message.text for message in messages) == plain[:end]
    result = messages[-1].result
    assert (result.finish_reason, result.stop, result.position) == (STOP, stop, end)
    assert result.session.position == result.usage.completion_tokens == end
    rest = complete(generation, session_id=session, max_tokens=300 - end, expected_position=end)
    assert plain[:end] + rest.text == plain


def test_no_part_of_a_stop_string_is_sent_before_it_is_decided(generation: Generation) -> None:
    plain = complete(generation, max_tokens=2000, seed=9).text
    stop = plain[1000:1030]
    texts = [message.text for message in streamed(generation, max_tokens=2000, seed=9, stop=[stop])]
    assert "".join(texts) == plain[: plain.index(stop)]


def test_min_tokens_is_how_long_a_text_is_at_least(generation: Generation) -> None:
    text = complete(generation, max_tokens=200, seed=3, stop=["e", " "], min_tokens=100).text
    assert 100 <= len(text) < 200


def test_bias_allowed_and_forbidden_characters(generation: Generation) -> None:
    bias = [generation_pb2.LogitBias(characters="xyz", bias=50), generation_pb2.LogitBias(characters="z", bias=-100)]
    reply = complete(generation, max_tokens=50, sampling=generation_pb2.Sampling(logit_bias=bias))
    assert set(reply.text) <= set("xy")
    assert list(reply.result.sampling.logit_bias) == bias
    sampling = generation_pb2.Sampling(allowed_characters="abc", forbidden_characters="b")
    reply = complete(generation, max_tokens=80, sampling=sampling)
    assert set(reply.text) == set("ac")
    assert reply.result.sampling.allowed_characters == "abc"


def test_logprobs_are_sent_with_their_text(generation: Generation) -> None:
    messages = streamed(generation, max_tokens=200, seed=5, logprobs=True, top_logprobs=4)
    for message in messages[:-1]:
        assert b"".join(token.chosen.symbol for token in message.logprobs).decode() == message.text
    tokens = [token for message in messages for token in message.logprobs]
    assert len(tokens) == 200
    for token in tokens:
        values = [alternative.logprob for alternative in token.top]
        assert len(values) == 4
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) <= 1 + 1e-5
    whole = complete(generation, max_tokens=200, seed=5, logprobs=True, top_logprobs=4)
    assert list(whole.logprobs) == tokens
    assert not complete(generation, max_tokens=5).logprobs


def test_continuations_arrive_side_by_side_and_each_can_be_made_again(
    generation: Generation, sessions: Sessions
) -> None:
    session = sessions.CreateSession(sessions_pb2.CreateSessionRequest(seed=30)).session
    messages = streamed(generation, session_id=session.id, prompt="And ", max_tokens=100, n=3)
    texts = ["".join(message.text for message in messages if message.index == index) for index in range(3)]
    results = {message.index: message.result for message in messages if message.HasField("result")}
    assert [results[index].seed for index in range(3)] == [30, 31, 32]
    assert [results[index].usage.prompt_tokens for index in range(3)] == [4, 4, 4]
    assert sessions.GetSession(sessions_pb2.GetSessionRequest(session_id=session.id)).session == session
    reply = generation.Complete(
        generation_pb2.CompleteRequest(options=options(session_id=session.id, prompt="And ", max_tokens=100, n=3))
    )
    assert [completion.text for completion in reply.completions] == texts
    chosen = complete(generation, session_id=session.id, prompt="And ", max_tokens=100, seed=31)
    assert chosen.text == texts[1]
    assert chosen.result.session.version == 1


def test_cancelling_continuations_takes_them_all_out_of_the_batch(server: Server, generation: Generation) -> None:
    stream = generation.Generate(generation_pb2.GenerateRequest(options=options(max_tokens=60_000, n=8)))
    next(stream)
    stream.cancel()
    eventually(lambda: server.engine.models[0].loom.live == 0)


@pytest.mark.parametrize("method", ["Generate", "Complete"])
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"min_tokens": 11, "max_tokens": 10}, "min_tokens"),
        ({"n": 0}, "n"),
        ({"n": 65}, "n"),
        ({"stop": ["a"] * 1000}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ["é"]}, "stop[0]"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 2**32 - 1}, "top_logprobs"),
        ({"sampling": generation_pb2.Sampling(allowed_characters="é")}, "sampling.allowed_characters"),
        ({"sampling": generation_pb2.Sampling(allowed_characters="")}, "sampling.allowed_characters"),
        ({"sampling": generation_pb2.Sampling(presence_penalty=math.nan)}, "sampling.presence_penalty"),
        ({"sampling": generation_pb2.Sampling(repetition_penalty=0)}, "sampling.repetition_penalty"),
        (
            {"sampling": generation_pb2.Sampling(logit_bias=[generation_pb2.LogitBias(characters="a", bias=math.nan)])},
            "sampling.logit_bias['a']",
        ),
    ],
)
def test_a_wrong_value_is_refused_before_any_work(
    generation: Generation, sessions: Sessions, method: str, fields: dict[str, Any], field: str
) -> None:
    session = sessions.CreateSession(sessions_pb2.CreateSessionRequest()).session

    def call() -> Any:
        if method == "Complete":
            return complete(generation, session_id=session.id, **fields)
        return streamed(generation, session_id=session.id, **fields)

    code, _, violations, _ = refused(call)
    assert (code, list(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    now = sessions.GetSession(sessions_pb2.GetSessionRequest(session_id=session.id)).session
    assert (now.version, now.position) == (0, 0)


def test_all_characters_forbidden_is_refused(generation: Generation, bundle: Bundle) -> None:
    symbols = "".join(getattr(bundle.vocabulary, "symbols"))  # noqa: B009
    code, _, violations, _ = refused(
        lambda: complete(generation, sampling=generation_pb2.Sampling(forbidden_characters=symbols))
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "no character of the model is left" in violations["sampling.forbidden_characters"]
