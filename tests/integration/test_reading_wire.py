"""Texts that are read, scored and observed, many of them in one stream, through a real server."""

from __future__ import annotations

import asyncio
import itertools
import math
import queue
from collections.abc import Iterator

import grpc
import pytest

from charloom.client import AsyncClient, Client, InvalidArgument, TextScore
from charloom.engine.limits import MOST_TOGETHER
from charloom.server.app import Server
from charloom.v1 import generation_pb2, reading_pb2, reading_pb2_grpc, sessions_pb2, text_pb2
from tests.integration.conftest import refused
from tests.integration.http_client import client as http_client
from tests.integration.http_client import counted, put_back
from tests.integration.http_client import refused as http_refused
from tests.integration.wire_sessions import (
    INVALID,
    Generation,
    Reading,
    Sessions,
    create,
    get,
    text_of,
)
from tests.waiting import eventually

LINES = ["The def statement", "", "is a", "The def statements", "s" * 300, "if x:", "class C:\n    pass"] * 30


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


class TestScoreMany:
    def test_each_text_has_the_score_that_it_has_alone(self, client: Client) -> None:
        """Bit for bit, in order, also where a message is full."""
        found = list(client.score_many(LINES))
        assert [one.text for one in found] == LINES
        for one in found[:7]:
            alone = client.score(one.text)
            assert one.logprob == math.fsum(token.logprob for token in alone.logprobs)
            told = (one.tokens, one.nats_per_token, one.bits_per_character, one.perplexity)
            assert told == (len(alone.logprobs), alone.nats_per_token, alone.bits_per_character, alone.perplexity)
        assert found == found[:7] * 30

    def test_a_session_is_read_and_not_changed(self, client: Client) -> None:
        with client.session() as session:
            session.feed("The def ")
            found = list(session.score_many(LINES[:7]))
            assert [one.logprob for one in found] == [
                math.fsum(token.logprob for token in session.score(text).logprobs) for text in LINES[:7]
            ]
            assert session.refresh().position == len("The def ")

    def test_no_texts_have_no_scores(self, client: Client) -> None:
        assert list(client.score_many([])) == []

    def test_texts_without_end_are_taken_as_scores_are_read(self, client: Client, server: Server) -> None:
        taken = 0

        def endless() -> Iterator[str]:
            nonlocal taken
            for number in itertools.count():
                taken += 1
                yield f"line {number}"

        scores = client.score_many(endless())
        assert [next(scores).text for _ in range(3)] == ["line 0", "line 1", "line 2"]
        assert taken < 1000
        scores.close()  # type: ignore[attr-defined]
        eventually(lambda: server.engine.models[0].loom.live == 0)

    async def test_the_asyncio_client_too(self, server: Server) -> None:
        async with AsyncClient(server.address) as client:
            both = await asyncio.gather(*(collected(client) for _ in range(2)))
        assert both[0] == both[1]
        assert [one.text for one in both[0]] == LINES

    def test_a_text_that_cannot_be_read_ends_it_and_is_named_by_its_number_in_the_call(self, client: Client) -> None:
        """All before it have their scores by then, those of its own message too."""
        scores = client.score_many([*LINES[:203], "\u2603", "a"])
        assert [next(scores).text for _ in range(203)] == LINES[:203]
        with pytest.raises(InvalidArgument, match=r"texts\[203\]"):
            next(scores)
        with pytest.raises(InvalidArgument, match=r"texts\[0\]"):
            next(iter(client.score_many(["\u2603", "a"])))
        assert next(iter(client.score_many(["\u2603"], unknown_characters="skip"))).tokens == 0

    def test_what_is_no_such_call_is_refused(self, reading: reading_pb2_grpc.ReadingServiceStub) -> None:
        start = reading_pb2.ScoreManyRequest(start=reading_pb2.ScoreManyStart())

        def texts(*texts: str) -> reading_pb2.ScoreManyRequest:
            return reading_pb2.ScoreManyRequest(texts=reading_pb2.ScoreManyTexts(texts=texts))

        for requests, field in (
            ([], "start"),
            ([texts("a")], "start"),
            ([start, start], "texts"),
            ([start, texts()], "texts"),
            ([start, texts(*["a"] * (MOST_TOGETHER + 1))], "texts"),
            ([start, texts("a" * 40_000, "a" * 40_000)], "texts"),
        ):
            code, _, violations, _ = refused(lambda: list(reading.ScoreMany(iter(requests))))  # noqa: B023
            assert (code, list(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])

    def test_http_answers_the_same(self, http_server: Server) -> None:
        with Client(http_server.address) as client, http_client(http_server) as plain:
            answer = plain.post("/v1/score", json={"texts": LINES[:7]}).json()
            found = list(client.score_many(LINES[:7]))
            assert [(one["logprob"], one["perplexity"]) for one in answer["data"]] == [
                (one.logprob, one.perplexity) for one in found
            ]
            assert answer["usage"]["prompt_tokens"] == sum(map(len, LINES[:7]))

    def test_http_reads_nothing_for_what_it_refuses(self, http_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        with http_client(http_server) as plain:
            put_back(plain, "scored", LINES[0])
            read = counted(http_server, monkeypatch)
            refusal = plain.post("/v1/score", json={"texts": ["a", "\u2603"], "session_id": "scored"})
            assert http_refused(refusal)[:3] == (400, "invalid_request", "texts[1]")
            assert read == []
            assert plain.post("/v1/score", json={"texts": ["a", "is"], "session_id": "scored"}).status_code == 200
            assert sum(read) > len("ais")


async def collected(client: AsyncClient) -> list[TextScore]:
    return [score async for score in client.score_many(LINES)]


def test_texts_are_scored(reading: Reading, sessions: Sessions) -> None:
    answer = reading.Score(reading_pb2.ScoreRequest(text="The cat is.", top_logprobs=2))
    assert "".join(one.chosen.symbol.decode() for one in answer.logprobs) == "The cat is."
    assert [len(one.top) for one in answer.logprobs] == [2] * 11
    nats = -sum(one.chosen.logprob for one in answer.logprobs) / 11
    assert answer.nats_per_token == pytest.approx(nats)
    assert answer.bits_per_character == pytest.approx(nats / math.log(2))
    assert answer.perplexity == pytest.approx(math.exp(nats))
    session = create(sessions)
    sessions.FeedSession(sessions_pb2.FeedSessionRequest(session_id=session.id, text="The cat"))
    rest = reading.Score(reading_pb2.ScoreRequest(text=" is.", session_id=session.id))
    assert [one.chosen.logprob for one in rest.logprobs] == [one.chosen.logprob for one in answer.logprobs[7:]]
    assert not reading.Score(reading_pb2.ScoreRequest()).logprobs
    assert refused(lambda: reading.Score(reading_pb2.ScoreRequest(text="日")))[2].keys() == {"text"}
    assert refused(lambda: reading.Score(reading_pb2.ScoreRequest(text="a", top_logprobs=21)))[0] is INVALID


def test_what_comes_next_is_peeked_at(reading: Reading, generation: Generation, sessions: Sessions) -> None:
    session = create(sessions, seed=6)
    options = generation_pb2.GenerationOptions(session_id=session.id, prompt="The ", max_tokens=3)
    peeked = reading.Peek(reading_pb2.PeekRequest(options=options))
    assert peeked.position == 4
    for one in peeked.distributions:
        assert sum(math.exp(other.logprob) for other in one.top) == pytest.approx(1, abs=1e-5)
    assert get(sessions, session).version == 0
    assert text_of(generation, session, 3, prompt="The ") == peeked.text
    options.n = 2
    assert refused(lambda: reading.Peek(reading_pb2.PeekRequest(options=options)))[2].keys() == {"n"}


def test_text_is_observed_as_it_comes(reading: Reading, sessions: Sessions) -> None:
    session = create(sessions)
    sent: queue.Queue[reading_pb2.ObserveRequest | None] = queue.Queue()
    answers = reading.Observe(iter(sent.get, None))
    sent.put(reading_pb2.ObserveRequest(start=reading_pb2.ObserveStart(session_id=session.id)))
    told = []
    for number, part in enumerate(("The ", "", "cat")):
        sent.put(reading_pb2.ObserveRequest(text=part))
        answer = next(answers)
        told += [one.chosen.logprob for one in answer.logprobs]
        assert answer.position == [4, 4, 7][number]
    sent.put(None)
    assert list(answers) == []
    scored = reading.Score(reading_pb2.ScoreRequest(text="The cat"))
    assert told == [one.chosen.logprob for one in scored.logprobs]
    assert get(sessions, session).position == 7


def observed(*events: reading_pb2.ObserveRequest) -> Iterator[reading_pb2.ObserveRequest]:
    return iter(events)


def test_observing_out_of_order_is_refused_and_lets_its_session_go(
    server: Server, reading: Reading, sessions: Sessions
) -> None:
    session = create(sessions)
    start = reading_pb2.ObserveRequest(start=reading_pb2.ObserveStart(session_id=session.id))
    text = reading_pb2.ObserveRequest(text="a")
    skip = reading_pb2.ObserveStart(unknown_characters=text_pb2.UNKNOWN_CHARACTERS_SKIP)
    for wrong, field in (
        ([], "start"),
        ([text], "start"),
        ([start, text, start], "text"),
        ([start, reading_pb2.ObserveRequest(text="日")], "text"),
    ):
        code, _, violations, _ = refused(lambda wrong=wrong: list(reading.Observe(observed(*wrong))))
        assert (code, set(violations)) == (INVALID, {field})
    eventually(lambda: server.engine.sessions.writing == 0)
    assert get(sessions, session).position == 1  # the text that was answered
    answers = list(
        reading.Observe(observed(reading_pb2.ObserveRequest(start=skip), reading_pb2.ObserveRequest(text="日")))
    )
    assert [len(answer.logprobs) for answer in answers] == [0]
