"""Generation of one text, one step per decoder call: the oracle of the loom's tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice, repeat

import numpy as np

from charloom.controls import controls
from charloom.engine.decoding.decoder import Adaptation, Decoder, Floats, Inputs, neutral
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.decoding.uniforms import Uniforms


def generate_stepwise(
    decoder: Decoder,
    start: Snapshot,
    prompt: Sequence[int],
    max_tokens: int,
    sampling: Sampling,
    bias: Floats | None = None,
) -> tuple[list[int], Snapshot]:
    """Feed `prompt`, then generate `max_tokens`; returns the generated tokens and where that leaves the session."""
    found = list(islice(one_by_one(decoder, start, prompt, sampling, bias), max_tokens + 1))
    return [there.pending[0] for there in found[1:]], found[-1]


def one_by_one(
    decoder: Decoder,
    start: Snapshot,
    prompt: Sequence[int],
    sampling: Sampling,
    bias: Floats | None = None,
) -> Iterator[Snapshot]:
    """Where a session stands once `prompt` was fed, and then after each token that is generated, without end."""
    state = start.state[:, :, None]
    adaptation = None if start.learnt is None else Adaptation(np.array([True]), start.learnt[None])
    token, *replayed = start.pending
    position = start.position - len(replayed)
    counts = np.zeros((1, decoder.shape.vocabulary), np.float32)
    numbers = Uniforms()
    fields = neutral(1, decoder.shape.vocabulary) | {"counts": counts}
    fields |= {one.name: np.array([getattr(sampling, one.option)], one.dtype) for one in controls()}
    if bias is not None:
        fields["bias"] = bias[None]
    for step, forced in enumerate(chain([*replayed, *prompt], repeat(-1))):
        if step >= len(replayed) + len(prompt):
            learnt = None if adaptation is None else adaptation.state[0]
            yield Snapshot(state[:, :, 0].copy(), (token,), position, start.seed, start.tail, learnt)
        outputs = decoder.run(
            Inputs(
                token=np.array([token]),
                state=state,
                forced=np.array([[forced]]),
                steps=np.array([1]),
                uniform=numbers.at(start.seed, position, 1)[:, None],
                sampling=fields,
                adaptation=adaptation,
            )
        )
        if adaptation is not None:
            adaptation = adaptation._replace(state=outputs.adaptation)
        state, token = outputs.state, int(outputs.tokens[0, 0])
        position += 1
        if step >= len(replayed):
            counts[0, token] += 1
