"""From some strands to the inputs of one decoder call, and from its outputs back to each strand's own.

Knows: the decoder contract and strands. Does not know: ticks, threads, where state is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from charloom.engine.decoder import Inputs, Outputs, Shape, neutral
from charloom.engine.jobs import TokenLogprob
from charloom.engine.strand import Strand


def inputs_of(strands: Sequence[Strand], steps: Sequence[int], h: Any, c: Any, shape: Shape) -> Inputs:
    """What the strands want of the next tick.

    Args:
        strands: the rows
        steps: how many steps each takes
        h: [L, B, H], the state of the rows
        c: [L, B, H]
        shape: of the decoder
    """
    count = max(steps)
    forced = np.full((count, len(strands)), -1, np.int64)
    uniform = np.zeros((len(strands), count), np.float32)
    for row, strand in enumerate(strands):
        uniform[row, : steps[row]] = strand.uniforms.at(strand.position, steps[row])
        if strand.fed < len(strand.forced):
            text = strand.forced[strand.fed : strand.fed + steps[row]]
            forced[: len(text), row] = text
    fields = neutral(len(strands), shape.vocabulary)
    for row, strand in enumerate(strands):
        _set_sampling(fields, row, strand)
    return Inputs(
        token=np.array([strand.token for strand in strands], np.int64),
        h=h,
        c=c,
        forced=forced,
        steps=np.array(steps, np.int64),
        uniform=np.ascontiguousarray(uniform.T),
        **fields,
    )


def _set_sampling(fields: dict[str, Any], row: int, strand: Strand) -> None:
    job, sampling = strand.job, strand.job.sampling
    fields["temperature"][row] = sampling.temperature
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
