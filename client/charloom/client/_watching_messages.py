"""Messages of Watch: lines to protobuf, and verdicts from protobuf, for both clients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grpc

from charloom.client import _unheeded, _values
from charloom.client._errors import InternalError, InvalidValue
from charloom.client._watching_types import Verdict
from charloom.v1 import watching_pb2

LONGEST_LINE = 4096
"""The most characters of a line that a server reads."""
MOST_SILENT = 1024
"""Most silent sources in one answer; an answer with this many is followed by more."""
_MOST_LINES, _MOST_CHARACTERS = 1024, 49_152
"""Of one message. A server takes as many characters as a prompt may have, 65,536 by default."""
_MASKS = {
    "none": watching_pb2.NUMBER_MASK_NONE,
    "digits": watching_pb2.NUMBER_MASK_DIGITS,
    "numbers": watching_pb2.NUMBER_MASK_NUMBERS,
}


def start(
    name: str,
    model: str | None,
    mask: str | None,
    rate: float | None,
    warm_up: int | None,
    time_to_live: float | None,
    characters: bool,
    silent_after: float | None,
    adaptive: bool,
) -> watching_pb2.WatchRequest:
    """Build the first message of Watch.

    Raises:
        InvalidValue: a value that the message cannot carry.

    """
    asked = watching_pb2.WatchStart(
        name=_values.text("name", name),
        model="" if model is None else _values.text("model", model),
        rate=None if rate is None else _values.number("rate", rate),
        warm_up=None if warm_up is None else _values.uint32("warm_up", warm_up),
        time_to_live=None if time_to_live is None else _values.duration("time_to_live", time_to_live),
        characters=_values.flag("characters", characters),
        silent_after=None if silent_after is None else _values.duration("silent_after", silent_after),
        adaptive=_values.flag("adaptive", adaptive),
    )
    if mask is not None:
        asked.mask = _values.one_of("mask", mask, _MASKS)
    return watching_pb2.WatchRequest(start=asked)


def asking() -> watching_pb2.WatchRequest:
    """Build the message that only asks which sources are silent."""
    return watching_pb2.WatchRequest(lines=watching_pb2.WatchLines())


def batches(lines: Sequence[tuple[str, str | bytes]]) -> Iterator[watching_pb2.WatchRequest]:
    """Build the messages that carry the lines, none larger than a server accepts.

    Raises:
        InvalidValue: an element of `lines` is no pair of source and line.

    """
    found, characters = list[watching_pb2.WatchLine](), 0
    for place, line in enumerate(lines):
        if not isinstance(line, tuple) or len(line) != 2 or not isinstance(line[1], str | bytes):
            raise InvalidValue(f"lines[{place}]", "it is not a pair of a source and a line, as text or bytes")
        source, text = _values.text(f"lines[{place}][0]", line[0]), _text(line[1])
        if len(found) == _MOST_LINES or (found and characters + len(text) > _MOST_CHARACTERS):
            yield watching_pb2.WatchRequest(lines=watching_pb2.WatchLines(lines=found))
            found, characters = [], 0
        found.append(watching_pb2.WatchLine(source=source, text=text))
        characters += len(text)
    if found:
        yield watching_pb2.WatchRequest(lines=watching_pb2.WatchLines(lines=found))


def answered(
    start: watching_pb2.WatchStart, request: watching_pb2.WatchRequest, answer: watching_pb2.WatchResponse | None
) -> tuple[list[Verdict], list[str]]:
    """Read the server's verdicts on the lines of a message, and the names of silent sources.

    Raises:
        InternalError: the server closed the stream instead of answering, or left lines out.
        Unimplemented: `adaptive` was set, but the server's new sources do not learn.

    """
    lines = request.lines.lines
    if answer is None or len(answer.verdicts) != len(lines):
        raise InternalError("the server did not answer each of the lines", code=grpc.StatusCode.INTERNAL)
    if start.adaptive and not answer.adaptive:
        raise _unheeded.unheeded("adaptive", "the sources of this watch do not learn")
    found = [
        Verdict(
            source=line.source,
            text=line.text[:LONGEST_LINE],
            surprise=verdict.surprise,
            threshold=verdict.threshold if verdict.HasField("threshold") else None,
            alert=verdict.alert,
            own_threshold=verdict.own_threshold,
            drifting=verdict.drifting,
            cut=verdict.cut,
            nats=verdict.nats,
            tokens=verdict.tokens,
            lines=verdict.lines,
            characters=tuple(verdict.characters),
        )
        for line, verdict in zip(lines, answer.verdicts, strict=True)
    ]
    return found, list(answer.silent)


def _text(line: str | bytes) -> str:
    """A line as a message can carry it, cut one character above `LONGEST_LINE`: the server sees that it is longer."""
    if isinstance(line, bytes):
        # A character has up to four bytes; a character that this cut splits is beyond the limit.
        return line[: 4 * LONGEST_LINE + 4].decode("utf-8", "replace")[: LONGEST_LINE + 1]
    return line[: LONGEST_LINE + 1].encode("utf-8", "replace").decode()
