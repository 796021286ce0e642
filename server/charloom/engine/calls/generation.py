"""A running generation on the event loop: gives text to its reader, and states to a sink that keeps them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from charloom.bundle import Vocabulary
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import DecoderFailure, EngineError, ReaderStalled
from charloom.engine.loom.jobs import Chunk, Finish, FinishReason, Job
from charloom.engine.loom.logprobs import NONE_TOLD, Logprobs
from charloom.engine.loom.model import Model
from charloom.engine.rates import Meter
from charloom.engine.sessions.session import Session
from charloom.engine.sessions.writer import log_failure
from charloom.engine.shares import current_share
from charloom.engine.telemetry import current_call

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextDelta:
    """Some text, and the session's position after it. The text may be empty if there are log-probabilities."""

    text: str
    position: int
    logprobs: Logprobs = NONE_TOLD
    """Of the tokens since the last delta, if they were asked for."""


@dataclass(frozen=True)
class Resampled:
    """The outcome of resampling for one of the continuations of a call."""

    weight: float
    """Its importance weight; the weights of all continuations sum to 1."""
    ancestor: int
    """The number of the continuation as which its text began."""
    times: int
    """How often the continuations were resampled."""
    match_logprob: float
    """Natural logarithm of an unbiased estimate, from all continuations, of the probability that a text of the model
    matches the constraint."""


@dataclass(frozen=True)
class GenerationResult:
    """How a generation ended, with the values that were in effect."""

    finish: Finish
    sampling: Sampling
    max_tokens: int
    """0: endless."""
    model: str
    model_digest: str
    session: Session | None
    stop: str | None
    """The stop string that ended it."""
    state: bytes = b""
    """The sealed state at the end, if it was asked for."""
    resampled: Resampled | None = None
    """None: its call did not resample."""


class Continuation(Protocol):
    """A text that can be read while it is generated, or only as a whole if it is resampled."""

    @property
    def model(self) -> Model:
        """The model that generates it."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of its model."""

    @property
    def result(self) -> GenerationResult | None:
        """How it ended; None until it was handed out to its end, and always after `cancel`."""

    def cancel(self) -> None:
        """Stop; after the end this does nothing."""

    async def whole(self) -> TextDelta:
        """The whole text as one delta."""

    def __aiter__(self) -> AsyncIterator[TextDelta]:
        """The text as it comes."""

    async def __anext__(self) -> TextDelta:
        """The next piece."""


class StateSink(Protocol):
    """Receives the states of a generation."""

    def on_tokens(self, tokens: Sequence[int], snapshot: Snapshot) -> None:
        """Tokens were generated; `snapshot` is the state after them."""

    def on_sent(self, snapshot: Snapshot) -> None:
        """The reader has the text up to this state, and the generation continues."""

    def on_cancelled(self) -> None:
        """The generation was cancelled; `close` follows when its row has left the loom."""

    async def close(self, snapshot: Snapshot | None) -> Session | None:
        """The generation has ended; called once. Runs to completion even if the awaiting task is cancelled.

        Args:
            snapshot: the state to keep; None: no text was handed out, so nothing has changed
        """


