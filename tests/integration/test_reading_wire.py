"""Many texts that are scored in one stream, through a real server."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator

import grpc
import pytest

from charloom.client import AsyncClient, Client, InvalidArgument
from charloom.engine.limits import MOST_TOGETHER
from charloom.server.app import Server
from charloom.v1 import reading_pb2, reading_pb2_grpc
from tests.integration.conftest import eventually, refused
from tests.integration.http_client import client as http_client
from tests.integration.http_client import refused as http_refused

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
        with pytest.raises(InvalidArgument, match=r"texts\[203\]"):
            list(client.score_many([*LINES[:203], "\u2603"]))
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
            refusal = plain.post("/v1/score", json={"texts": ["a", "\u2603"]})
            assert http_refused(refusal)[:3] == (400, "invalid_request", "texts[1]")


async def collected(client: AsyncClient) -> list[object]:
    return [score async for score in client.score_many(LINES)]
