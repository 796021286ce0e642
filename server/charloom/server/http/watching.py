"""POST /v1/watch: which lines of logs are unlike those before; what is known of sources stays for the next call."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from charloom.bundle import Mask
from charloom.engine.calls.watching import SourceLine, Verdict, WatchRequest
from charloom.engine.engine import Engine
from charloom.engine.limits import MOST_LINES
from charloom.server.caller import current_caller
from charloom.server.http.bodies import Body, Count, Items
from charloom.server.http.exchange import Exchange, list_of
from charloom.server.http.sessions import time_of


class WatchedLine(Body):
    """A line of a source."""

    source: str = Field("", description="who wrote it")
    text: str = Field(description="the line, without its line break")


class WatchBody(Body):
    """Lines to judge."""

    name: str = Field(description="of the watch: what its sources are found by in the next call")
    lines: Items[WatchedLine] = Field(max_length=MOST_LINES, description="in the order in which they were written")
    model: str = Field("", description="a model of /v1/models; empty for that of the watch, or the default one")
    mask: Literal["none", "digits", "numbers"] | None = Field(
        None, description="what becomes of numbers before the model reads them; as it was trained if left out"
    )
    rate: float = Field(
        WatchRequest.rate, description="the share of lines that may be alerts while nothing unusual happens"
    )
    warm_up: Count = Field(WatchRequest.warm_up, description="lines of a source before it is judged by its own")
    time_to_live: float | None = Field(None, description="seconds that a source is kept that says nothing")
    characters: bool = Field(False, description="whether to tell how surprising each character is")
    adaptive: bool = Field(False, description="whether sources that are new learn from their lines")


class Watching:
    """Answers requests about lines of logs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def answer(self, exchange: Exchange, body: WatchBody) -> None:
        """What is made of each line, once the states after them are in the store."""
        request = WatchRequest(
            name=body.name,
            tenant=current_caller().tenant,
            model=body.model,
            mask=None if body.mask is None else Mask(body.mask),
            rate=body.rate,
            warm_up=body.warm_up,
            time_to_live=time_of(body.time_to_live),
            adaptive=body.adaptive,
        )
        watch = await self._engine.watching.begin(request)
        try:
            verdicts = await watch.read([SourceLine(line.source, line.text) for line in body.lines])
        finally:
            await watch.end()
        data = [
            _told(number, line.source, verdict, characters=body.characters)
            for number, (line, verdict) in enumerate(zip(body.lines, verdicts, strict=True))
        ]
        read = sum(verdict.scored.tokens for verdict in verdicts)
        await exchange.answer(list_of(watch.model, data, read))


def _told(number: int, source: str, verdict: Verdict, *, characters: bool) -> dict[str, Any]:
    scored = verdict.scored
    told = {
        "object": "watched_line",
        "index": number,
        "source": source,
        "surprise": scored.surprise,
        "threshold": verdict.threshold,
        "alert": verdict.alert,
        "own_threshold": verdict.own,
        "drifting": verdict.drifting,
        "cut": verdict.cut,
        "nats": scored.nats,
        "tokens": scored.tokens,
        "lines": verdict.lines,
    }
    return {**told, "characters": scored.surprisals} if characters else told
