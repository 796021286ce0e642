"""Whether a decoder's rows are independent of each other on this machine, bit for bit.

Knows: the decoder contract. Does not know: models, settings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from charloom.engine.decoder import ROW_AXIS, Decoder, Inputs

CHECKED_ROWS = 32
CHECKED_BATCHES = (1, 2, 3, 5, 16)
CHECKED_STEPS = 2


def is_batch_invariant(decoder: Decoder, rows: int = CHECKED_ROWS, batches: Sequence[int] = CHECKED_BATCHES) -> bool:
    """Whether the first rows of a batch of `rows` come out the same in each smaller batch."""
    inputs = random_inputs(decoder, rows, CHECKED_STEPS)
    whole = decoder.run(inputs)
    for count in batches:
        part = decoder.run(first_rows(inputs, count))
        if not (
            np.array_equal(part.tokens, whole.tokens[:, :count])
            and np.array_equal(part.logprob, whole.logprob[:, :count])
            and np.array_equal(part.h, whole.h[:, :count])
            and np.array_equal(part.c, whole.c[:, :count])
        ):
            return False
    return True


def random_inputs(decoder: Decoder, rows: int, steps: int, seed: int = 0) -> Inputs:
    """Arbitrary inputs of the right shapes: states as they occur, some rows fed, some filtered, some shorter."""
    random = np.random.default_rng(seed)
    layers, hidden, vocabulary = decoder.shape
    state = (layers, rows, hidden)
    forced = random.integers(vocabulary, size=(steps, rows))
    return Inputs(
        token=random.integers(vocabulary, size=rows),
        h=random.uniform(-1, 1, state).astype(np.float32),
        c=random.normal(0, 1, state).astype(np.float32),
        forced=np.where(random.random((steps, rows)) < 0.3, forced, -1),
        steps=random.integers(1, steps + 1, size=rows),
        uniform=(random.integers(2**23, size=(steps, rows)) / 2**23).astype(np.float32),
        temperature=random.choice(np.array([0, 0.5, 1, 1.5], np.float32), rows),
        top_k=random.choice([0, 1, 3, 10], rows),
        top_p=random.choice(np.array([0.5, 0.9, 1], np.float32), rows),
        min_p=random.choice(np.array([0, 0.05, 0.3], np.float32), rows),
        bias=np.zeros((rows, vocabulary), np.float32),
    )


def first_rows(inputs: Inputs, count: int) -> Inputs:
    """The first `count` rows of some inputs."""
    return Inputs(
        *(
            np.ascontiguousarray(value[:, :count] if ROW_AXIS[name] else value[:count])
            for name, value in inputs._asdict().items()
        )
    )
