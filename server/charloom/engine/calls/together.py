"""Runs several jobs of a call at the same time; if one fails, all are cancelled."""

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
"""Finish reasons of a job that was completed."""


class EndedJob(NamedTuple):
    """The output of a job."""

    tokens: Sequence[int]
    """The generated tokens."""
    logprobs: Logprobs
    """Empty if they were not asked for."""
    finish: Finish


class JobsTogether:
    """Jobs on a model's loom. Constructing it submits them.

    Args:
        model: the model
        jobs: at least one job

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
        """Cancel all jobs."""
        self._ended.cancel()
        for row in self._rows:
            row.cancel()

    async def ended(self) -> list[EndedJob]:
        """Wait for all jobs; returns the output of each. If this is cancelled, all jobs are.

        Raises:
            Overloaded, Draining, DecoderFailure: a job was not completed; all are cancelled.
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
        """Take note that a job has ended."""
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
        if reason in (FinishReason.DISPLACED, FinishReason.STALLED):  # the reader is this program, which is overloaded
            return self._loom.overloaded()
        return DecoderFailure("the decoder failed; nothing has changed")


def _joined(chunks: Sequence[Chunk]) -> EndedJob:
    finish = chunks[-1].finish
    assert finish is not None
    if len(chunks) == 1:
        return EndedJob(chunks[0].tokens, chunks[0].logprobs, finish)
    tokens = [token for chunk in chunks for token in chunk.tokens]
    return EndedJob(tokens, Logprobs.joined(chunk.logprobs for chunk in chunks), finish)
