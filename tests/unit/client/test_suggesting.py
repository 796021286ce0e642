"""Which texts are probable: rank, in both halves of the SDK and in the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from charloom.cli.main import main
from charloom.client import AsyncClient, InternalError, InvalidValue, NotFound
from charloom.v1 import generation_pb2, suggesting_pb2, text_pb2
from tests.unit.client.fake_answers import error_info, failing
from tests.unit.client.fake_server import FakeServer

SKIP = text_pb2.UNKNOWN_CHARACTERS_SKIP


class TestRank:
    async def test_each_candidate_has_its_figures(self, server: FakeServer, either: AsyncClient) -> None:
        ranked = await either.rank(["a", "bcd"], prompt="Hi", model="small", unknown_characters="skip")
        assert [(one.text, one.logprob, one.tokens, one.probability) for one in ranked] == [
            ("a", -1, 1, 0.5),
            ("bcd", -3, 3, 0.5),
        ]
        assert [one.logprob_per_token for one in ranked] == [-1, -1]
        start = suggesting_pb2.SuggestingStart(model="small", prompt="Hi", unknown_characters=SKIP)
        assert server.asked("Rank") == [suggesting_pb2.RankRequest(start=start, candidates=["a", "bcd"])]

    async def test_from_a_state_and_from_a_session(self, server: FakeServer, either: AsyncClient) -> None:
        await either.rank(["a"], state=b"sealed")
        async with either.session(id="s1") as session:
            await session.rank(["a"])
        assert [request.start for request in server.asked("Rank")] == [
            suggesting_pb2.SuggestingStart(state=b"sealed"),
            suggesting_pb2.SuggestingStart(session_id="s1"),
        ]

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"candidates": 5}, "candidates: 5 is neither a string nor a list of strings"),
            ({"candidates": ["a", 5]}, r"candidates\[1\]: 5 is not a string"),
            ({"candidates": ["a"], "prompt": None}, "prompt: None is not a string"),
            ({"candidates": ["a"], "state": b""}, "state: it is empty"),
        ],
    )
    async def test_what_no_message_can_carry(self, either: AsyncClient, given: dict[str, Any], words: str) -> None:
        with pytest.raises(InvalidValue, match=words):
            await either.rank(**given)

    async def test_errors(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Rank"] = failing(
            grpc.StatusCode.NOT_FOUND, "there is no session", error_info("SESSION_NOT_FOUND")
        )
        with pytest.raises(NotFound):
            await either.rank(["a"])
        server.answers["Rank"] = lambda *_: suggesting_pb2.RankResponse()
        with pytest.raises(InternalError, match="about 0 candidates where 1 were asked for"):
            await either.rank(["a"])


class TestSuggest:
    async def test_the_texts_have_their_figures(self, server: FakeServer, either: AsyncClient) -> None:
        found = await either.suggest("H")
        assert [(one.text, one.tokens, one.ended) for one in found.texts] == [("ello", 4, True), ("i there", 7, False)]
        assert [one.probability for one in found.texts] == pytest.approx([0.5, 0.25])
        assert (found.beam, found.exact, found.position) == (16, True, 7)
        assert server.asked("Suggest") == [
            suggesting_pb2.SuggestRequest(start=suggesting_pb2.SuggestingStart(prompt="H"))
        ]

    async def test_every_option_is_sent(self, server: FakeServer, either: AsyncClient) -> None:
        await either.suggest("H", model="small", state=b"s", unknown_characters="skip", count=0, max_tokens=0, beam=0)
        async with either.session(id="s1") as session:
            await session.suggest(boundary="line")
            await session.suggest(regex="[a-z]+")
            await session.suggest(choices=["a", "b"])
            await session.suggest(choices=[])
            await session.suggest(json_schema={"type": "integer"})
        start = suggesting_pb2.SuggestingStart(model="small", state=b"s", prompt="H", unknown_characters=SKIP)
        of_session = suggesting_pb2.SuggestingStart(session_id="s1")
        assert server.asked("Suggest") == [
            suggesting_pb2.SuggestRequest(start=start, count=0, max_tokens=0, beam=0),
            suggesting_pb2.SuggestRequest(start=of_session, boundary=suggesting_pb2.SUGGESTION_BOUNDARY_LINE),
            suggesting_pb2.SuggestRequest(start=of_session, regex="[a-z]+"),
            suggesting_pb2.SuggestRequest(start=of_session, choices=generation_pb2.Choices(texts=["a", "b"])),
            suggesting_pb2.SuggestRequest(start=of_session, choices=generation_pb2.Choices()),
            suggesting_pb2.SuggestRequest(start=of_session, json_schema='{"type": "integer"}'),
        ]

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"boundary": "page"}, "boundary: 'page' is neither 'word' nor 'line' nor 'length'"),
            ({"boundary": "word", "regex": "a"}, "regex: boundary says already where a text ends"),
            ({"regex": "a", "choices": ["a"]}, "choices: regex says already where a text ends"),
            ({"json_schema": 5}, "json_schema: 5 is neither a mapping nor JSON"),
            ({"count": -1}, "count: -1 is not between"),
            ({"beam": "wide"}, "beam: 'wide' is not a whole number"),
        ],
    )
    async def test_what_no_message_can_carry(self, either: AsyncClient, given: dict[str, Any], words: str) -> None:
        with pytest.raises(InvalidValue, match=words):
            await either.suggest(**given)


class TestTheCommand:
    def test_the_most_probable_comes_first(self, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["rank", "long", "x", "--prompt", "Hi", "--target", server.target]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[-1] for line in lines] == ["'x'", "'long'"]
        assert lines[0].split()[:3] == ["50.00%", "-1.0000", "-1.0000"]

    def test_json_keeps_the_order(self, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["rank", "long", "x", "--session", "s1", "--json", "--target", server.target]) == 0
        assert [one["text"] for one in json.loads(capsys.readouterr().out)] == ["long", "x"]
        assert server.asked("Rank")[0].start == suggesting_pb2.SuggestingStart(session_id="s1")

    def test_suggestions_are_a_line_each(
        self, server: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        flags = ["--count", "3", "--max-tokens", "9", "--beam", "20", "--regex", "[a-z]+", "--target", server.target]
        assert main(["suggest", "H", *flags]) == 0
        assert capsys.readouterr().out == "  50.00%  'ello'\n  25.00%  'i there' ...\n"
        (request,) = server.asked("Suggest")
        assert (request.count, request.max_tokens, request.beam, request.regex) == (3, 9, 20, "[a-z]+")
        assert main(["suggest", "--session", "s1", "--boundary", "line", "--json", "--target", server.target]) == 0
        assert json.loads(capsys.readouterr().out)["texts"][0]["text"] == "ello"
        schema = tmp_path / "schema.json"
        schema.write_text('{"type": "integer"}')
        assert main(["suggest", "H", "--json-schema", str(schema), "--target", server.target]) == 0
        assert main(["suggest", "H", "--choices", "a", "b", "--target", server.target]) == 0
        *_, of_schema, of_choices = server.asked("Suggest")
        assert (of_schema.json_schema, of_choices.choices.texts) == ('{"type": "integer"}', ["a", "b"])
