"""Watches logs: each source has a state of its own, and each line is judged by what is usual for its source.

A source is a session: its state is the network's after the last line, its `notes` are its calibration. So sources are
kept by the store, expire, count against quotas and are erased like any session. One more session, named after the
watch, has the calibration of all sources together, which judges sources that have few lines yet. A call holds this
session while it watches, so that no two calls watch under one name.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from time import monotonic
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from charloom.bundle import Mask, Unit
from charloom.engine.calls.price import of_summing, of_watching
from charloom.engine.calls.reading import Reading
from charloom.engine.calls_in_progress import CallsInProgress
from charloom.engine.clock import utc_now
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import (
    InvalidRequest,
    SessionExists,
    SessionNotFound,
    SessionOfAnotherModel,
    StoreUnavailable,
    shown,
    shown_number,
)
from charloom.engine.limits import LONGEST_LINE, MOST_LINES
from charloom.engine.loom.model import Model
from charloom.engine.loom.models import Models
from charloom.engine.sessions.checks import require_fits
from charloom.engine.sessions.session import History, Key, Session
from charloom.engine.sessions.sessions import Sessions
from charloom.engine.sessions.writer import SessionWriter, end_together
from charloom.engine.shares import current_share
from charloom.engine.telemetry import Totals, current_call
from charloom.engine.watching.calibration import LOWEST_RATE, MEMORY, Calibration
from charloom.engine.watching.line import ReadLine, Scored
from charloom.engine.watching.silence import Silence
from charloom.engine.watching.source_id import source_id

MOST_SOURCES = 256
"""Most sources that are read at a time, as rows of the loom."""
SOURCES_TOGETHER = 64
"""Sources that are opened or written at a time, so that the store may share one commit between them."""
AT_A_TIME, LINE = 8192, 256
"""Characters processed, in some milliseconds, before other calls get a turn; and how many a line counts in addition."""
SHORTEST_SILENCE, LONGEST_SILENCE = timedelta(seconds=1), timedelta(days=30)
_STEP = 64 * 1024
"""Bytes that a call reserves at a time for the table of when its sources were heard."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")


@dataclass(frozen=True)
class WatchRequest:
    """Options of a watch."""

    name: str
    """Of the watch; with a source's name it identifies the source's session."""
    tenant: str = ""
    model: str = ""
    """Empty: the model of the watch, or the first one."""
    mask: Mask | None = None
    """None: as the model was trained."""
    rate: float = 0.001
    """The target fraction of lines that are alerts while nothing unusual happens."""
    warm_up: int = 100
    """Fewest lines of a source before it is judged by its own calibration."""
    time_to_live: timedelta | None = None
    """How long a source without new lines is kept."""
    silent_after: timedelta | None = None
    """Time without a line after which a source is reported as silent; None: never."""
    adaptive: bool = False
    """Whether new sources learn from their lines."""


class SourceLine(NamedTuple):
    """A line, without its line break, and the name of its source."""

    source: str
    text: str


class Verdict(NamedTuple):
    """The result for a line."""

    scored: Scored
    cut: bool
    """Whether only its beginning was read."""
    threshold: float | None
    """The surprise above which a line is an alert; None while too few lines are known."""
    own: bool
    """Whether the threshold is the source's own, and not that of all sources together."""
    alert: bool
    drifting: bool
    """Whether the source's recent lines differ from its earlier ones; see `Calibration.drifting`."""
    lines: int
    """Number of lines of this source, this one included."""


class Watching:
    """Begins watches.

    Args:
        models: the models for new watches
        sessions: keeps the sources
        reading: reads lines
        calls: admits the calls
        totals: counts lines and alerts
    """

    def __init__(
        self, models: Models, sessions: Sessions, reading: Reading, calls: CallsInProgress, totals: Totals
    ) -> None:
        self._models = models
        self._sessions = sessions
        self._reading = reading
        self._calls = calls
        self._totals = totals

    async def begin(self, request: WatchRequest) -> Watch:
        """Begin or continue a watch, which must be ended with `Watch.end`.

        Raises:
            InvalidRequest: a value is out of range, or the model's tokens are words.
            SessionBusy: another call watches under this name.
            ModelNotFound, SessionOfAnotherModel, QuotaExceeded, Overloaded, StoreUnavailable: as their names say.
        """
        if not _NAME.fullmatch(request.name):
            raise InvalidRequest("name", f"{shown(request.name)} is not allowed; up to 32 letters, digits, '_' and '-'")
        if not LOWEST_RATE <= request.rate <= 0.5:
            why = f"since at most {MEMORY:,} lines of a source count, too few for a lower rate"
            shown_rate = shown_number(request.rate)
            raise InvalidRequest("rate", f"{shown_rate} is not allowed; from {LOWEST_RATE:g} to 0.5, {why}")
        if not 1 <= request.warm_up <= 1_000_000:
            raise InvalidRequest("warm_up", f"{request.warm_up} is not allowed; from 1 to 1000000")
        silent_after = request.silent_after
        if silent_after is not None and not SHORTEST_SILENCE <= silent_after <= LONGEST_SILENCE:
            raise InvalidRequest("silent_after", "it is not allowed; from one second to 30 days")
        await self._calls.begin()
        key = Key(request.tenant, f"watch.{request.name}")
        try:
            everything = await self._sessions.acquire(key)
        except SessionNotFound:
            _require_lines(self._models.named(request.model))
            with contextlib.suppress(SessionExists):  # another call was first, and watches
                await self._sessions.create(
                    tenant=key.tenant,
                    model=request.model,
                    session_id=key.id,
                    seed=0,
                    time_to_live=request.time_to_live,
                )
            everything = await self._sessions.acquire(key)
        async with everything.given_back_on_error():
            model = self._sessions.model_of(everything.session, request.model)
            _require_lines(model)
            return Watch(request, model, self._sessions, everything, self._reading, self._totals)


