"""`charloom chat`."""

from __future__ import annotations

import io
import signal
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from grpc import _channel  # type: ignore[attr-defined]

from charloom.cli.main import main
from charloom.client import request_id
from charloom.v1 import generation_pb2
from tests.unit.client.conftest import Run
from tests.unit.client.fake_answers import PIECES, TEXT, draining, error_info, failing, in_turn, stream
from tests.unit.client.fake_server import FakeServer

STOPPING = failing(grpc.StatusCode.UNAVAILABLE, "stopping", error_info("DRAINING"))
UNKNOWN = failing(grpc.StatusCode.INVALID_ARGUMENT, "prompt: 'é' at 0 is unknown", error_info("INVALID_REQUEST"))


def test_each_line_is_fed_with_its_line_break_to_one_session(
    run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("chat", "--seed", "5", "--model", "small", stdin="one\ntwo") == 0
    assert capsys.readouterr() == (f"{TEXT}\n{TEXT}\n", "")
    (made,) = server.asked("CreateSession")
    assert (made.model, made.seed) == ("small", 5)
    first, second = (request.options for request in server.asked("Generate"))
    assert (first.prompt, second.prompt) == ("one\n", "two\n")
    assert (first.session_id, second.session_id) == ("drawn", "drawn")
    assert first.max_tokens == 200
    assert not first.HasField("seed")
    assert len(server.asked("DeleteSession")) == 1


def test_every_answer_has_the_flags_of_sampling_and_stopping(run: Run, server: FakeServer) -> None:
    flags = "--repetition-penalty 1.5 --logit-bias e=-5 --forbidden-characters xyz --min-tokens 4 --include-stop"
    assert run("chat", *flags.split(), "--stop", "\n", stdin="one\ntwo\n") == 0
    requests = server.asked("Generate")
    assert len(requests) == 2
    for request in requests:
        assert (request.options.stop, request.options.min_tokens) == (["\n"], 4)
        assert request.options.include_stop
        assert request.options.sampling == generation_pb2.Sampling(
            repetition_penalty=1.5,
            logit_bias=[generation_pb2.LogitBias(characters="e", bias=-5)],
            forbidden_characters="xyz",
        )


def test_reset_goes_on_in_a_new_session(run: Run, server: FakeServer) -> None:
    assert run("chat", stdin="one\n/reset\ntwo\n") == 0
    names = [name for name, _ in server.calls]
    assert names == ["CreateSession", "Generate", "DeleteSession"] * 2


def test_quit_ends_before_the_input_does(run: Run, server: FakeServer) -> None:
    assert run("chat", stdin="/quit\none\n") == 0
    assert server.asked("Generate") == []


def test_help_and_wrong_commands_are_not_fed(run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("chat", stdin="/help\n/halp\n") == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "/reset" in printed.err
    assert "there is no /halp" in printed.err
    assert server.asked("Generate") == []


def test_characters_that_the_model_lacks_are_told_and_the_chat_goes_on(
    run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["Generate"] = lambda request, context: (UNKNOWN if "é" in request.options.prompt else stream)(
        request, context
    )
    assert run("chat", stdin="é\nHi\n") == 0
    assert capsys.readouterr() == (TEXT + "\n", "prompt: 'é' at 0 is unknown\n")


def test_an_expired_session_is_told_with_the_way_on(
    run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["Generate"] = failing(grpc.StatusCode.NOT_FOUND, "expired", error_info("SESSION_EXPIRED"))
    assert run("chat", stdin="Hi\n") == 0
    assert capsys.readouterr().err == "expired; /reset starts a new session\n"


def test_a_stopping_server_ends_the_chat(run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers["Generate"] = in_turn(draining(3), STOPPING)
    assert run("chat", stdin="one\ntwo\n") == 1
    assert capsys.readouterr() == (TEXT + "\n", "the server is stopping; the chat ends\n")


def test_other_errors_end_the_chat(run: Run, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers["Generate"] = failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", error_info("OVERLOADED"))
    with request_id("r1"):
        assert run("chat", stdin="one\ntwo\n") == 1
    assert capsys.readouterr().err == "charloom chat: full [request r1]\n"


def test_ctrl_c_stops_the_answer_and_not_the_chat(
    run: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def typed(lines: Iterator[str]) -> Callable[[str], str]:
        def read(prompt: str) -> str:
            line = next(lines, None)
            if line is None:
                raise EOFError
            if line == "^C":
                raise KeyboardInterrupt
            return line

        return read

    def interrupting(text: str) -> int:
        if text == PIECES[0] and len(server.asked("Generate")) == 1:
            raise KeyboardInterrupt
        return write(text)

    server.answers["Generate"] = lambda request, context: (
        stream if len(server.asked("Generate")) > 1 else server.answer_and_wait
    )(request, context)
    monkeypatch.setattr("builtins.input", typed(iter(["one", "^C", "two"])))
    with monkeypatch.context() as patched:
        piped = io.StringIO()
        patched.setattr(piped, "isatty", lambda: True, raising=False)
        import sys

        write = sys.stdout.write
        patched.setattr("sys.stdout.isatty", lambda: True)
        patched.setattr("sys.stdout.write", interrupting)
        patched.setattr("sys.stdin", piped)
        assert main(["chat"]) == 0
    assert server.ended.wait(30)
    printed = capsys.readouterr()
    assert printed.out == f"\n{TEXT}\n"
    assert "Type a line" in printed.err
    assert "Ctrl-D or /quit ends" in printed.err


@pytest.mark.parametrize("interactive", [True, False])
def test_ctrl_c_in_the_midst_of_grpc_does_not_leave_the_channel_waiting(
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    interactive: bool,
) -> None:
    """Where gRPC has begun the call of an answer, and has no thread yet that waits for it."""

    def typed(*_: object) -> str:
        """A line, once no thread waits for the call before: gRPC then starts one for the next call."""
        while any("_run" in thread.name for thread in set(threading.enumerate()) - before):
            time.sleep(0.01)
        read.append(next(lines, "/quit\n"))
        return read[-1]

    def interrupted(state: object) -> None:
        if read and not signals:
            signals.append(signal.raise_signal(signal.SIGINT))
            signals.append(signal.raise_signal(signal.SIGINT))
        begin(state)

    before = set(threading.enumerate())
    signals: list[None] = []
    read: list[str] = []
    lines = iter(["one\n", "two\n"])
    begin = _channel._run_channel_spin_thread
    server.answers["Generate"] = lambda request, context: (
        stream if request.options.prompt.startswith("two") else server.answer_and_wait
    )(request, context)
    monkeypatch.setattr(_channel, "_run_channel_spin_thread", interrupted)
    piped = io.StringIO()
    monkeypatch.setattr(piped, "isatty", lambda: interactive, raising=False)
    monkeypatch.setattr(piped, "readline", typed, raising=False)
    monkeypatch.setattr("sys.stdin", piped)
    monkeypatch.setattr("sys.stdout.isatty", lambda: interactive)
    monkeypatch.setattr("builtins.input", typed)
    assert main(["chat", "--target", server.target]) == (0 if interactive else 130)
    assert capsys.readouterr().out.removeprefix(PIECES[0]) == (f"\n{TEXT}\n" if interactive else "")
    assert len(server.asked("DeleteSession")) == 1
    assert signals
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
