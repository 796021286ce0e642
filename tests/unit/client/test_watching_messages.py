"""Lines to protobuf and back, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from charloom.client import InternalError, InvalidValue
from charloom.client._watching_messages import LONGEST_LINE, answered, asking, batches, start
from charloom.v1 import watching_pb2


def test_what_is_not_asked_for_is_left_to_the_server() -> None:
    request = start("web", None, None, None, None, None, False, None, False)
    assert request == watching_pb2.WatchRequest(start=watching_pb2.WatchStart(name="web"))


def test_all_that_can_be_asked_for() -> None:
    asked = start("web", "small", "digits", 0.01, 7, 1.5, True, 2.5, True).start
    assert (asked.model, asked.mask, asked.rate, asked.warm_up) == ("small", watching_pb2.NUMBER_MASK_DIGITS, 0.01, 7)
    assert (asked.time_to_live.ToTimedelta().total_seconds(), asked.characters) == (1.5, True)
    assert (asked.silent_after.ToTimedelta().total_seconds(), asked.adaptive) == (2.5, True)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((5, None, None, None, None, None, False, None, False), "name"),
        (("a", None, "words", None, None, None, False, None, False), "mask"),
        (("a", None, None, "often", None, None, False, None, False), "rate"),
        (("a", None, None, None, -1, None, False, None, False), "warm_up"),
        (("a", None, None, None, None, None, 1, None, False), "characters"),
        (("a", None, None, None, None, None, False, "long", False), "silent_after"),
        (("a", None, None, None, None, None, False, None, 1), "adaptive"),
    ],
)
def test_what_no_message_can_carry(arguments: Any, field: str) -> None:
    with pytest.raises(InvalidValue, match=field):
        start(*arguments)


def test_messages_are_as_large_as_a_server_takes_them() -> None:
    found = [message.lines.lines for message in batches([("a", "x" * 60)] * 2500)]
    assert [len(lines) for lines in found] == [819, 819, 819, 43]
    found = [message.lines.lines for message in batches([("a", "")] * 2500)]
    assert [len(lines) for lines in found] == [1024, 1024, 452]
    assert list(batches([])) == []


def test_of_a_long_line_no_more_is_sent_than_shows_that_it_is_one() -> None:
    (message,) = batches([("a", "é" * 10_000), ("a", "é".encode() * 10_000), ("a", b"\xff" * 10_000)])
    assert [len(line.text) for line in message.lines.lines] == [LONGEST_LINE + 1] * 3
    assert message.lines.lines[1].text == "é" * (LONGEST_LINE + 1)


@pytest.mark.parametrize("line", ["text", ("a",), ("a", 5), ("a", "b", "c"), (5, "b")])
def test_what_is_no_line_is_refused(line: Any) -> None:
    with pytest.raises(InvalidValue, match=r"^lines\[1\]"):
        list(batches([("a", "b"), line]))


def test_a_server_that_leaves_lines_out_is_told() -> None:
    (request,) = batches([("a", "one"), ("a", "two")])
    for answer in (None, watching_pb2.WatchResponse(verdicts=[watching_pb2.WatchVerdict()])):
        with pytest.raises(InternalError, match="did not answer each"):
            answered(watching_pb2.WatchStart(), request, answer)


def test_a_message_without_lines_asks_which_sources_are_silent() -> None:
    assert asking().HasField("lines")
    told = watching_pb2.WatchResponse(silent=["a", "b"])
    assert answered(watching_pb2.WatchStart(), asking(), told) == ([], ["a", "b"])
