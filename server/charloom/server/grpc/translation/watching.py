"""watching.proto: which lines of logs are unlike those before."""

from __future__ import annotations

from collections.abc import Sequence

from charloom.bundle import Mask
from charloom.engine.calls.watching import SourceLine, Verdict, WatchRequest
from charloom.engine.errors import InvalidRequest
from charloom.server.grpc.translation.times import to_duration, to_time_to_live
from charloom.v1 import watching_pb2

_MASKS = {
    watching_pb2.NUMBER_MASK_UNSPECIFIED: None,
    watching_pb2.NUMBER_MASK_NONE: Mask.NONE,
    watching_pb2.NUMBER_MASK_DIGITS: Mask.DIGITS,
    watching_pb2.NUMBER_MASK_NUMBERS: Mask.NUMBERS,
}


def to_watch(start: watching_pb2.WatchStart, tenant: str) -> WatchRequest:
    """How to watch.

    Raises:
        InvalidRequest: an enum's value is unknown, or a time out of range.
    """
    if start.mask not in _MASKS:
        raise InvalidRequest("mask", f"{start.mask} is not a value of NumberMask")
    return WatchRequest(
        name=start.name,
        tenant=tenant,
        model=start.model,
        mask=_MASKS[start.mask],
        rate=start.rate if start.HasField("rate") else WatchRequest.rate,
        warm_up=start.warm_up if start.HasField("warm_up") else WatchRequest.warm_up,
        time_to_live=to_time_to_live(start),
        silent_after=to_duration("silent_after", start.silent_after) if start.HasField("silent_after") else None,
        adaptive=start.adaptive,
    )


def to_lines(message: watching_pb2.WatchLines) -> list[SourceLine]:
    """The lines of a message."""
    return [SourceLine(line.source, line.text) for line in message.lines]


def from_verdicts(
    verdicts: Sequence[Verdict], silent: Sequence[str], start: watching_pb2.WatchStart
) -> watching_pb2.WatchResponse:
    """The message for what is made of some lines, with each of their characters if asked for, and silent sources."""
    return watching_pb2.WatchResponse(
        verdicts=[
            watching_pb2.WatchVerdict(
                surprise=verdict.scored.surprise,
                threshold=verdict.threshold,
                alert=verdict.alert,
                own_threshold=verdict.own,
                drifting=verdict.drifting,
                cut=verdict.cut,
                nats=verdict.scored.nats,
                tokens=verdict.scored.tokens,
                lines=verdict.lines,
                characters=verdict.scored.surprisals if start.characters else (),
            )
            for verdict in verdicts
        ],
        silent=[name.encode("utf-8", "replace").decode() for name in silent],
        adaptive=start.adaptive,
    )
