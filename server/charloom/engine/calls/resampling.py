"""Generates several texts under one constraint, and resamples them while they run: sequential Monte Carlo.

Under a constraint each token is drawn from the allowed tokens. So texts are too frequent if their beginning leads to
places where the model gives little probability to what is allowed. The weight of a text corrects this: the product,
over its tokens, of the probability that was allowed. Weighted so, the texts are distributed as the model's own texts
that match. Resampling replaces texts of little weight by copies of others while they run.

Weights and estimate are those of Gordon, Salmond and Smith (1993, "Novel approach to nonlinear/non-Gaussian
Bayesian state estimation"), with systematic resampling (Kitagawa, 1996, "Monte Carlo filter and smoother") where the
effective sample size is less than half of the texts. All of it is a function of the seed.

Axis letters: N texts.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from charloom.bundle import Vocabulary
from charloom.engine.calls.generation import GenerationResult, Resampled, TextDelta
from charloom.engine.calls.requests import CheckedRequest
from charloom.engine.calls.starting import GenerationStart
from charloom.engine.calls.together import EndedJob, JobsTogether
from charloom.engine.decoding.decoder import Ints
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.decoding.uniforms import Uniforms
from charloom.engine.loom.jobs import Finish, FinishReason
from charloom.engine.loom.logprobs import Logprobs
from charloom.engine.loom.model import Model
from charloom.engine.rates import Rates
from charloom.engine.sessions.seeds import next_seed
from charloom.engine.shares import current_share
from charloom.engine.telemetry import current_call

Doubles = npt.NDArray[np.float64]

EVERY = 8
"""Number of tokens after which the texts are resampled, if their weights are uneven enough."""


def shares(log_weights: Doubles) -> Doubles:
    """[N]: the normalised weights, which sum to 1, from their natural logarithms."""
    weights: Doubles = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    return weights


def log_mean(log_weights: Doubles) -> float:
    """Natural logarithm of the mean weight."""
    largest = float(log_weights.max())
    return largest + math.log(float(np.exp(log_weights - largest).mean()))


def parents(log_weights: Doubles, uniform: float) -> Ints:
    """[N]: the index of the text that replaces each text; its own index while the weights are even enough.

    A text with the normalised weight w is chosen w N times, rounded up or down. A chosen text keeps its own place.

    Args:
        log_weights: [N]
        uniform: a random number in [0, 1)
    """
    own, count = shares(log_weights), len(log_weights)
    if 1 / float((own**2).sum()) >= count / 2:
        return np.arange(count)
    drawn = np.searchsorted(np.cumsum(own), (np.arange(count) + uniform) / count, side="right")
    times = np.bincount(np.minimum(drawn, count - 1), minlength=count)
    found = np.arange(count)
    found[times == 0] = np.repeat(found, np.maximum(times - 1, 0))
    return found


class _Part(NamedTuple):
    """The output of one job, without its final state, which is needed only for the next job."""

    tokens: Sequence[int]
    logprobs: Logprobs


@dataclass(frozen=True)
class _Text:
    """One of the texts, as generated so far."""

    left: CheckedRequest
    """The rest of the request."""
    snapshot: Snapshot
    ancestor: int
    parts: tuple[_Part, ...] = ()
    """The output of its jobs."""
    first: Finish | None = None
    """How its first job ended."""
    last: Finish | None = None
    """How its last job ended."""
    allowed: float = 0.0
    """Natural logarithm of the probability that the constraint left, summed over its tokens."""
    over: bool = False
    """Whether it has ended."""

    def grown(self, by: EndedJob) -> _Text:
        """The text with the output of one more job."""
        assert by.finish.allowed is not None
        over = by.finish.reason is FinishReason.STOP or len(by.tokens) == self.left.max_tokens
        done = np.concatenate([self.left.prompt, np.array(by.tokens, np.int64)])
        return replace(
            self,
            left=self.left if over else self.left.after(done),
            snapshot=by.finish.snapshot,
            parts=(*self.parts, _Part(by.tokens, by.logprobs)),
            first=self.first or by.finish,
            last=by.finish,
            allowed=self.allowed + by.finish.allowed,
            over=over,
        )


class ResampledTexts:
    """Texts that are resampled while they run. Constructing it starts generating them.

    Args:
        start: where all of them start
        asked: the request for each text, before the prompt was read
        count: N
        rates: the token rates of callers
    """

    def __init__(self, start: GenerationStart, asked: CheckedRequest, count: int, rates: Rates) -> None:
        self.model = start.model
        self._start = start
        self._asked = asked
        self._count = count
        self._rates = rates
        self._began = time.monotonic()
        self._writing = asyncio.get_running_loop().create_task(self._write())

    def cancel(self) -> None:
        """Stop all texts, because some of them alone would not be a sample."""
        self._writing.cancel()

    async def text(self, number: int) -> tuple[TextDelta, GenerationResult]:
        """One of them, once all have ended.

        Raises:
            asyncio.CancelledError: they were cancelled.
            Overloaded, Draining, DecoderFailure: as their names say.
        """
        return (await asyncio.shield(self._writing))[number]

    async def _write(self) -> list[tuple[TextDelta, GenerationResult]]:
        seed, position = self._start.snapshot.seed, self._start.snapshot.position + len(self._start.checked.prompt)
        texts = [
            _Text(self._start.checked, replace(self._start.snapshot, seed=next_seed(seed, number)), number)
            for number in range(self._count)
        ]
        since, matching, times, uniforms = np.zeros(self._count), 0.0, 0, Uniforms()
        while not all(text.over for text in texts):
            before = np.array([text.allowed for text in texts])
            texts = await self._grown(texts)
            since += np.array([text.allowed for text in texts]) - before
            if all(text.over for text in texts):
                break  # at the end, weights are more exact than copies
            position += EVERY
            # From a seed that none of the texts uses.
            uniform = float(uniforms.at(next_seed(seed, self._count), position, 1)[0])
            chosen = parents(since, uniform)
            if (chosen != np.arange(self._count)).any():
                matching, times, since = matching + log_mean(since), times + 1, np.zeros(self._count)
                texts = [
                    replace(texts[parent], snapshot=replace(texts[parent].snapshot, seed=text.snapshot.seed))
                    for parent, text in zip(chosen.tolist(), texts, strict=True)
                ]
        matching += log_mean(since)
        return [
            self._told(text, Resampled(weight, text.ancestor, times, matching))
            for text, weight in zip(texts, shares(since).tolist(), strict=True)
        ]

    async def _grown(self, texts: list[_Text]) -> list[_Text]:
        """The texts after the next job of each text that has not ended; these jobs run at the same time."""
        share = current_share()
        await self._rates.pace(share)
        jobs = [text.left.first(EVERY).job(text.snapshot, snapshots=False) for text in texts if not text.over]
        together = JobsTogether(self.model, jobs)
        ended = await together.ended()
        # If the prompt was read once for all texts, it was counted then; else each text's first job reads it.
        self._rates.spend(share, sum(one.finish.fed + len(one.tokens) for one in ended))
        parts = iter(ended)
        return [text if text.over else text.grown(next(parts)) for text in texts]

    def _told(self, text: _Text, resampled: Resampled) -> tuple[TextDelta, GenerationResult]:
        """The text and the result for its reader."""
        decoder, first, last = self.model.vocabulary.decoder(), text.first, text.last
        assert first is not None
        assert last is not None
        tokens = [token for part in text.parts for token in part.tokens]
        written = decoder.feed(tokens)
        if (logged := current_call().texts) is not None:
            logged.generation().add(written)
        finish = replace(
            last,
            snapshot=replace(text.snapshot, tail=decoder.tail),
            generated=len(tokens),
            fed=len(self._asked.prompt),
            queued=first.queued,
            first_token=first.first_token,
            total=time.monotonic() - self._began,
            allowed=text.allowed,
        )
        result = GenerationResult(
            finish=finish,
            sampling=self._asked.sampling,
            max_tokens=self._asked.max_tokens,
            model=self.model.name,
            model_digest=self.model.digest,
            session=None,
            stop=None,
            resampled=resampled,
        )
        logprobs = Logprobs.joined(part.logprobs for part in text.parts)
        return TextDelta(written, finish.snapshot.position, logprobs), result


class ResampledText:
    """One of the texts that are resampled together: a `Continuation` of one piece.

    Args:
        texts: all of them; cancelling one cancels all
        number: which
    """

    def __init__(self, texts: ResampledTexts, number: int) -> None:
        self._texts = texts
        self._number = number
        self._cancelled = False
        self.result: GenerationResult | None = None

    @property
    def model(self) -> Model:
        """Generates it."""
        return self._texts.model

    @property
    def vocabulary(self) -> Vocabulary:
        """Its symbols."""
        return self.model.vocabulary

    def cancel(self) -> None:
        """Stop all of them; after the end this does nothing."""
        self._cancelled = True
        self._texts.cancel()

    async def whole(self) -> TextDelta:
        """The text, once all have ended.

        Raises:
            as `ResampledTexts.text`.
        """
        delta, self.result = await self._texts.text(self._number)
        return delta

    def __aiter__(self) -> ResampledText:
        return self

    async def __anext__(self) -> TextDelta:
        if self.result is None and not self._cancelled:
            delta = await self.whole()
            if delta.text or delta.logprobs:
                return delta
        raise StopAsyncIteration
