"""Whether a decoder's rows are independent of each other on this machine, bit for bit.

Knows: the decoder contract. Does not know: models, settings.
"""

from __future__ import annotations

import numpy as np

from charloom.controls import INPUTS
from charloom.engine.decoding.decoder import Decoder, Inputs, neutral

CHECKED_STEPS = 2


def is_batch_invariant(decoder: Decoder, most_rows: int) -> bool:
    """Whether the rows of a batch of `most_rows` come out the same in smaller batches, with and without filters."""
    batches = [count for power in range(9) for count in (2**power, 2**power + 1) if count < most_rows]
    for inputs in (random_inputs(decoder, most_rows, CHECKED_STEPS), plain_inputs(decoder, most_rows, CHECKED_STEPS)):
        whole = decoder.run(inputs)
        for count in batches:
            part = decoder.run(first_rows(inputs, count))
            # Every output has its rows in the second axis.
            if not all(np.array_equal(part[i], whole[i][:, :count]) for i in range(len(whole))):
                return False
    return True


def plain_inputs(decoder: Decoder, rows: int, steps: int, seed: int = 0) -> Inputs:
    """Arbitrary inputs in which every row takes all steps and asks for nothing."""
    inputs = random_inputs(decoder, rows, steps, seed)
    return inputs._replace(steps=np.full(rows, steps), sampling=neutral(rows, decoder.shape.vocabulary))


def random_inputs(decoder: Decoder, rows: int, steps: int, seed: int = 0) -> Inputs:
    """Arbitrary inputs of the right shapes: states as they occur, some rows fed, some filtered, some shorter."""
    random = np.random.default_rng(seed)
    layers, hidden, vocabulary = decoder.shape
    state = (layers, rows, hidden)
    forced = random.integers(vocabulary, size=(steps, rows))
    sampling = {
        name: random.choice(np.array(entry.tried, entry.dtype), entry.shape(rows, vocabulary))
        for name, entry in INPUTS.items()
    }
    return Inputs(
        token=random.integers(vocabulary, size=rows),
        h=random.uniform(-1, 1, state).astype(np.float32),
        c=random.normal(0, 1, state).astype(np.float32),
        forced=np.where(random.random((steps, rows)) < 0.3, forced, -1),
        steps=random.integers(1, steps + 1, size=rows),
        uniform=(random.integers(2**23, size=(steps, rows)) / 2**23).astype(np.float32),
        sampling=sampling,
    )


def first_rows(inputs: Inputs, count: int) -> Inputs:
    """The first `count` rows of some inputs."""
    return inputs.with_rows(lambda array, axis: np.ascontiguousarray(array.take(range(count), axis)))
