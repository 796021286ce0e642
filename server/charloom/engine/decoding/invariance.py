"""Whether a decoder's rows are independent of each other on this machine, bit for bit."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from charloom.controls import INPUTS
from charloom.engine.decoding.decoder import Floats, Inputs, Outputs, Shape, Steps, neutral

CHECKED_STEPS = 2
Values = TypeVar("Values", Inputs, Outputs)


def is_batch_invariant(decoder: Steps, most_rows: int) -> bool:
    """Whether the rows of a batch of `most_rows` come out the same in smaller batches, with and without filters."""
    batches = [count for power in range(9) for count in (2**power, 2**power + 1) if count < most_rows]
    kinds = (random_inputs, plain_inputs, reading_inputs)
    for inputs in (made(decoder, most_rows, CHECKED_STEPS) for made in kinds):
        whole = decoder.run(inputs)
        for count in batches:
            part, expected = decoder.run(first_rows(inputs, count)), first_rows(whole, count)
            if not all(np.array_equal(part[i], expected[i]) for i in range(len(expected))):
                return False
    return True


def plain_inputs(decoder: Steps, rows: int, steps: int, seed: int = 0) -> Inputs:
    """Arbitrary inputs in which every row takes all steps and asks for nothing."""
    inputs = random_inputs(decoder, rows, steps, seed)
    return inputs._replace(steps=np.full(rows, steps), sampling=neutral(rows, decoder.shape.vocabulary))


def reading_inputs(decoder: Steps, rows: int, steps: int, seed: int = 0) -> Inputs:
    """Arbitrary inputs in which every row is fed at all steps, and nobody asks for log-probabilities."""
    tokens = np.random.default_rng(seed).integers(decoder.shape.vocabulary, size=(steps, rows))
    return plain_inputs(decoder, rows, steps, seed)._replace(forced=tokens, logprobs=False)


def random_inputs(decoder: Steps, rows: int, steps: int, seed: int = 0) -> Inputs:
    """Arbitrary inputs of the right shapes: states as they occur, some rows fed, some filtered, some shorter."""
    random = np.random.default_rng(seed)
    vocabulary = decoder.shape.vocabulary
    forced = random.integers(vocabulary, size=(steps, rows))
    sampling = {
        name: random.choice(np.array(entry.tried, entry.dtype), entry.shape(rows, vocabulary))
        for name, entry in INPUTS.items()
    }
    return Inputs(
        token=random.integers(vocabulary, size=rows),
        state=_random_state(random, decoder.shape, rows),
        forced=np.where(random.random((steps, rows)) < 0.3, forced, -1),
        steps=random.integers(1, steps + 1, size=rows),
        uniform=(random.integers(2**23, size=(steps, rows)) / 2**23).astype(np.float32),
        sampling=sampling,
    )


def _random_state(random: np.random.Generator, shape: Shape, rows: int) -> Floats:
    """[A, L, B, H]: h in (-1, 1), as it always is, the others around 0."""
    size = (shape.layers, rows, shape.hidden)
    h, others = random.uniform(-1, 1, size), random.normal(0, 1, (shape.arrays - 1, *size))
    return np.concatenate([h[None], others]).astype(np.float32)


def first_rows(values: Values, count: int) -> Values:
    """The first `count` rows of some inputs or outputs."""
    return values.with_rows(lambda array, axis: array.take(range(count), axis))