class Generation:
    """Text as it is generated. Constructing it submits its job to the model's loom.

    Iterate over it for `TextDelta`s, or await the `whole` text; then `result` is set, unless it was cancelled. If the
    reader falls behind, deltas get larger, and the loom pauses when the reader stops.

    Its sink is closed exactly once, with the state after the last delta that was handed out, or with None if none was.
    Tokens that were generated ahead of the reader are dropped when it is cancelled.

    Args:
        model: generates the tokens and turns them into text
        job: what to generate, and the state to start from
        sink: gets its states; None: they are not kept
        describe: makes the result
        arrived: the position up to which the reader has the text already, from an earlier stream of the same call
        meter: counts its tokens if its caller has a rate limit; the loom then waits until the caller owes no tokens

    Raises:
        Overloaded, Draining: the loom takes no more jobs.
    """

    def __init__(
        self,
        model: Model,
        job: Job,
        sink: StateSink | None,
        describe: Callable[[Finish, Session | None], GenerationResult],
        arrived: int = 0,
        meter: Meter | None = None,
    ) -> None:
        self.model = model
        self.vocabulary = model.vocabulary
        self._decoder = model.vocabulary.decoder(job.start.tail)
        self._call = current_call()
        self._call.model = model.name
        self._logged = None if self._call.texts is None else self._call.texts.generation()
        self._sink = sink
        """None once it is closed, or closing."""
        self._describe = describe
        self._meter = meter
        self._arrived = arrived
        self._text: list[str] = []
        self._logprobs: list[Logprobs] = []
        self._unread = 0
        """Number of tokens that came since the last delta."""
        self._taken = 0
        """Number of tokens in deltas that were not yet reported to the loom with `took`."""
        self._slowed: asyncio.TimerHandle | None = None
        """The timer that will report them."""
        self._position = 0
        """Position after the last token that came."""
        self._something_new = asyncio.Event()
        self._latest: Snapshot | None = None
        self._handed_out: Snapshot | None = None
        self._finish: Finish | None = None
        self._failure: EngineError | None = None
        self._cancelled = False
        self._closing: asyncio.Task[Session | None] | None = None
        self.result: GenerationResult | None = None
        # Last, when all is set up. Chunks come through the event loop, so none arrives before this returns.
        self._loom = model.loom
        self._row = model.loom.submit(job, self._receive, current_share(), None if meter is None else meter.ahead)
        if meter is not None:
            meter.begin()

    def _receive(self, chunk: Chunk) -> None:
        """Take a chunk; called on the event loop, in order."""
        try:
            known = min(len(chunk.tokens), max(0, self._arrived - (chunk.position - len(chunk.tokens))))
            if known:
                self._decoder.feed(chunk.tokens[:known])
            text = self._decoder.feed(chunk.tokens[known:])
            self._text.append(text)
            if self._logged is not None:
                self._logged.add(text)
            if chunk.logprobs:
                self._logprobs.append(chunk.logprobs[known:])
            self._unread += len(chunk.tokens)
            self._position = chunk.position
            if chunk.tokens:
                self._call.generated(len(chunk.tokens))
                if self._meter is not None:
                    self._meter.spend(len(chunk.tokens))
            if chunk.snapshot is not None:
                self._latest = self._with_tail(chunk.snapshot)
                if self._sink is not None:
                    self._sink.on_tokens(chunk.tokens, self._latest)
        except Exception:
            log.exception("a generation could not take its chunk")
            self.fail(
                DecoderFailure("the decoder's tokens are no text; the session is as after the text that was sent")
            )
        if chunk.finish is not None:
            self._finish = chunk.finish
            if self._meter is not None:
                self._meter.end()
            if self._slowed is not None:
                self._slowed.cancel()
            self._call.job_ended(chunk.finish.reason.value, chunk.finish)
            if chunk.finish.reason is FinishReason.STALLED:
                self._failure = self._failure or ReaderStalled()
            elif chunk.finish.reason is FinishReason.DISPLACED:
                self._failure = self._failure or self._loom.overloaded()
            elif chunk.finish.reason is FinishReason.FAILED:
                self._failure = self._failure or DecoderFailure(
                    "the decoder failed; the session keeps the state after the text that was sent"
                )
            if self._cancelled or self._failure:
                self._begin_closing(self._handed_out)
        self._something_new.set()

    def cancel(self) -> None:
        """Stop generating; what was not handed out is dropped. After the end this does nothing."""
        self._cancelled = True
        if self._sink is not None:
            self._sink.on_cancelled()
        if self._finish is not None:
            self._begin_closing(self._handed_out)
        else:
            self._row.cancel()

    def fail(self, problem: EngineError) -> None:
        """Stop generating, and raise this error to the reader."""
        self._failure = problem
        self.cancel()

    async def whole(self) -> TextDelta:
        """Wait for the whole text, as one delta. If this is cancelled before the end, the session does not change.

        Raises:
            asyncio.CancelledError: the generation was cancelled.
        """
        deltas: list[TextDelta] = []
        while self._finish is None:
            deltas.append(await self._next_delta())
        deltas.append(await self._next_delta())
        if self._abandoned():
            raise asyncio.CancelledError
        await self._end()
        logprobs = Logprobs.joined(delta.logprobs for delta in deltas)
        return TextDelta("".join(delta.text for delta in deltas), self._position, logprobs)

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> TextDelta:
        while self.result is None and not self._abandoned():
            delta = await self._next_delta()
            if self._abandoned():
                break
            if self._finish is not None:
                await self._end()
            if self._latest is not None and self._position >= self._arrived:
                self._handed_out = self._latest
                if self._finish is None and self._sink is not None:
                    self._sink.on_sent(self._latest)
            if delta.text or delta.logprobs:
                return delta
        raise StopAsyncIteration

    def _abandoned(self) -> bool:
        return self._cancelled and self._failure is None

    async def _next_delta(self) -> TextDelta:
        """Wait for something new; returns all that arrived since the last call."""
        await self._something_new.wait()
        self._something_new.clear()
        delta = TextDelta("".join(self._text), self._position, Logprobs.joined(self._logprobs))
        unread, self._unread = self._unread, 0
        self._text, self._logprobs = [], []
        if unread and self._meter is not None:
            self._slow_down(unread, self._meter)
        elif unread:
            self._row.took(unread)
        if self._finish is not None:
            self._something_new.set()  # after the end, further calls return at once
        return delta

    def _slow_down(self, taken: int, meter: Meter) -> None:
        """Report taken tokens to the loom, but not before the caller's rate limit allows more."""
        self._taken += taken
        if self._slowed is not None:
            self._slowed.cancel()
            self._slowed = None
        if (wait := meter.spend(0)) > 0 and self._finish is None:
            self._row.slowed = True
            self._slowed = asyncio.get_running_loop().call_later(wait, self._go_on)
        else:
            self._go_on()

    def _go_on(self) -> None:
        taken, self._taken = self._taken, 0
        self._row.took(taken)
        self._row.slowed = False  # only after `took`: a worker that checks in between would think that nobody reads it

    async def _end(self) -> None:
        assert self._finish is not None
        if self._failure is not None:
            raise self._failure
        finish, session = self._finish, None
        snapshot = self._with_tail(finish.snapshot)
        if snapshot is not finish.snapshot:
            finish = replace(finish, snapshot=snapshot)
        if self._sink is not None:
            sink, self._sink = self._sink, None
            session = await sink.close(snapshot)
        self.result = self._describe(finish, session)

    def _with_tail(self, snapshot: Snapshot) -> Snapshot:
        """A snapshot of the loom, with the bytes of the text's unfinished last character."""
        tail = self._decoder.tail
        return snapshot if snapshot.tail == tail else replace(snapshot, tail=tail)

    def _begin_closing(self, snapshot: Snapshot | None) -> None:
        """Close the sink in a task, unless it is closed already."""
        if self._sink is not None:
            sink, self._sink = self._sink, None
            self._closing = asyncio.get_running_loop().create_task(sink.close(snapshot))
            self._closing.add_done_callback(log_failure)
