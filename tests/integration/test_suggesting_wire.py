"""Which texts are probable, through a real server."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import grpc
import httpx2 as httpx
import pytest

from charloom.client import Client, InvalidArgument
from charloom.engine.limits import MOST_TOGETHER
from charloom.server.app import Server
from charloom.v1 import generation_pb2, suggesting_pb2, suggesting_pb2_grpc
from tests.integration.conftest import refused
from tests.integration.http_client import client as http_client
from tests.integration.http_client import refused as http_refused
from tests.waiting import eventually

CANDIDATES = ["statement", "function", "s", "statement", "class is\nthe"]


@pytest.fixture(scope="module")
def suggesting(channel: grpc.Channel) -> suggesting_pb2_grpc.SuggestingServiceStub:
    return suggesting_pb2_grpc.SuggestingServiceStub(channel)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def plain(http_server: Server) -> Iterator[httpx.Client]:
    with http_client(http_server) as plain:
        yield plain


class TestRank:
    def test_each_candidate_has_the_logprob_that_score_gives_it(
        self, suggesting: suggesting_pb2_grpc.SuggestingServiceStub, client: Client
    ) -> None:
        """Bit for bit, alone and among others."""
        with client.session() as session:
            session.feed("The def ")
            start = suggesting_pb2.SuggestingStart(session_id=session.id)
            answer = suggesting.Rank(suggesting_pb2.RankRequest(start=start, candidates=CANDIDATES))
            assert answer.position == session.info.position == len("The def ")
            for text, found in zip(CANDIDATES, answer.candidates, strict=True):
                assert (found.logprob, found.tokens) == (session.score(text).logprob, len(text))
            assert session.refresh().position == answer.position

    def test_the_probabilities_are_those_of_the_candidates_alone(self, client: Client) -> None:
        ranked = client.rank(CANDIDATES, prompt="The def ")
        assert math.fsum(one.probability for one in ranked) == pytest.approx(1)
        total = math.fsum(math.exp(one.logprob) for one in ranked)
        assert [one.probability for one in ranked] == pytest.approx([math.exp(one.logprob) / total for one in ranked])
        assert ranked[0] == ranked[3]

    def test_a_prompt_a_session_and_a_sealed_state_are_the_same_start(self, client: Client) -> None:
        with client.session() as session:
            session.feed("The def ")
            state = session.export().state
            assert session.rank(CANDIDATES) == client.rank(CANDIDATES, state=state)
            assert session.rank(CANDIDATES) == client.rank(CANDIDATES, prompt="The def ")
            assert session.rank(["x"], prompt="two") == client.rank(["x"], prompt="The def two")

    def test_improbable_candidates_still_sum_to_one(self, client: Client) -> None:
        """Their probabilities are less than a float can hold."""
        ranked = client.rank(["zq" * 500, "zq" * 500 + "x"])
        assert math.exp(ranked[0].logprob) == 0.0
        assert math.fsum(one.probability for one in ranked) == pytest.approx(1)

    @pytest.mark.parametrize(
        ("candidates", "field"),
        [
            ([], "candidates"),
            (["a"] * (MOST_TOGETHER + 1), "candidates"),
            (["a" * 40_000, "b" * 40_000], "candidates"),
            (["a", ""], "candidates[1]"),
            (["a", "\u2603"], "candidates[1]"),
        ],
    )
    def test_what_cannot_be_ranked_is_refused_by_its_field(
        self, suggesting: suggesting_pb2_grpc.SuggestingServiceStub, candidates: list[str], field: str
    ) -> None:
        request = suggesting_pb2.RankRequest(candidates=candidates)
        code, _, violations, _ = refused(lambda: suggesting.Rank(request))
        assert (code, list(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])

    def test_a_session_has_its_own_state(self, suggesting: suggesting_pb2_grpc.SuggestingServiceStub) -> None:
        start = suggesting_pb2.SuggestingStart(session_id="s", state=b"x")
        _, _, violations, _ = refused(
            lambda: suggesting.Rank(suggesting_pb2.RankRequest(start=start, candidates=["a"]))
        )
        assert list(violations) == ["state"]

    def test_http_answers_the_same(self, plain: httpx.Client, http_server: Server) -> None:
        body = {"prompt": "The def ", "candidates": CANDIDATES}
        answer = plain.post("/v1/rank", json=body).json()
        with Client(http_server.address) as client:
            ranked = client.rank(CANDIDATES, prompt="The def ")
        assert [(one["logprob"], one["probability"]) for one in answer["data"]] == [
            (one.logprob, one.probability) for one in ranked
        ]
        read = len("The def ") + sum(map(len, CANDIDATES))
        assert (answer["position"], answer["usage"]["prompt_tokens"]) == (len("The def "), read)

    def test_http_names_the_field_that_it_refuses(self, plain: httpx.Client) -> None:
        assert http_refused(plain.post("/v1/rank", json={"candidates": ["a", ""]}))[:3] == (
            400,
            "invalid_request",
            "candidates[1]",
        )


class TestSuggest:
    def test_each_text_is_as_probable_as_its_tokens_and_its_end(self, client: Client) -> None:
        """As `score` and `peek` tell them."""
        prompt = "The def statem"
        found = client.suggest(prompt, count=5, beam=64)
        assert [one.logprob for one in found.texts] == sorted((one.logprob for one in found.texts), reverse=True)
        assert (len(found.texts), found.beam, found.position) == (5, 64, len(prompt))
        for one in found.texts:
            assert one.ended
            assert re.fullmatch(r"[^\w'\u2019]*[\w'\u2019]+", one.text)
            own = math.fsum(token.logprob for token in client.score(prompt + one.text).logprobs[len(prompt) :])
            (after,) = client.peek(prompt + one.text).distributions
            ends = math.fsum(
                math.exp(token.logprob) for token in after.top if not re.fullmatch(r"[\w'\u2019]", token.text)
            )
            assert one.logprob == pytest.approx(own + math.log(ends), abs=1e-4)

    def test_a_session_is_read_and_not_changed(self, client: Client) -> None:
        with client.session() as session:
            session.feed("The def state")
            first = session.suggest()
            assert session.suggest() == first == client.suggest("The def state")
            assert client.suggest(state=session.export().state) == first
            assert session.refresh().position == first.position

    def test_lines_lengths_and_patterns_end_where_they_say(self, client: Client) -> None:
        lines = client.suggest("The ", boundary="line", max_tokens=200, count=2).texts
        assert all("\n" not in one.text.lstrip("\n") for one in lines)
        cut = client.suggest("The ", boundary="length", max_tokens=3, count=20, beam=64).texts
        assert [(one.tokens, len(one.text), one.ended) for one in cut] == [(3, 3, False)] * 20
        many = client.suggest("The ", boundary="length", max_tokens=3, count=20)
        assert (len(many.texts), many.beam) == (20, 20)
        matching = client.suggest("The ", regex="[a-c]{2,4}", count=3).texts
        assert len(matching) == 3
        assert all(re.fullmatch("[a-c]{2,4}", one.text) for one in matching)

    @pytest.mark.parametrize(
        ("given", "texts"),
        [
            ({"choices": ["def", "default", "definition", "is", "it"]}, ["def", "default", "definition", "is", "it"]),
            ({"json_schema": {"enum": ["a", "ab", 1, 12]}}, ['"a"', '"ab"', "1", "12"]),
            ({"regex": "x|[ab]c?"}, ["x", "a", "ac", "b", "bc"]),
        ],
    )
    def test_all_texts_of_a_constraint_are_found_with_the_figures_that_scores_give(
        self, client: Client, given: dict[str, Any], texts: list[str]
    ) -> None:
        prompt = "The "
        expected = {}
        for text in texts:
            own = math.fsum(token.logprob for token in client.score(prompt + text).logprobs[len(prompt) :])
            (after,) = client.peek(prompt + text).distributions
            goes_on = {other[len(text)] for other in texts if other != text and other.startswith(text)}
            ends = math.fsum(math.exp(token.logprob) for token in after.top if token.text not in goes_on)
            expected[text] = own + math.log(ends)
        found = client.suggest(prompt, count=20, beam=64, **given)
        assert found.exact
        assert {one.text: one.logprob for one in found.texts} == pytest.approx(expected, abs=1e-4)
        assert [one.text for one in found.texts] == sorted(expected, key=expected.__getitem__, reverse=True)

    def test_texts_to_choose_from_that_the_model_cannot_write_are_refused_or_left_out(self, client: Client) -> None:
        with pytest.raises(InvalidArgument, match="can never be generated"):
            client.suggest("The ", choices=["is", "\N{SNOWMAN}"])
        found = client.suggest("The ", choices=["is", "\N{SNOWMAN}"], unknown_characters="skip").texts
        assert [one.text for one in found] == ["is"]

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"regex": "a{40}"}, "max_tokens"),
            ({"choices": generation_pb2.Choices()}, "choices"),
            ({"choices": generation_pb2.Choices(texts=["a"] * 1025)}, "choices"),
            ({"json_schema": ""}, "json_schema"),
            ({"json_schema": "{"}, "json_schema"),
            ({"count": 0}, "count"),
            ({"count": 21}, "count"),
            ({"count": 5, "beam": 4}, "beam"),
            ({"beam": 65}, "beam"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"max_tokens": 257}, "max_tokens"),
            ({"regex": "(a"}, "regex"),
            ({"regex": ""}, "regex"),
            ({"regex": "a" * 70_000}, "regex"),
            ({"boundary": 99}, "boundary"),
        ],
    )
    def test_what_cannot_be_asked_is_refused_by_its_field(
        self, suggesting: suggesting_pb2_grpc.SuggestingServiceStub, given: dict[str, Any], field: str
    ) -> None:
        code, _, violations, _ = refused(lambda: suggesting.Suggest(suggesting_pb2.SuggestRequest(**given)))
        assert (code, list(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])

    def test_who_gives_up_leaves_the_batch(
        self, suggesting: suggesting_pb2_grpc.SuggestingServiceStub, server: Server
    ) -> None:
        request = suggesting_pb2.SuggestRequest(
            boundary=suggesting_pb2.SUGGESTION_BOUNDARY_LENGTH, max_tokens=256, beam=64
        )
        call = suggesting.Suggest.future(request)
        eventually(lambda: server.engine.models[0].loom.live > 0)
        call.cancel()
        eventually(lambda: server.engine.models[0].loom.live == 0 and server.engine.budget.held == 0)

    def test_http_answers_the_same(self, plain: httpx.Client, http_server: Server) -> None:
        answer = plain.post("/v1/suggest", json={"prompt": "The def ", "count": 3}).json()
        with Client(http_server.address) as client:
            found = client.suggest("The def ", count=3)
        assert [(one["text"], one["logprob"]) for one in answer["data"]] == [
            (one.text, one.logprob) for one in found.texts
        ]
        assert (answer["exact"], answer["beam"], answer["position"]) == (found.exact, 16, found.position)

    @pytest.mark.parametrize(
        ("constraint", "texts"),
        [
            ({"choices": ["a", "b"]}, {"a", "b"}),
            ({"json_schema": {"enum": [1, 2]}}, {"1", "2"}),
            ({"json_schema": '{"enum": [1, 2]}'}, {"1", "2"}),
            ({"regex": "[ab]"}, {"a", "b"}),
            ({"pattern": "[ab]"}, {"a", "b"}),
            ({"regex": "[ab]", "boundary": "word"}, {"a", "b"}),
        ],
    )
    def test_http_has_the_constraints_of_completions_and_an_older_name(
        self, plain: httpx.Client, constraint: dict[str, Any], texts: set[str]
    ) -> None:
        answer = plain.post("/v1/suggest", json={"prompt": "The ", **constraint}).json()
        assert {one["text"] for one in answer["data"]} == texts

    @pytest.mark.parametrize(
        ("constraint", "field"),
        [
            ({"regex": "(a"}, "regex"),
            ({"regex": ""}, "regex"),
            ({"pattern": ""}, "pattern"),
            ({"choices": [""]}, "choices"),
            ({"json_schema": ""}, "json_schema"),
            ({"json_schema": [1]}, "json_schema"),
            ({"regex": "a", "choices": ["a"]}, "choices"),
            ({"pattern": "a", "regex": "a"}, "regex"),
            ({"regex": "a", "boundary": "line"}, "boundary"),
            ({"choices": ["a"], "boundary": "length"}, "boundary"),
        ],
    )
    def test_http_names_the_constraint_that_it_refuses(
        self, plain: httpx.Client, constraint: dict[str, Any], field: str
    ) -> None:
        assert http_refused(plain.post("/v1/suggest", json=constraint))[:3] == (400, "invalid_request", field)
