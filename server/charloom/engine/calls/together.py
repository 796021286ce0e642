"""Several jobs of a call at the same time: all come to their end, or none counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from charloom.engine.errors import DecoderFailure, Draining, EngineError
from charloom.engine.loom.jobs import Chunk, Finish, FinishReason, Job
from charloom.engine.loom.logprobs import Logprobs
from charloom.engine.loom.model import Model
from charloom.engine.shares import current_share
from charloom.engine.telemetry import current_call

ENDS = (FinishReason.LENGTH, FinishReason.STOP)
"""How a job comes to its own end."""


class EndedJob(NamedTuple):
    """What has come of a job."""

    tokens: Sequence[int]
    """That were generated."""
    logprobs: Logprobs
    """Where they were asked for."""
    finish: Finish


class JobsTogether:
    """Jobs on a model's loom; constructing it submits them.

    Args:
        model: whose loom
        jobs: at least one

    Raises:
        Overloaded, Draining: the loom does not take all of them; none runs then.
    """

    def __init__(self, model: Model, jobs: Sequence[Job]) -> None:
        self._loom = model.loom
        self._call = current_call()
        self._call.model = model.name
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._chunks: list[list[Chunk]] = [[] for _ in jobs]
        self._left = len(jobs)
        receivers = [partial(self._receive, number) for number in range(len(jobs))]
        self._rows = self._loom.submit_together(list(zip(jobs, receivers, strict=True)), current_share())

    def cancel(self) -> None:
        """Let none of them run on."""
        self._ended.cancel()
        for row in self._rows:
            row.cancel()

    async def ended(self) -> list[EndedJob]:
        """What has come of each, once all have ended; if this is cancelled before that, none runs on.

        Raises:
            Overloaded, Draining, DecoderFailure: one of them did not come to its end; none runs on.
        """
        try:
            await self._ended
        except BaseException:
            self.cancel()
            raise
        return [_joined(chunks) for chunks in self._chunks]

    def _receive(self, number: int, chunk: Chunk) -> None:
        """Take a chunk of a job; called on the event loop, in order."""
        row = self._rows[number]
        self._chunks[number].append(chunk)
        if chunk.tokens:
            self._call.generated(len(chunk.tokens))
            row.took(len(chunk.tokens))
        if chunk.finish is not None:
            self._end(chunk.finish)

    def _end(self, finish: Finish) -> None:
        """One of them has ended."""
        self._call.job_ended(finish.reason.value if finish.generated else "", finish)
        self._left -= 1
        if self._ended.done():
            return
        if finish.reason not in ENDS:
            self._ended.set_exception(self._failure(finish.reason))
        elif not self._left:
            self._ended.set_result(None)

    def _failure(self, reason: FinishReason) -> EngineError:
        if reason is FinishReason.DRAINING:
            return Draining()
        if reason in (FinishReason.DISPLACED, FinishReason.STALLED):  # its reader is this program, and has no time
            return self._loom.overloaded()
        return DecoderFailure("the decoder failed; nothing has changed")


def _joined(chunks: Sequence[Chunk]) -> EndedJob:
    finish = chunks[-1].finish
    assert finish is not None
    if len(chunks) == 1:
        return EndedJob(chunks[0].tokens, chunks[0].logprobs, finish)
    tokens = [token for chunk in chunks for token in chunk.tokens]
    return EndedJob(tokens, Logprobs.joined(chunk.logprobs for chunk in chunks), finish)