@dataclass(eq=False)
class _Source:
    """A source with lines in the present batch."""

    writer: SessionWriter
    calibration: Calibration
    after: Snapshot
    """The state after the lines that were read."""
    numbers: list[int] = field(default_factory=list)
    """Indices of its lines in the batch."""


class Watch:
    """Reads lines, and returns a verdict for each. Made by `Watching.begin`; must be ended with `end`.

    Args:
        request: the options
        model: the model that reads the lines
        sessions: keeps the sources
        everything: the writer of the session for all sources together
        reading: reads lines
        totals: counts lines, alerts and silent sources
    """

    def __init__(
        self,
        request: WatchRequest,
        model: Model,
        sessions: Sessions,
        everything: SessionWriter,
        reading: Reading,
        totals: Totals,
    ) -> None:
        self.model = model
        trained = model.bundle.manifest.training.get("config", {})
        self.mask = Mask(trained.get("mask", "none")) if request.mask is None else request.mask
        self._request = request
        self._sessions = sessions
        self._everything = everything
        self._pool = _calibration(everything.session)
        self._reading = reading
        self._totals = totals
        own = current_share().quota.prompt_characters
        after = request.silent_after
        self._silence = None if after is None else Silence(after.total_seconds())
        self._held = 0
        self._longest = min(LONGEST_LINE, reading.limits.max_prompt_characters, own or LONGEST_LINE)

    async def read(self, lines: Sequence[SourceLine]) -> list[Verdict]:
        """Read some lines, or none; returns a verdict for each, once all states after them are in the store.

        If it raises, some sources may have read their lines and others not.

        Raises:
            InvalidRequest: there are too many, or too many characters.
            SessionTakenOver, SessionDeleted: another call watches under this name, or the watch was erased.
            SessionOfAnotherModel: a source was watched by another version of the model.
            TooMuchMemory, Overloaded: as their names say.
        """
        self._check(lines)
        self._everything.require_not_lost()
        if not lines:
            return []
        if (texts := current_call().texts) is not None:
            for line in lines:
                texts.read.add(f"{line.text[: self._longest]}\n")
        characters = sum(min(len(line.text), self._longest) for line in lines)
        price = of_watching(len({line.source for line in lines}), len(lines), characters)
        with self._reading.budget.held_for(price):
            found = await self._read(lines)
        session = self._everything.session
        await self._everything.write(_changed(session, session.snapshot, self._pool))
        self._totals.watched(len(found), sum(verdict.alert for verdict in found))
        return found

    async def _read(self, lines: Sequence[SourceLine]) -> list[Verdict]:
        vocabulary, mask, longest = self.model.vocabulary, self.mask, self._longest
        read = [ReadLine.of(line.text, vocabulary, mask, longest) async for _, line in _gently(lines)]
        verdicts: dict[int, Verdict] = {}
        sources: dict[str, _Source] = {}
        try:
            names = list(dict.fromkeys(line.source for line in lines))
            for start in range(0, len(names), SOURCES_TOGETHER):
                await self._open(names[start : start + SOURCES_TOGETHER], sources)
            async for number, line in _gently(lines):
                sources[line.source].numbers.append(number)
            # The size of learnt states is known only when the sources are open; each has one before and one after.
            with self._reading.budget.held_for(2 * sum(one.after.learnt_bytes for one in sources.values())):
                scored = await self._scored(read, list(sources.values()))
            async for number, line in _gently(lines):
                verdicts[number] = self._judged(scored[number], read[number].cut, sources[line.source].calibration)
            while sources:
                some = [sources.popitem()[1] for _ in range(min(len(sources), SOURCES_TOGETHER))]
                await end_together(
                    one.writer.close_with(_changed(one.writer.session, one.after, one.calibration)) for one in some
                )
        finally:
            await end_together(one.writer.give_back() for one in sources.values())
        return [verdicts[number] for number in range(len(lines))]

    def silent(self) -> list[str]:
        """Names of sources that have become silent (`WatchRequest.silent_after`); each once, until it has a new line.

        Up to `MOST_LINES`; the next call returns further ones. Names are cut to 200 characters.
        """
        if self._silence is None:
            return []
        found = self._silence.fallen(monotonic(), MOST_LINES)
        self._totals.fell_silent(len(found))
        return found

    async def end(self) -> None:
        """End the watch, so that another call can watch under this name."""
        await self._everything.close_with(self._everything.session.renewed(utc_now()))

    def _heard(self, source: str) -> None:
        if self._silence is None:
            return
        self._silence.heard(source_id(source), source, monotonic())
        if self._silence.memory > self._held:
            self._reading.budget.hold(_STEP)
            self._held += _STEP

    def _check(self, lines: Sequence[SourceLine]) -> None:
        if len(lines) > MOST_LINES:
            raise InvalidRequest("lines", f"there are {len(lines)}; give up to {MOST_LINES} at a time")
        total, most = (
            sum(min(len(line.text), self._longest) for line in lines),
            self._reading.limits.max_prompt_characters,
        )
        if total > most:
            raise InvalidRequest("lines", f"they have {total} characters, more than {most}; give fewer at a time")

    async def _open(self, names: Sequence[str], sources: dict[str, _Source]) -> None:
        """Open sources and add them to `sources`, including those that were opened if others could not be."""

        async def opened(name: str) -> None:
            sources[name] = await self._source(name)
            self._heard(name)

        # If this is cancelled, it still ends only when all of them have ended.
        for ended in await asyncio.gather(*map(opened, names), return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended

    async def _source(self, name: str) -> _Source:
        """Open a source, and make it first if it is new."""
        request, model = self._request, self.model
        key = Key(request.tenant, f"watch.{request.name}.{source_id(name)}")
        try:
            writer = await self._sessions.acquire(key)
        except SessionNotFound:
            await self._sessions.create_from(
                key, model, model.fresh(0, adaptive=request.adaptive), request.time_to_live
            )
            writer = await self._sessions.acquire(key)
        async with writer.given_back_on_error():
            if not model.goes_on_with(writer.session.model_digest, adaptive=writer.session.adaptive):
                raise SessionOfAnotherModel(key.id, writer.session.model_digest[:12], model.digest[:12])
            require_fits(writer.session, model.decoder.shape)
            return _Source(writer, _calibration(writer.session), writer.present)

    async def _scored(self, read: Sequence[ReadLine], sources: Sequence[_Source]) -> dict[int, Scored]:
        """Score the lines, by their indices; all lines of a source are read as one text."""
        found: dict[int, Scored] = {}
        for start in range(0, len(sources), MOST_SOURCES):
            busy = [
                (source, text)
                for source in sources[start : start + MOST_SOURCES]
                if len(text := np.concatenate([read[number].tokens for number in source.numbers]))
            ]
            tokens = sum(source.after.behind + len(text) for source, text in busy)
            learnt = max((source.after.learnt_bytes for source, _ in busy), default=0)
            needed = of_summing(self.model.decoder.shape, tokens, len(busy), learnt=learnt)
            with self._reading.budget.held_for(needed):
                texts = [(source.after, text) for source, text in busy]
                told = await self._reading.read_together(self.model, texts, 0) if texts else []
            nats: dict[_Source, npt.NDArray[np.float64]] = {}
            for (source, _), (after, logprobs) in zip(busy, told, strict=True):
                source.after = after
                nats[source] = -np.array(logprobs.values)
            for source in sources[start : start + MOST_SOURCES]:
                left = nats.get(source, np.zeros(0))
                for number in source.numbers:
                    count = len(read[number].tokens)
                    found[number] = read[number].scored(left[:count])
                    left = left[count:]
        return found

    def _judged(self, scored: Scored, cut: bool, own: Calibration) -> Verdict:
        """Judge a line by what was known before it, then add it to the calibrations."""
        request = self._request
        threshold = own.threshold(request.rate, request.warm_up)
        is_own = threshold is not None
        if threshold is None:
            threshold = self._pool.threshold(request.rate, request.warm_up)
        alert = threshold is not None and scored.surprise > threshold
        own.add(scored.surprise)
        self._pool.add(scored.surprise)
        return Verdict(scored, cut, threshold, is_own, alert, own.drifting, own.lines)


def _require_lines(model: Model) -> None:
    if model.vocabulary.unit is Unit.WORD:
        raise InvalidRequest("model", f"{model.name!r} reads words; lines are watched by characters or bytes")


async def _gently(lines: Sequence[SourceLine]) -> AsyncIterator[tuple[int, SourceLine]]:
    """Yield lines with their indices, and give other calls a turn on the event loop every few lines."""
    left = 0
    for number, line in enumerate(lines):
        if left <= 0:
            await asyncio.sleep(0)
            left = AT_A_TIME
        left -= LINE + min(len(line.text), LONGEST_LINE)
        yield number, line


def _calibration(session: Session) -> Calibration:
    try:
        return Calibration.from_bytes(session.notes) if session.notes else Calibration()
    except ValueError as problem:
        raise StoreUnavailable(f"the calibration of session {shown(session.id)} cannot be read: {problem}") from problem


def _changed(session: Session, snapshot: Snapshot, calibration: Calibration) -> Session:
    """The next version of a source's session, whose history starts at its present state."""
    history = History((snapshot,), b"", session.history.kind)
    return replace(session.changed(utc_now(), snapshot, history), notes=calibration.to_bytes())
