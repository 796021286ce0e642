"""Answers and requests that are larger than a message: refused before anything is computed, and named."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import grpc
import pytest

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.limits import MOST_PEEKED
from charloom.server.grpc.message_size import SPARE, SPARE_OF_EACH
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    reading_pb2,
    reading_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
)
from tests.integration.conftest import memory_held, refused
from tests.waiting import eventually

SMALLEST = 16 * 2**20
LARGE = [("grpc.max_receive_message_length", SMALLEST), ("grpc.max_send_message_length", SMALLEST)]


@pytest.fixture(scope="module")
def channel(bundle: Bundle, decoder: Decoder) -> Iterator[grpc.Channel]:
    settings = ServerSettings(
        grace_seconds=0, max_message_bytes=SMALLEST, max_prompt_characters=3_000_000, max_tokens=10_000_000
    )
    with (
        running_server([(bundle, decoder)], settings) as server,
        grpc.insecure_channel(server.address, options=LARGE) as channel,
    ):
        yield channel


def fitting(message: str) -> int:
    return int(message.split("up to ")[1].split()[0])


@pytest.mark.parametrize("n", [1, 3])
def test_a_completion_that_might_not_fit_is_refused_and_its_session_stays(channel: grpc.Channel, n: int) -> None:
    sessions = sessions_pb2_grpc.SessionServiceStub(channel)
    session = sessions.CreateSession(sessions_pb2.CreateSessionRequest()).session
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    options = generation_pb2.GenerationOptions(
        session_id=session.id, max_tokens=9_000_000, logprobs=True, top_logprobs=20, n=n
    )
    code, _, violations, _ = refused(lambda: stub.Complete(generation_pb2.CompleteRequest(options=options)))
    assert (code, set(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, {"max_tokens"})
    assert "stream" in violations["max_tokens"]
    found = sessions.GetSession(sessions_pb2.GetSessionRequest(session_id=session.id)).session
    assert (found.position, found.version) == (0, session.version)
    assert 1000 < fitting(violations["max_tokens"]) < SMALLEST // n


def test_the_largest_text_that_is_named_is_scored_and_one_token_more_is_not(bundle: Bundle, decoder: Decoder) -> None:
    limit = SPARE + 2**22
    settings = ServerSettings(grace_seconds=0).model_copy(update={"max_message_bytes": limit})
    with (
        running_server([(bundle, decoder)], settings) as server,
        grpc.insecure_channel(server.address, options=LARGE) as channel,
    ):
        stub = reading_pb2_grpc.ReadingServiceStub(channel)

        def score(tokens: int) -> reading_pb2.ScoreResponse:
            return stub.Score(reading_pb2.ScoreRequest(text="a" * tokens, top_logprobs=20))

        code, _, violations, _ = refused(lambda: score(60_000))
        assert (code, set(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, {"text"})
        most = fitting(violations["text"])
        answer = score(most)
        assert len(answer.logprobs) == most
        assert 2**22 * 0.9 < answer.ByteSize() <= limit
        refused(lambda: score(most + 1))


def test_a_text_that_is_observed_is_held_to_it_too(channel: grpc.Channel) -> None:
    stub = reading_pb2_grpc.ReadingServiceStub(channel)
    start = reading_pb2.ObserveRequest(start=reading_pb2.ObserveStart(top_logprobs=20))
    text = reading_pb2.ObserveRequest(text="a" * 3_000_000)
    code, _, violations, _ = refused(lambda: list(stub.Observe(iter([start, text]))))
    assert (code, set(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, {"text"})


def test_what_would_come_next_is_held_to_it_too(bundle: Bundle, decoder: Decoder) -> None:
    """With all alternatives of each token, which the small model's vocabulary needs a small limit for."""
    small = {"max_message_bytes": SPARE + SPARE_OF_EACH + 40_000}
    settings = ServerSettings(grace_seconds=0).model_copy(update=small)
    with running_server([(bundle, decoder)], settings) as server, grpc.insecure_channel(server.address) as channel:
        stub = reading_pb2_grpc.ReadingServiceStub(channel)

        def peek(tokens: int) -> reading_pb2.PeekResponse:
            options = generation_pb2.GenerationOptions(max_tokens=tokens)
            return stub.Peek(reading_pb2.PeekRequest(options=options))

        code, _, violations, _ = refused(lambda: peek(MOST_PEEKED))
        assert (code, set(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, {"max_tokens"})
        most = fitting(violations["max_tokens"])
        assert 1 < most < MOST_PEEKED
        answer = peek(most)
        assert [len(one.top) for one in answer.distributions] == [bundle.vocabulary.size] * most
        refused(lambda: peek(most + 1))


def test_a_prompt_above_four_megabytes_is_read(channel: grpc.Channel) -> None:
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    options = generation_pb2.GenerationOptions(prompt="日" * 1_600_000, max_tokens=1)
    options.unknown_characters = 2
    assert len(stub.Complete(generation_pb2.CompleteRequest(options=options)).completions[0].text) == 1


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("ConversationService/Converse", bytes(SMALLEST - 1000)),
        ("GenerationService/GenerateMany", b"\x0a\x00" * 300_000),  # each call of two bytes takes eighty in memory
    ],
)
def test_what_a_stream_sent_that_is_refused_takes_no_memory_any_more(
    channel: grpc.Channel, method: str, message: bytes
) -> None:
    call = channel.stream_stream(f"/charloom.v1.{method}")

    def refuse() -> None:
        code, *_ = refused(lambda: list(call(iter([message]))))
        assert code is grpc.StatusCode.INVALID_ARGUMENT

    gc.disable()  # it comes by the number of objects, not by their size
    try:
        refuse()
        before = memory_held()
        for _ in range(40):
            refuse()
        # gRPC's own buffers go a moment later; of messages that were kept, there would be 600 MiB and more.
        eventually(lambda: memory_held() - before < 200 * 2**20)
    finally:
        gc.enable()
