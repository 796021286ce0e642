"""`charloom score` and `charloom peek` against the fake server."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from charloom.client import request_id
from charloom.v1 import generation_pb2, reading_pb2, text_pb2
from tests.unit.client.conftest import Run
from tests.unit.client.fake_answers import error_info, failing
from tests.unit.client.fake_server import FakeServer

GONE = failing(grpc.StatusCode.NOT_FOUND, "there is no session 's1' here", error_info("SESSION_NOT_FOUND"))
TOO_MANY = failing(
    grpc.StatusCode.INVALID_ARGUMENT,
    "top: 20 is not allowed; from 0 to 3",
    error_info("INVALID_REQUEST"),
    error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field="top", description="20 is not allowed; from 0 to 3")
        ]
    ),
)
SKIP = text_pb2.UNKNOWN_CHARACTERS_SKIP
Capture = pytest.CaptureFixture[str]


class TestScore:
    LINE = "1.0000 bits per character, perplexity 2.0000, 2 tokens of 0.6931 nats\n"

    def test_a_text_has_its_figures(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        assert run("score", "Hi", "--model", "small", "--skip-unknown") == 0
        assert capsys.readouterr() == (self.LINE, "")
        assert server.asked("Score") == [reading_pb2.ScoreRequest(model="small", text="Hi", unknown_characters=SKIP)]

    @pytest.mark.parametrize("words", [[], ["-"]])
    def test_it_may_come_from_stdin(self, run: Run, server: FakeServer, capsys: Capture, words: list[str]) -> None:
        assert run("score", *words, stdin="é\n") == 0
        assert server.asked("Score") == [reading_pb2.ScoreRequest(text="é\n")]
        assert capsys.readouterr().out == self.LINE

    def test_it_may_come_from_a_file_as_it_is(
        self, run: Run, server: FakeServer, tmp_path: Path, capsys: Capture
    ) -> None:
        file = tmp_path / "text"
        file.write_bytes("é\r\n".encode())
        assert run("score", "--file", str(file)) == 0
        assert server.asked("Score")[0].text == "é\r\n"
        file.write_bytes(b"ab\xff")
        assert run("score", "--file", str(file)) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"charloom score: {file} is not UTF-8: invalid start byte at byte 2; say which ")
        assert "--encoding" in error
        assert "cp1252" in error
        assert run("score", "--file", str(file), "--encoding", "cp1252") == 0
        assert server.asked("Score")[-1].text == "abÿ"
        file.write_bytes(b"\xef\xbb\xbfab")
        assert run("score", "--file", str(file)) == 0
        assert server.asked("Score")[-1].text == "ab"
        assert run("score", "--file", str(file), "--encoding", "klingon") == 1
        assert "unknown encoding: klingon; give one that Python knows" in capsys.readouterr().err
        file.write_bytes(b"+2AA-")
        assert run("score", "--file", str(file), "--encoding", "utf-7") == 1
        error = capsys.readouterr().err
        assert f"{file} is not UTF-7: surrogates not allowed; " in error

    @pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
    def test_utf_16_without_a_mark_is_refused_with_its_name(
        self, encoding: str, run: Run, server: FakeServer, tmp_path: Path, capsys: Capture
    ) -> None:
        file = tmp_path / "text"
        file.write_bytes("Some text.".encode(encoding))
        assert run("score", "--file", str(file)) == 1
        expected = f"{file} seems to be UTF-16, and not UTF-8; read it with --encoding {encoding}"
        assert capsys.readouterr().err == f"charloom score: {expected}\n"
        assert run("score", "--file", str(file), "--encoding", encoding) == 0
        file.write_bytes(b"one\0two\0three\0")
        assert run("score", "--file", str(file)) == 0
        assert [request.text for request in server.asked("Score")] == ["Some text.", "one\0two\0three\0"]
        assert run("score", "--file", str(tmp_path / "none")) == 1
        assert capsys.readouterr().err == f"charloom score: there is no {tmp_path / 'none'}; check the path\n"
        assert run("score", "Hi", "--file", str(file)) == 1
        assert "give the text itself or --file, not both" in capsys.readouterr().err

    def test_each_line_may_be_a_text_of_its_own(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        assert run("score", "--lines", "--session", "s1", stdin="Hi\n\nthere\n") == 0
        assert capsys.readouterr() == ("  1.0000  Hi\n  1.0000  \n  1.0000  there\n", "")
        assert run("score", "--lines", "--json", "a\r\nb") == 0
        assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == ["a", "b"]
        assert server.asked("ScoreMany")[0].start.session_id == "s1"
        assert run("score", "--lines", "--each", "a") == 1
        assert "leave out --each and --top-logprobs, or --lines" in capsys.readouterr().err

    def test_a_line_that_is_refused_is_named_and_those_before_it_are_told(self, run: Run, capsys: Capture) -> None:
        assert run("score", "--lines", stdin="Hi\n\n" + "x" * 70_001 + "\nthere\n") == 1
        out, err = capsys.readouterr()
        assert out == "  1.0000  Hi\n  1.0000  \n"
        assert err.startswith("charloom score: line 3 has no score, nor have those after it: texts[2]: too long")

    def test_each_character_has_a_line(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        assert run("score", "Hi", "--each", "--top-logprobs", "2") == 0
        assert capsys.readouterr().out == (
            "TOKEN  PROBABILITY    NATS  MOST PROBABLE\n"
            "'H'         50.00%  0.6931  'H' 50.00%, 'I' 25.00%\n"
            "'i'         50.00%  0.6931  'i' 50.00%, 'j' 25.00%\n" + self.LINE
        )
        assert server.asked("Score")[0].top_logprobs == 2

    def test_a_session_is_read_from(self, run: Run, server: FakeServer) -> None:
        assert run("score", "Hi", "--session", "s1", "--skip-unknown", "--top-logprobs", "1") == 0
        assert server.asked("Score") == [
            reading_pb2.ScoreRequest(session_id="s1", text="Hi", unknown_characters=SKIP, top_logprobs=1)
        ]

    def test_json_is_one_object(self, run: Run, capsys: Capture) -> None:
        assert run("score", "Hi", "--json") == 0
        read = json.loads(capsys.readouterr().out)
        assert (read["bits_per_character"], read["perplexity"]) == (1.0, 2.0)
        assert [token["symbol"] for token in read["logprobs"]] == ["H", "i"]

    def test_errors_are_one_line(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        server.answers["Score"] = failing(
            grpc.StatusCode.INVALID_ARGUMENT, "text: 'é' at 0 is unknown", error_info("INVALID_REQUEST")
        )
        with request_id("r1"):
            assert run("score", "é") == 1
        assert capsys.readouterr() == ("", "charloom score: text: 'é' at 0 is unknown [request r1]\n")
        with pytest.raises(SystemExit):
            run("score", "Hi", "--session", "s1", "--model", "small")
        assert "not allowed with argument" in capsys.readouterr().err


def distribution(*logprobs: tuple[bytes, float]) -> Any:
    top = [text_pb2.Alternative(symbol=symbol, logprob=logprob) for symbol, logprob in logprobs]
    one = text_pb2.TokenLogprob(chosen=top[0] if top else None, top=top)
    return lambda _, __: reading_pb2.PeekResponse(distributions=[one])


class TestPeek:
    def test_the_most_probable_ones_have_bars(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        assert run("peek", "Hi", "--top", "3", "--model", "small", "--skip-unknown") == 0
        assert capsys.readouterr() == (
            f"'O'      50.00%  {'#' * 40}\n'P'      25.00%  {'#' * 20}\n'Q'      12.50%  {'#' * 10}\nothers   12.50%\n",
            "",
        )
        options = generation_pb2.GenerationOptions(prompt="Hi", model="small", unknown_characters=SKIP)
        assert server.asked("Peek") == [reading_pb2.PeekRequest(options=options, top=3)]

    def test_twenty_are_asked_for_and_a_prompt_is_not_needed(self, run: Run, server: FakeServer) -> None:
        assert run("peek") == 0
        assert server.asked("Peek") == [reading_pb2.PeekRequest(options=generation_pb2.GenerationOptions(), top=20)]

    def test_of_a_model_with_fewer_all_are_shown(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        def few(request: Any, context: Any) -> Any:
            if request.top > 3:
                TOO_MANY(request, context)
            return distribution((b"a", math.log(0.5)), (b"b", math.log(0.25)), (b"c", math.log(0.25)))(request, context)

        server.answers["Peek"] = few
        assert run("peek") == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["'a'", "'b'", "'c'"]
        assert [request.top for request in server.asked("Peek")] == [20, 0]
        assert run("peek", "--top", "20") == 1
        assert "top: 20 is not allowed; from 0 to 3" in capsys.readouterr().err

    def test_where_all_are_shown_there_are_no_others(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        server.answers["Peek"] = distribution((b"\n", math.log(0.75)), (b"\xc3", math.log(0.25)), (b"x", -30.0))
        assert run("peek", "--top", "0") == 0
        assert capsys.readouterr().out == (
            rf"'\n'      75.00%  {'#' * 40}" + "\n" + rf"b'\xc3'   25.00%  {'#' * 13}" + "\n" + "'x'        0.00%\n"
        )

    def test_a_certainty_is_one_whole_bar(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        server.answers["Peek"] = distribution((b"a", 0.0))
        assert run("peek") == 0
        assert capsys.readouterr().out == f"'a'  100.00%  {'#' * 40}\n"

    def test_a_server_that_tells_nothing_is_shown_as_such(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        server.answers["Peek"] = distribution()
        assert run("peek") == 0
        assert capsys.readouterr().out == "others  100.00%\n"
        server.answers["Peek"] = lambda _, __: reading_pb2.PeekResponse()
        assert run("peek") == 0
        assert capsys.readouterr().out == ""

    def test_prompts_from_stdin_and_sessions_are_read_from(self, run: Run, server: FakeServer) -> None:
        assert run("peek", "-", "--session", "s1", stdin="two\nlines\n") == 0
        (request,) = server.asked("Peek")
        assert (request.options.prompt, request.options.session_id) == ("two\nlines\n", "s1")

    def test_json_is_one_object(self, run: Run, capsys: Capture) -> None:
        assert run("peek", "Hi", "--json", "--top", "2") == 0
        read = json.loads(capsys.readouterr().out)
        assert (read["text"], read["position"]) == ("O", 3)
        assert [other["symbol"] for other in read["distributions"][0]["top"]] == ["O", "P"]

    def test_errors_are_one_line(self, run: Run, server: FakeServer, capsys: Capture) -> None:
        server.answers["Peek"] = GONE
        with request_id("r1"):
            assert run("peek", "Hi") == 1
        assert capsys.readouterr() == ("", "charloom peek: there is no session 's1' here [request r1]\n")
