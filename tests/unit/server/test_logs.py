from __future__ import annotations

import json
import logging
import sys
from types import SimpleNamespace

import pytest

from charloom.server.logs import JsonFormatter, TextFormatter, TransportFilter


def failed(prompt: str) -> logging.LogRecord:
    """A record of an exception, in a function whose argument is a user's text."""
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        record = logging.LogRecord("charloom", logging.ERROR, "errors.py", 1, "incident %s", ("abc",), sys.exc_info())
    record.created = 1_767_323_045.25
    return record


def test_a_line_of_text_has_time_level_and_message() -> None:
    first, *traceback = TextFormatter().format(failed("To be, or not to be")).splitlines()
    assert first == "2026-01-02T03:04:05.250000Z [ERROR] incident abc"
    assert traceback[-1] == "RuntimeError: boom"


def test_a_line_of_json_has_the_same_and_is_one_line() -> None:
    line = JsonFormatter().format(failed("To be, or not to be"))
    assert "\n" not in line
    fields = json.loads(line)
    assert fields.pop("exception").splitlines()[-1] == "RuntimeError: boom"
    assert fields == {"timestamp": "2026-01-02T03:04:05.250000Z", "level": "error", "event": "incident abc"}


def test_a_line_of_one_of_several_processes_names_it() -> None:
    assert TextFormatter(2).format(failed("")).splitlines()[0].endswith("[ERROR] incident abc process=2")
    assert json.loads(JsonFormatter(2).format(failed("")))["process"] == 2


def test_no_log_line_has_the_values_of_variables() -> None:
    for formatter in (TextFormatter(), JsonFormatter()):
        assert "To be" not in formatter.format(failed("To be, or not to be"))


class GoneError(Exception):
    """Stands for one of gRPC's own."""


GoneError.__module__ = "grpc._cython.cygrpc"


def test_what_clients_make_grpc_report_is_one_short_line_at_a_time() -> None:
    kept = TransportFilter()
    told = []
    for name, problem in (("grpc._cython.cygrpc", ValueError("x")), ("asyncio", GoneError("a client's words"))):
        for _ in range(100):
            record = logging.LogRecord(name, logging.ERROR, name, 1, "call %s\nmore", ("failed",), None)
            record.exc_info = (type(problem), problem, None)
            if kept.filter(record):
                told.append(TextFormatter().format(record).partition("] ")[2])
    assert told == ["call failed: ValueError", "call failed: GoneError"]


def test_the_same_place_is_reported_again_after_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("charloom.server.logs.time", SimpleNamespace(monotonic=lambda: now))
    kept = TransportFilter()
    reported = []
    for now in (100.0, 109.9, 110.0, 119.9, 120.0):
        record = logging.LogRecord("grpc", logging.ERROR, "channel.py", 1, "call failed", (), None)
        if kept.filter(record):
            reported.append(now)
    assert reported == [100.0, 110.0, 120.0]


def test_what_is_reported_of_our_own_is_whole() -> None:
    kept = TransportFilter()
    problem = ValueError("x")
    for name in ("charloom.server", "asyncio"):
        for _ in range(2):
            record = logging.LogRecord(name, logging.ERROR, name, 1, "broke", (), (ValueError, problem, None))
            assert kept.filter(record)
            assert "ValueError: x" in TextFormatter().format(record)
