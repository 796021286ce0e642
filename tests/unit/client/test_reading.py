"""What the model makes of a text: score and peek."""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest

from charloom.client import (
    AsyncClient,
    Client,
    InternalError,
    InvalidValue,
    NotFound,
)
from charloom.v1 import generation_pb2, reading_pb2, text_pb2
from tests.unit.client.fake_answers import error_info, failing
from tests.unit.client.fake_server import FakeServer

GONE = failing(grpc.StatusCode.NOT_FOUND, "there is no session", error_info("SESSION_NOT_FOUND"))
SKIP = text_pb2.UNKNOWN_CHARACTERS_SKIP


class TestScoreMany:
    async def test_each_text_has_its_figures(self, server: FakeServer, either: AsyncClient) -> None:
        found = [one async for one in either.score_many(["Hi", "a"], model="small", unknown_characters="skip")]
        assert [(one.text, one.tokens, one.bits_per_character, one.perplexity) for one in found] == [
            ("Hi", 2, 1, 2),
            ("a", 1, 1, 2),
        ]
        assert [one.logprob for one in found] == pytest.approx([-2 * math.log(2), -math.log(2)])
        assert server.asked("ScoreMany") == [
            reading_pb2.ScoreManyRequest(start=reading_pb2.ScoreManyStart(model="small", unknown_characters=SKIP)),
            reading_pb2.ScoreManyRequest(texts=reading_pb2.ScoreManyTexts(texts=["Hi", "a"])),
        ]

    async def test_messages_are_of_some_texts_or_one_long_one(self, server: FakeServer, either: AsyncClient) -> None:
        async with either.session(id="s1") as session:
            texts = [*["a"] * 65, "b" * 16_384, "c", "d" * 20_000]
            assert [one.text async for one in session.score_many(texts)] == texts
        begun, *sent = server.asked("ScoreMany")
        assert begun.start.session_id == "s1"
        assert [list(map(len, one.texts.texts)) for one in sent] == [[1] * 64, [1], [16_384], [1], [20_000]]

    async def test_what_no_message_can_carry_ends_it(self, server: FakeServer, either: AsyncClient) -> None:
        with pytest.raises(InvalidValue, match=r"texts\[1\]: 5 is not a string"):
            [one async for one in either.score_many(["a", 5])]
        with pytest.raises(InvalidValue, match="texts: it is one text; give a list of texts"):
            [one async for one in either.score_many("a line")]

    async def test_a_server_that_tells_too_little(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["ScoreMany"] = lambda requests, _: (reading_pb2.ScoreManyResponse() for _ in [list(requests)])
        with pytest.raises(InternalError, match="told of 0 of 1 texts"):
            [one async for one in either.score_many(["a"])]
        server.answers["ScoreMany"] = lambda requests, _: iter(list(requests)[:0])
        with pytest.raises(InternalError, match="told of 0 of 1 texts"):
            [one async for one in either.score_many(["a"])]

    async def test_a_server_that_tells_too_much(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["ScoreMany"] = lambda requests, _: (
            reading_pb2.ScoreManyResponse(scores=[reading_pb2.TextScore()] * 3) for _ in [list(requests)]
        )
        scores = either.score_many(["a"])
        assert (await anext(scores)).text == "a"
        with pytest.raises(InternalError, match="told of 3 of 1 texts"):
            await anext(scores)

    async def test_errors(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["ScoreMany"] = GONE
        with pytest.raises(NotFound):
            [one async for one in either.score_many(["a"])]


class TestScore:
    async def test_a_text_has_its_figures_and_each_token_its_own(self, server: FakeServer, either: AsyncClient) -> None:
        score = await either.score("Hi", model="small", unknown_characters="skip", top_logprobs=2)
        assert score.nats_per_token == pytest.approx(math.log(2))
        assert (score.bits_per_character, score.perplexity) == (1.0, 2.0)
        assert [token.text for token in score.logprobs] == ["H", "i"]
        assert [other.text for other in score.logprobs[0].top] == ["H", "I"]
        assert server.asked("Score") == [
            reading_pb2.ScoreRequest(model="small", text="Hi", unknown_characters=SKIP, top_logprobs=2)
        ]

    async def test_without_options_and_in_a_session(self, server: FakeServer, either: AsyncClient) -> None:
        await either.score("Hi")
        async with either.session(id="s1") as session:
            await session.score("Hi", unknown_characters="skip", top_logprobs=1)
        assert server.asked("Score") == [
            reading_pb2.ScoreRequest(text="Hi"),
            reading_pb2.ScoreRequest(text="Hi", session_id="s1", unknown_characters=SKIP, top_logprobs=1),
        ]

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"text": 5}, "text: 5 is not a string"),
            ({"text": "a", "model": 5}, "model: 5 is not a string"),
            ({"text": "a", "unknown_characters": "drop"}, "unknown_characters: 'drop' is neither"),
            ({"text": "a", "top_logprobs": -1}, "top_logprobs: -1 is not between"),
        ],
    )
    def test_what_no_message_can_carry_is_refused(
        self, server: FakeServer, client: Client, given: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(InvalidValue, match=words):
            client.score(**given)
        assert server.calls == []


class TestPeek:
    async def test_the_distribution_of_the_next_token(self, server: FakeServer, either: AsyncClient) -> None:
        peek = await either.peek("Hi", top=3, max_tokens=1, temperature=0, seed=7)
        assert (peek.text, peek.position) == ("O", 3)
        (distribution,) = peek.distributions
        assert [other.text for other in distribution.top] == ["O", "P", "Q"]
        (request,) = server.asked("Peek")
        assert request.top == 3
        assert request.options == generation_pb2.GenerationOptions(
            prompt="Hi", max_tokens=1, seed=7, sampling=generation_pb2.Sampling(temperature=0)
        )

    async def test_without_options_and_in_a_session(self, server: FakeServer, either: AsyncClient) -> None:
        await either.peek()
        async with either.session(id="s1") as session:
            await session.peek()
        assert server.asked("Peek") == [
            reading_pb2.PeekRequest(options=generation_pb2.GenerationOptions()),
            reading_pb2.PeekRequest(options=generation_pb2.GenerationOptions(session_id="s1")),
        ]

    def test_options_that_do_not_exist_are_named(self, client: Client) -> None:
        with pytest.raises(TypeError, match="unknown option tempature"):
            client.peek("Hi", tempature=1)  # type: ignore[call-arg]
        with pytest.raises(InvalidValue, match="top: -1 is not between"):
            client.peek("Hi", top=-1)
