"""From some strands to the inputs of one decoder call, and from its outputs back to each strand's own.

Knows: the decoder contract and strands. Does not know: ticks, threads, where state is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from charloom.engine.decoding.decoder import Inputs, Outputs, Shape, neutral
from charloom.engine.decoding.uniforms import as_uniform
from charloom.engine.loom.jobs import TokenLogprob
from charloom.engine.loom.row import Strand


def inputs_of(strands: Sequence[Strand], steps: Sequence[int], h: Any, c: Any, shape: Shape) -> Inputs:
    """What the strands want of the next tick.

    Args:
        strands: the rows
        steps: how many steps each takes
        h: [L, B, H], the state of the rows
        c: [L, B, H]
        shape: of the decoder
    """
    count, rows = max(steps), len(strands)
    forced = np.full((count, rows), -1, np.int64)
    words = np.zeros((rows, count), np.uint64)
    for row, (strand, taken) in enumerate(zip(strands, steps, strict=True)):
        words[row, :taken] = strand.uniforms.words(strand.position, taken)
        if strand.fed < len(strand.forced):
            text = strand.forced[strand.fed : strand.fed + taken]
            forced[: len(text), row] = text
    asking = [(row, strand) for row, strand in enumerate(strands) if not strand.job.plain]
    fields = neutral(rows, shape.vocabulary) if asking else _nothing_asked(rows, shape.vocabulary)
    temperature = np.array([strand.job.sampling.temperature for strand in strands], np.float32)
    for row, strand in asking:
        _set_sampling(fields, row, strand)
    return Inputs(
        token=np.array([strand.token for strand in strands], np.int64),
        h=h,
        c=c,
        forced=forced,
        steps=np.array(steps, np.int64),
        uniform=as_uniform(np.ascontiguousarray(words.T)),
        **fields | {"temperature": temperature},
    )


@functools.lru_cache(maxsize=512)
def _nothing_asked(rows: int, vocabulary: int) -> dict[str, Any]:
    """As `neutral`, made once and not to be written to."""
    return neutral(rows, vocabulary)


def _set_sampling(fields: dict[str, Any], row: int, strand: Strand) -> None:
    job, sampling = strand.job, strand.job.sampling
    if sampling.filters:
        fields["top_k"][row] = min(sampling.top_k, fields["bias"].shape[1])
        fields["top_p"][row] = sampling.top_p
        fields["min_p"][row] = sampling.min_p
    if job.bias is not None:
        fields["bias"][row] = job.bias
    if strand.counts is not None:
        fields["repetition"][row] = sampling.repetition_penalty
        fields["presence"][row] = sampling.presence_penalty
        fields["frequency"][row] = sampling.frequency_penalty
        fields["counts"][row] = strand.counts
    if job.top_logprobs:
        fields["top"][0] = max(fields["top"][0], job.top_logprobs)


def logprobs_of(outputs: Outputs, row: int, steps: int, top: int) -> list[TokenLogprob]:
    """The log-probabilities of a row's tokens, with the `top` most probable alternatives."""
    chosen = zip(outputs.tokens[:steps, row].tolist(), outputs.logprob[:steps, row].tolist(), strict=True)
    tokens = outputs.top_tokens[:steps, row, :top].tolist()
    logprobs = outputs.top_logprob[:steps, row, :top].tolist()
    return [
        TokenLogprob(*own, tuple(zip(ids, values, strict=True)))
        for own, ids, values in zip(chosen, tokens, logprobs, strict=True)
    ]
