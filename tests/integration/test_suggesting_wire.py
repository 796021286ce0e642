"""Which texts are probable, through a real server."""

from __future__ import annotations

import math
from collections.abc import Iterator

import grpc
import httpx2 as httpx
import pytest

from charloom.client import Client
from charloom.engine.limits import MOST_TOGETHER
from charloom.server.app import Server
from charloom.v1 import suggesting_pb2, suggesting_pb2_grpc
from tests.integration.conftest import refused
from tests.integration.http_client import client as http_client
from tests.integration.http_client import refused as http_refused

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
                scored = session.score(text).logprobs
                assert (found.logprob, found.tokens) == (math.fsum(one.logprob for one in scored), len(text))
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
