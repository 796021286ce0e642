"""From some rows to the inputs of one decoder call, and from its outputs back to each row's own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from charloom.controls import Effect, controls
from charloom.engine.decoding.decoder import Inputs, Outputs, Shape, neutral
from charloom.engine.decoding.uniforms import as_uniform
from charloom.engine.loom.jobs import TokenLogprob
from charloom.engine.loom.row import Row


def inputs_of(batch: Sequence[Row], steps: Sequence[int], state: Any, shape: Shape) -> Inputs:
    """What the rows want of the next tick.

    Args:
        batch: the rows
        steps: how many steps each takes
        state: [A, L, B, H], of the rows
        shape: of the decoder
    """
    count, rows = max(steps), len(batch)
    forced = np.full((count, rows), -1, np.int64)
    words = np.zeros((rows, count), np.uint64)
    for index, (row, taken) in enumerate(zip(batch, steps, strict=True)):
        words[index, :taken] = row.uniforms.words(row.position, taken)
        if row.fed < len(row.forced):
            text = row.forced[row.fed : row.fed + taken]
            forced[: len(text), index] = text
    asking = [(index, row) for index, row in enumerate(batch) if not row.job.plain]
    sampling = neutral(rows, shape.vocabulary) if asking else dict(_nothing_asked(rows, shape.vocabulary))
    for control in controls(Effect.SCALES):
        values = [getattr(row.job.sampling, control.option) for row in batch]
        sampling[control.name] = np.array(values, control.dtype)
    for index, row in asking:
        _set_sampling(sampling, index, row)
    return Inputs(
        token=np.array([row.token for row in batch], np.int64),
        state=state,
        forced=forced,
        steps=np.array(steps, np.int64),
        uniform=as_uniform(np.ascontiguousarray(words.T)),
        sampling=sampling,
    )


@functools.lru_cache(maxsize=512)
def _nothing_asked(rows: int, vocabulary: int) -> dict[str, Any]:
    """As `neutral`, made once and not to be written to."""
    return neutral(rows, vocabulary)


def _set_sampling(sampling: dict[str, Any], index: int, row: Row) -> None:
    job = row.job
    for name, value in row.asked:
        sampling[name][index] = value
    if job.bias is not None:
        sampling["bias"][index] = job.bias
    if row.counts is not None:
        sampling["counts"][index] = row.counts
    if job.top_logprobs:
        sampling["top"][0] = max(sampling["top"][0], job.top_logprobs)


def logprobs_of(outputs: Outputs, index: int, steps: int, top: int) -> list[TokenLogprob]:
    """The log-probabilities of the tokens of the row at `index`, with the `top` most probable alternatives."""
    chosen = zip(outputs.tokens[:steps, index].tolist(), outputs.logprob[:steps, index].tolist(), strict=True)
    tokens = outputs.top_tokens[:steps, index, :top].tolist()
    logprobs = outputs.top_logprob[:steps, index, :top].tolist()
    return [
        TokenLogprob(*own, tuple(zip(ids, values, strict=True)))
        for own, ids, values in zip(chosen, tokens, logprobs, strict=True)
    ]
