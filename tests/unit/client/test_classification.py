"""Labels for texts, whole and as they come, in both halves of the SDK and in the command."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from charloom.cli.main import main
from charloom.client import AsyncClient, FailedPrecondition, InternalError, InvalidArgument, InvalidValue, UnknownPart
from charloom.v1 import classification_pb2
from tests.unit.client.fake_answers import error_info, failing
from tests.unit.client.fake_server import FakeServer

Capture = pytest.CaptureFixture[str]


def closing(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
    """Read the start and a part, and end."""
    next(requests), next(requests)
    yield from ()


class TestTheSdk:
    async def test_a_text_has_a_label(self, server: FakeServer, either: AsyncClient) -> None:
        found = await either.classify("a Z", model="small")
        assert (found.label, dict(found.probabilities)) == ("short", {"short": 0.75, "long": 0.25})
        assert (found.tokens, found.left_out, found.unknown_count) == (3, 0, 1)
        assert found.unknown == (UnknownPart(text="Z", position=2),)
        assert server.asked("Classify") == [classification_pb2.ClassifyRequest(text="a Z", model="small")]

    async def test_a_text_that_comes_in_parts_has_one_after_each(self, server: FakeServer, either: AsyncClient) -> None:
        async with either.classify_stream(model="small") as labeller:
            assert [(await labeller.read(part)).label for part in (" ", "ab", "cd")] == ["", "short", "long"]
        start = classification_pb2.ClassifyStart(model="small")
        assert server.asked("ClassifyStream")[0] == classification_pb2.ClassifyStreamRequest(start=start)
        assert len(server.asked("ClassifyStream")) == 4

    async def test_a_text_can_be_given_up(self, server: FakeServer, either: AsyncClient) -> None:
        labeller = either.classify_stream()
        await labeller.read("ab")
        labeller.cancel()
        labeller.cancel()

    async def test_many_texts_have_a_label_each(self, server: FakeServer, either: AsyncClient) -> None:
        texts = [*(["ab", " ", "abcd"] * 30), "b" * 16_384, "c"]
        found = [one async for one in either.classify_many(iter(texts), model="small")]
        assert [text for text, _ in found] == texts
        assert [one.label for _, one in found] == [*["short", "", "long"] * 30, "long", "short"]
        start, *sent = server.asked("ClassifyMany")
        assert start == classification_pb2.ClassifyManyRequest(
            start=classification_pb2.ClassifyManyStart(model="small")
        )
        assert [len(one.texts.texts) for one in sent] == [64, 26, 1, 1]
        assert [one async for one in either.classify_many([])] == []

    async def test_of_many_texts_all_before_one_that_is_refused_have_labels(self, either: AsyncClient) -> None:
        """Whatever else is on its way in either direction then."""
        for bad in (0, 1, 63, 64, 500):
            coming = either.classify_many([*["a"] * bad, "b" * 70_001, *["c"] * 1000])
            assert [(await anext(coming))[0] for _ in range(bad)] == ["a"] * bad
            with pytest.raises(InvalidArgument, match=rf"texts\[{bad}\]: too long"):
                await anext(coming)

    async def test_many_texts_that_are_none_and_answers_that_are_not_as_many(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        with pytest.raises(InvalidValue, match=r"texts\[1\]: 5 is not a string"):
            [one async for one in either.classify_many(["a", 5])]  # type: ignore[list-item]
        server.answers["ClassifyMany"] = lambda requests, _: iter(list(requests)[:0])
        with pytest.raises(InternalError, match="told of 0 of 1 texts"):
            [one async for one in either.classify_many(["a"])]
        server.answers["ClassifyMany"] = lambda requests, _: (
            classification_pb2.ClassifyManyResponse(labelled=[classification_pb2.LabelledText()] * 3)
            for _ in [list(requests)]
        )
        with pytest.raises(InternalError, match="told of 3 of 1 texts"):
            [one async for one in either.classify_many(["a"])]

    async def test_errors(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Classify"] = failing(
            grpc.StatusCode.FAILED_PRECONDITION, "'m' is a language model", error_info("MODEL_OF_ANOTHER_TASK")
        )
        with pytest.raises(FailedPrecondition, match="is a language model"):
            await either.classify("a")
        with pytest.raises(InvalidValue, match="text: 5 is not a string"):
            await either.classify(5)  # type: ignore[arg-type]
        server.answers["ClassifyStream"] = closing
        with pytest.raises(InternalError, match="closed the stream without an answer"):
            await either.classify_stream().read("a")

    async def test_a_model_tells_what_it_does(self, either: AsyncClient) -> None:
        model = (await either.models())[0]
        assert (model.task.value, model.labels, model.max_length, dict(model.label_scores)) == ("unknown", (), None, {})


class TestTheCommand:
    def test_a_text(self, server: FakeServer, capsys: Capture) -> None:
        assert main(["label", "abcdefZhij", "--target", server.target]) == 0
        out, err = capsys.readouterr()
        assert out.splitlines() == ["long", "  0.7500  long", "  0.2500  short"]
        assert err.splitlines() == [
            "the text has 10 tokens; the last 2 were not read",
            "1 are unknown to the model, and read as such: 'Z' at 6",
        ]

    def test_each_line_of_a_file(self, server: FakeServer, capsys: Capture, tmp_path: Path) -> None:
        names = tmp_path / "names.txt"
        names.write_text("ab\n\nabcd\nx\n")
        assert main(["label", "--lines", "--file", str(names), "--target", server.target]) == 0
        assert capsys.readouterr().out.splitlines() == ["short\t0.7500\tab", "long\t0.7500\tabcd", "short\t0.7500\tx"]
        assert main(["label", "--lines", "--json", "--file", str(names), "--target", server.target]) == 0
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(one["text"], one["label"]) for one in told] == [("ab", "short"), ("abcd", "long"), ("x", "short")]

    def test_nothing_but_a_line_break_ends_a_line(self, server: FakeServer, capsys: Capture, tmp_path: Path) -> None:
        names = tmp_path / "names.txt"
        names.write_bytes("a\x0cb\u2028c\x85\r\n\r\nd\n".encode())
        assert main(["label", "--lines", "--json", "--file", str(names), "--target", server.target]) == 0
        told = capsys.readouterr().out.rstrip("\n").split("\n")
        assert [json.loads(line)["text"] for line in told] == ["a\x0cb\u2028c\x85", "d"]

    def test_a_line_that_is_too_long_is_named_and_those_before_it_have_labels(
        self, server: FakeServer, capsys: Capture, tmp_path: Path
    ) -> None:
        names = tmp_path / "names.txt"
        names.write_text("ab\n\nabcd\n" + "x" * 70_001 + "\nab\n")
        assert main(["label", "--lines", "--file", str(names), "--target", server.target]) == 1
        out, err = capsys.readouterr()
        assert out.splitlines() == ["short\t0.7500\tab", "long\t0.7500\tabcd"]
        assert err.startswith("charloom label: line 4 has no label, nor have those after it: texts[2]: too long")

    def test_standard_input_as_it_comes(
        self, server: FakeServer, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(" \na\nbcd\n"))
        assert main(["label", "--stream", "--target", server.target]) == 0
        assert capsys.readouterr().out.splitlines() == ["-\t0.0000", "long\t0.7500", "long\t0.7500"]

    def test_a_stream_takes_any_time_unless_one_is_given(
        self, server: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        left = {}
        for given in ("", "--timeout=0", "--timeout=50"):
            monkeypatch.setattr("sys.stdin", io.StringIO("a\n"))
            assert main(["label", "--stream", "--target", server.target, *given.split()]) == 0
            left[given] = server.remaining["ClassifyStream"] or math.inf  # gRPC says so, or some years
        assert left[""] > 1e8 < left["--timeout=0"]
        assert left["--timeout=50"] <= 50
        assert main(["label", "a", "--target", server.target]) == 0
        assert 0 < (server.remaining["Classify"] or 0) <= 60

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (["a", "--file", "x"], "give the text itself or --file, not both"),
            (["a", "--stream"], "--stream reads stdin"),
        ],
    )
    def test_what_does_not_go_together(self, given: list[str], words: str, capsys: Capture) -> None:
        assert main(["label", *given, "--target", "localhost:1"]) == 1
        assert words in capsys.readouterr().err

    def test_binary_is_no_text(self, server: FakeServer, capsys: Capture, tmp_path: Path) -> None:
        binary = tmp_path / "program"
        binary.write_bytes(bytes(range(256)))
        assert main(["label", "--file", str(binary), "--target", server.target]) == 1
        assert "is not UTF-8" in capsys.readouterr().err
