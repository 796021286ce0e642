"""Whether a decoder's rows are independent of each other on this machine, bit for bit."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from charloom.controls import ADAPTATION_INPUTS, INPUTS
from charloom.engine.decoding.adaptation import fresh, learn, predict
from charloom.engine.decoding.automaton import Automaton, distances, table_of
from charloom.engine.decoding.decoder import Adaptation, Floats, Inputs, Outputs, Shape, Steps, neutral

CHECKED_STEPS = 2
LEARNT = 32
"""Tokens that rows have learnt from."""
LEARNERS = 16
"""How many rows have learnt something of their own; the others what these have, as learning takes its time."""
Values = TypeVar("Values", Inputs, Outputs)


def is_batch_invariant(decoder: Steps, most_rows: int) -> bool:
    """Whether the rows of a batch of `most_rows` come out the same in smaller batches, whatever they ask for."""
    batches = [count for power in range(9) for count in (2**power, 2**power + 1) if count < most_rows]
    kinds = [random_inputs, plain_inputs, reading_inputs, constrained_inputs]
    if decoder.lacks.isdisjoint(ADAPTATION_INPUTS):
        kinds.append(learning_inputs)
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


def generating_inputs(decoder: Steps, rows: int, steps: int, seed: int = 0) -> Inputs:
    """Arbitrary inputs in which every row generates at all steps, and nobody asks for log-probabilities."""
    return plain_inputs(decoder, rows, steps, seed)._replace(forced=np.full((steps, rows), -1), logprobs=False)


def reading_inputs(decoder: Steps, rows: int, steps: int, seed: int = 0) -> Inputs:
    """Arbitrary inputs in which every row is fed at all steps, and nobody asks for log-probabilities."""
    tokens = np.random.default_rng(seed).integers(decoder.shape.vocabulary, size=(steps, rows))
    return plain_inputs(decoder, rows, steps, seed)._replace(forced=tokens, logprobs=False)


def constrained_inputs(decoder: Steps, rows: int, steps: int, seed: int = 0) -> Inputs:
    """Arbitrary inputs as `random_inputs`, in which some rows have constraints."""
    random, size = np.random.default_rng(seed), decoder.shape.vocabulary
    automata = [random_automaton(random, int(random.integers(1, 8)), size) for _ in range(3)]
    which = random.integers(len(automata) + 1, size=rows)
    inputs = random_inputs(decoder, rows, steps, seed)
    left = inputs.steps + random.integers(8, 16, size=rows)
    return inputs._replace(constraints=table_of([[*automata, None][number] for number in which], left, size))


def learning_inputs(decoder: Steps, rows: int, steps: int, seed: int = 0) -> Inputs:
    """Arbitrary inputs as `random_inputs`, in which some rows learn, and have learnt from a repeated phrase."""
    random, size = np.random.default_rng(seed), decoder.shape.vocabulary
    learners = min(rows, LEARNERS)
    state, phrases = fresh(learners, size), random.integers(size, size=(LEARNT // 4, learners))
    for token in np.tile(phrases, (4, 1)):
        logits = random.normal(0, 3, (learners, size)).astype(np.float32)
        state = learn(state, predict(logits, state), token)
    of_row = np.resize(np.arange(learners), rows)
    state, phrases = state[of_row], phrases[:, of_row]
    learns = random.random(rows) < 0.7
    inputs = random_inputs(decoder, rows, steps, seed)
    # Some go on as the text would.
    forced = np.where(random.random((1, rows)) < 0.5, np.resize(phrases, (steps, rows)), inputs.forced)
    return inputs._replace(forced=forced, adaptation=Adaptation(learns, state))


def random_automaton(random: np.random.Generator, states: int, vocabulary: int) -> Automaton:
    """A chain from the first state to the last one, where a text may end, and arbitrary ways between the states."""
    ways = random.integers(states, size=(states, vocabulary), dtype=np.int32)
    ways[random.random(ways.shape) < 0.6] = -1
    tokens = random.integers(vocabulary, size=states - 1)
    ways[np.arange(states - 1), tokens] = np.arange(1, states)
    return Automaton(ways, distances(ways, np.arange(states) == states - 1))


def random_inputs(decoder: Steps, rows: int, steps: int, seed: int = 0) -> Inputs:
    """Arbitrary inputs of the right shapes: states as they occur, some rows fed, some filtered, some shorter."""
    random = np.random.default_rng(seed)
    vocabulary = decoder.shape.vocabulary
    forced = random.integers(vocabulary, size=(steps, rows))
    sampling = {
        name: random.choice(np.array(entry.tried, entry.dtype), entry.shape(rows, vocabulary))
        for name, entry in INPUTS.items()
    }
    sampling["top"] = sampling["top"].clip(max=vocabulary)
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
