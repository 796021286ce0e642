from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from charloom.cli.main import main
from charloom.client import request_id
from charloom.v1 import generation_pb2, models_pb2, sessions_pb2, text_pb2
from tests.unit.client.conftest import Run
from tests.unit.client.fake_answers import (
    PIECES,
    TEXT,
    draining,
    error_info,
    failing,
    in_turn,
    model,
    result,
    session,
    several,
    stream,
)
from tests.unit.client.fake_server import FakeServer

UNKNOWN = failing(grpc.StatusCode.INVALID_ARGUMENT, "prompt: 'é' at 0 is unknown", error_info("INVALID_REQUEST"))
NOT_MADE = failing(grpc.StatusCode.NOT_FOUND, "there is no session", error_info("SESSION_NOT_FOUND"))


class TestGenerate:
    def test_text_goes_to_stdout_and_nothing_else_anywhere(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("generate", "Hi") == 0
        assert capsys.readouterr() == (TEXT, "")

    def test_flags_that_are_not_given_are_not_sent(self, run: Run, server: FakeServer) -> None:
        run("generate")
        (request,) = server.asked("Generate")
        request.options.ClearField("seed")
        assert request.options == generation_pb2.GenerationOptions()

    def test_every_flag_is_sent(self, run: Run, server: FakeServer) -> None:
        flags = (
            "--model small --max-tokens 9 --min-tokens 2 --temperature 0 --top-k 4 --top-p 0.5 --min-p 0.25 --seed 0 "
            "--repetition-penalty 1.25 --presence-penalty -0.5 --frequency-penalty 0.75 --logit-bias xyz=-2.5 "
            "--allowed-characters abcxyz --forbidden-characters q --logprobs --top-logprobs 3"
        )
        run("generate", "Hi", *flags.split(), "--stop", "\n", "--include-stop", "--skip-unknown", "--session", "s1")
        (request,) = server.asked("Generate")
        assert request.options == generation_pb2.GenerationOptions(
            model="small",
            session_id="s1",
            prompt="Hi",
            unknown_characters=text_pb2.UNKNOWN_CHARACTERS_SKIP,
            max_tokens=9,
            min_tokens=2,
            stop=["\n"],
            include_stop=True,
            sampling=generation_pb2.Sampling(
                temperature=0,
                top_k=4,
                top_p=0.5,
                min_p=0.25,
                repetition_penalty=1.25,
                presence_penalty=-0.5,
                frequency_penalty=0.75,
                logit_bias=[generation_pb2.LogitBias(characters="xyz", bias=-2.5)],
                allowed_characters="abcxyz",
                forbidden_characters="q",
            ),
            seed=0,
            logprobs=True,
            top_logprobs=3,
        )
        assert server.asked("DeleteSession") == []

    def test_stop_strings_add_up_and_may_begin_with_a_dash(self, run: Run, server: FakeServer) -> None:
        assert run("generate", "--stop", "END", "--stop=---", "--stop", " ") == 0
        assert server.asked("Generate")[0].options.stop == ["END", "---", " "]

    def test_biases_are_split_at_the_last_equals_sign_and_add_up(self, run: Run, server: FakeServer) -> None:
        words = ["--logit-bias", "==5", "--logit-bias", "a=b=-1e1", "--logit-bias", "==-2.5", "--logit-bias", "\n= 1"]
        assert run("generate", *words) == 0
        biases = server.asked("Generate")[0].options.sampling.logit_bias
        assert [(entry.characters, entry.bias) for entry in biases] == [("=", 2.5), ("a=b", -10.0), ("\n", 1.0)]

    @pytest.mark.parametrize("word", ["aeiou", "=5", "aeiou=", "aeiou=much", "5"])
    def test_a_bias_that_is_none_is_a_wrong_use(
        self, run: Run, server: FakeServer, word: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            run("generate", f"--logit-bias={word}")
        assert caught.value.code == 2
        wanted = f"argument --logit-bias: {word!r} is not CHARACTERS=AMOUNT, such as aeiou=-2.5"
        assert wanted in capsys.readouterr().err
        assert server.calls == []

    def test_top_logprobs_alone_are_left_to_the_server(self, run: Run, server: FakeServer) -> None:
        run("generate", "--top-logprobs", "2")
        options = server.asked("Generate")[0].options
        assert (options.top_logprobs, options.logprobs) == (2, False)

    def test_help_says_how_to_write_a_line_break(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            run("generate", "--help")
        assert r"$'\n'" in capsys.readouterr().out

    def test_logprobs_are_a_table_on_stderr(
        self, run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("generate", "Hi", "--logprobs", "--top-logprobs", "2") == 0
        printed = capsys.readouterr()
        assert printed.out == TEXT
        assert printed.err.splitlines()[:3] == [
            "TOKEN  PROBABILITY    NATS  MOST PROBABLE",
            "'O'         50.00%  0.6931  'O' 50.00%, 'P' 25.00%",
            "'n'         50.00%  0.6931  'n' 50.00%, 'o' 25.00%",
        ]
        assert len(printed.err.splitlines()) == 1 + len(TEXT)

    def test_logprobs_of_bytes_and_certainties_can_be_shown(
        self, run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def odd(request: Any, context: grpc.ServicerContext) -> Iterator[generation_pb2.GenerateResponse]:
            tokens = [(b"\xc3", 0.0), (b"\n", -30.0), ("é".encode(), -0.01)]
            yield generation_pb2.GenerateResponse(
                text="é",
                result=result(),
                logprobs=[
                    text_pb2.TokenLogprob(chosen=text_pb2.Alternative(symbol=symbol, logprob=logprob))
                    for symbol, logprob in tokens
                ],
            )

        server.answers["Generate"] = odd
        assert run("generate", "Hi", "--logprobs") == 0
        assert capsys.readouterr().err.splitlines() == [
            "TOKEN    PROBABILITY     NATS",
            r"b'\xc3'      100.00%   0.0000",
            r"'\n'           0.00%  30.0000",
            "'é'           99.00%   0.0100",
        ]

    def test_continuations_are_printed_whole_numbered_and_with_their_seeds(
        self, run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("generate", "Hi", "-n", "3", "--seed", "7", "--session", "s1") == 0
        assert capsys.readouterr() == (
            "--- 1 of 3, seed 7 ---\n0: Once upon a time\n"
            "--- 2 of 3, seed 8 ---\n1: upon a time\n"
            "--- 3 of 3, seed 9 ---\n2:  a time\n",
            "",
        )
        (request,) = server.asked("Generate")
        assert (request.options.n, request.options.seed, request.options.session_id) == (3, 7, "s1")

    @pytest.mark.parametrize("flags", [[], ["--json"], ["-n", "2"]])
    @pytest.mark.parametrize("position", [0, 7])
    def test_a_session_that_is_made_for_nothing_is_deleted_again(
        self, run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str], flags: list[str], position: int
    ) -> None:
        known = sessions_pb2.GetSessionResponse(session=session("new", position=position))
        server.answers["GetSession"] = in_turn(NOT_MADE, lambda *_: known)
        server.answers["Generate"] = UNKNOWN
        assert run("generate", "é", "--session", "new", *flags) == 1
        said = capsys.readouterr().err
        assert "charloom generate: prompt: 'é' at 0 is unknown" in said
        assert len(server.asked("DeleteSession")) == (position == 0)
        assert ("the session new is deleted again, because nothing was read" in said) == (position == 0)

    def test_a_session_that_is_made_for_a_text_is_kept(self, run: Run, server: FakeServer) -> None:
        server.answers["GetSession"] = NOT_MADE
        assert run("generate", "Hi", "--session", "new") == 0
        assert [name for name, _ in server.calls] == ["GetSession", "CreateSession", "Generate"]

    def test_resampled_continuations_are_printed_with_their_weights(
        self, run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def with_weights(request: Any, context: grpc.ServicerContext) -> Iterator[generation_pb2.GenerateResponse]:
            for message in several(request, context):
                if message.HasField("result"):
                    message.result.allowed_logprob = 0
                    message.result.resampled.weight = 0.25 + 0.5 * message.index
                yield message

        server.answers["Generate"] = with_weights
        assert run("generate", "Hi", "-n", "2", "--resample", "--regex", ".*") == 0
        printed = capsys.readouterr()
        assert printed.out.splitlines()[::2] == [
            "--- 1 of 2, seed 42, weight 0.250 ---",
            "--- 2 of 2, seed 43, weight 0.750 ---",
        ]
        (request,) = server.asked("Generate")
        assert (request.options.resample, request.options.n, request.options.constraint.regex) == (True, 2, ".*")
        assert run("generate", "Hi", "--resample", "--regex", ".*") == 1
        assert "give -n N" in capsys.readouterr().err

    def test_one_continuation_is_numbered_too(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("generate", "Hi", "--continuations", "1") == 0
        assert capsys.readouterr().out == "--- 1 of 1, seed 42 ---\n0: Once upon a time\n"

    def test_each_continuation_has_prompt_table_and_figures(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("generate", "Hi ", "-n", "2", "--echo", "--logprobs", "--stats") == 0
        printed = capsys.readouterr()
        assert printed.out.splitlines()[1::2] == ["Hi 0: Once upon a time", "Hi 1: upon a time"]
        lines = printed.err.splitlines()
        assert [line.split()[-1] for line in lines if line.startswith("length: ")] == ["42", "43"]
        assert len(lines) == 2 * 2 + len("0: Once upon a time" + "1: upon a time")

    def test_continuations_as_json_are_a_list(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("generate", "é", "-n", "2", "--json", "--logprobs") == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        read = json.loads(printed.out)
        assert read["prompt"] == "é"
        assert [one["text"] for one in read["completions"]] == ["0: Once upon a time", "1: upon a time"]
        assert [one["result"]["seed"] for one in read["completions"]] == [42, 43]
        assert [token["symbol"] for token in read["completions"][1]["logprobs"][:3]] == ["1", ":", " "]

    def test_continuations_that_end_early_are_a_failure(
        self, run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def second_drains(request: Any, context: grpc.ServicerContext) -> Iterator[generation_pb2.GenerateResponse]:
            for message in several(request, context):
                if message.index == 1 and message.HasField("result"):
                    message.result.finish_reason = generation_pb2.FINISH_REASON_DRAINING
                yield message

        server.answers["Generate"] = second_drains
        assert run("generate", "Hi", "-n", "2") == 1
        printed = capsys.readouterr()
        assert printed.out.count("---\n") == 2
        assert printed.err == "charloom generate: the server is stopping; the text ends early\n"

    def test_a_dash_reads_the_prompt_from_stdin(self, run: Run, server: FakeServer) -> None:
        run("generate", "-", stdin="two\nlines\n")
        assert server.asked("Generate")[0].options.prompt == "two\nlines\n"

    def test_a_prompt_may_come_through_a_socket(self, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """As Node.js and inetd give one to their programs."""
        here, there = socket.socketpair()
        with here, there, there.makefile("r", encoding="utf-8") as stdin:
            here.sendall("Zoë:\n".encode())
            here.shutdown(socket.SHUT_WR)
            monkeypatch.setattr("sys.stdin", stdin)
            assert main(["generate", "--target", server.target]) == 0
        assert server.asked("Generate")[0].options.prompt == "Zoë:\n"

    def test_stdin_that_is_no_text_is_said(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff"), "utf-8"))
        assert main(["generate", "-"]) == 1
        assert "stdin is not utf-8: invalid start byte at byte 2" in capsys.readouterr().err

    def test_echo_prints_the_prompt_first(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        run("generate", "Hi ", "--echo")
        assert capsys.readouterr().out == "Hi " + TEXT

    def test_json_is_one_object_with_text_and_result(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("generate", "é", "--json", "--session", "s1") == 0
        printed = json.loads(capsys.readouterr().out)
        assert (printed["prompt"], printed["text"]) == ("é", TEXT)
        assert printed["result"]["finish_reason"] == "length"
        assert printed["result"]["sampling"]["temperature"] == 0.8
        assert printed["result"]["session"]["create_time"] == "2023-11-14T22:13:20+00:00"

    def test_stats_go_to_stderr(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        run("generate", "Hi", "--stats")
        printed = capsys.readouterr()
        assert printed.out == TEXT
        assert printed.err == "length: 3 + 16 tokens, 8 characters/s, first token after 2.0 ms, seed 42\n"

    def test_stats_name_the_stop_string(self, run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
        def stopped(request: Any, context: grpc.ServicerContext) -> Iterator[generation_pb2.GenerateResponse]:
            for message in stream(request, context):
                if message.HasField("result"):
                    message.result.finish_reason = generation_pb2.FINISH_REASON_STOP
                    message.result.stop = "\n\n"
                yield message

        server.answers["Generate"] = stopped
        assert run("generate", "Hi", "--stats") == 0
        assert capsys.readouterr().err.startswith(r"stop at '\n\n': 3 + 16 tokens, ")

    def test_json_has_log_probabilities_of_bytes_too(
        self, run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def odd(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            first, *later = stream(request, context)
            first.logprobs[0].chosen.symbol = b"\xc3"
            yield from (first, *later)

        server.answers["Generate"] = odd
        assert run("generate", "Hi", "--json", "--logprobs", "--top-logprobs", "1") == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        first, second, *_ = json.loads(printed.out)["logprobs"]
        assert (first["symbol"], second["symbol"], second["top"][0]["symbol"]) == (r"\xc3", "n", "n")
        assert second["logprob"] == pytest.approx(-0.6931472)

    def test_an_early_end_is_a_failure(self, run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
        server.answers["Generate"] = draining(3)
        assert run("generate", "Hi") == 1
        assert capsys.readouterr() == (TEXT, "charloom generate: the server is stopping; the text ends early\n")

    def test_an_error_of_the_server_is_one_line(
        self, run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server.answers["Generate"] = UNKNOWN
        with request_id("r1"):
            assert run("generate", "é") == 1
        assert capsys.readouterr() == ("", "charloom generate: prompt: 'é' at 0 is unknown [request r1]\n")

    def test_a_value_that_cannot_be_sent_is_one_line(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("generate", "Hi", "--seed", "-1") == 1
        assert "charloom generate: seed: -1 is not between" in capsys.readouterr().err

    def test_no_server_is_one_line(self, nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["generate", "Hi", "--target", nobody]) == 1
        assert f"charloom generate: no answer from {nobody}" in capsys.readouterr().err

    def test_the_timeout_is_the_deadline_and_zero_is_none(self, run: Run, server: FakeServer) -> None:
        run("generate", "--timeout", "300")
        assert server.remaining["Generate"] == pytest.approx(300, abs=30)
        run("generate", "--timeout", "0")
        left = server.remaining["Generate"]
        assert left is None or left > 1e8

    @pytest.mark.parametrize("timeout", ["-1", "nan", "inf", "soon"])
    def test_a_timeout_that_is_none_is_a_wrong_use(
        self, run: Run, timeout: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            run("generate", f"--timeout={timeout}")
        assert caught.value.code == 2
        assert "--timeout" in capsys.readouterr().err

    def test_every_piece_is_flushed(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        class Out(io.StringIO):
            flushed: list[str] = []  # noqa: RUF012

            def flush(self) -> None:
                self.flushed.append(self.getvalue())

        monkeypatch.setattr("sys.stdout", Out())
        run("generate", "Hi")
        assert [PIECES[0], PIECES[0] + PIECES[1], TEXT] == Out.flushed[:3]

    def test_a_terminal_gets_a_line_break_at_the_end(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        run("generate", "Hi")
        assert capsys.readouterr().out == TEXT + "\n"

    def test_ctrl_c_ends_with_the_usual_status(self, run: Run, server: FakeServer, monkeypatch: Any) -> None:
        def interrupted(text: str) -> int:
            if text == PIECES[0]:
                raise KeyboardInterrupt
            return len(text)

        server.answers["Generate"] = server.answer_and_wait
        monkeypatch.setattr("sys.stdout.write", interrupted)
        assert run("generate", "Hi") == 130
        assert server.ended.wait(30)


class TestModels:
    def test_a_table_has_a_line_for_each_model(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("models") == 0
        heading, small, other = capsys.readouterr().out.splitlines()
        assert " ".join(heading.split()) == "NAME UNIT SYMBOLS NETWORK PARAMETERS DECODER DEVICE STATE VALIDATION"
        assert small == (
            "small  character  3        lstm 2 x 512  3,300,000   onnx-int8  cpu     8,192 B  "
            "tail 1.4020 nats, windows-256 1.4500 nats (checkpoint)"
        )
        assert other.startswith("other  ")

    def test_a_model_without_losses_has_a_dash(
        self, run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bare = model()
        del bare.validation[:]
        server.answers["ListModels"] = lambda _, __: models_pb2.ListModelsResponse(models=[bare])
        run("models")
        assert capsys.readouterr().out.splitlines()[1].endswith("B  -")

    def test_json_has_all_that_is_known(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("models", "--json") == 0
        small, other = json.loads(capsys.readouterr().out)
        assert (small["name"], small["symbols"], small["unit"]) == ("small", ["\n", "a", "é"], "character")
        assert other["validation"]["tail"]["onnx-int8"] == 1.402


class TestHealth:
    def test_serving_is_success(self, run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("health", "--timeout", "300") == 0
        assert capsys.readouterr() == ("SERVING\n", "")
        assert server.remaining["Check"] == pytest.approx(300, abs=30)

    def test_its_deadline_is_short(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            run("health", "--help")
        assert "0 is no limit (default: 3)" in " ".join(capsys.readouterr().out.split())

    def test_anything_else_is_failure(self, run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
        server.answers["Check"] = lambda _, __: health_pb2.HealthCheckResponse(status="NOT_SERVING")
        assert run("health", "--timeout", "60") == 1
        assert capsys.readouterr().out == "NOT_SERVING\n"

    def test_nobody_is_failure(self, nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["health", "--timeout", "60", "--target", nobody]) == 1
        assert "charloom health: no answer from" in capsys.readouterr().err
