"""A row's outputs are bit-identical whatever the other rows are, for every exported decoder.

Libraries choose their kernels by the processor: this holds on the one that the tests run on, with and without VNNI.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from charloom.bundle import DecoderKind
from charloom.controls import FREE
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.invariance import constrained_inputs, first_rows, random_inputs
from tests.unit.export.decoder_calls import assert_same_rows, exported, picked_rows, random_model, with_sampling
from tests.unit.training.training_runs import random_uniforms

KINDS = pytest.mark.parametrize("kind", list(DecoderKind), ids=lambda kind: kind.value)
ROWS = 256


@KINDS
def test_rows_come_out_the_same_in_batches_of_every_size(
    kind: DecoderKind, decoders: dict[DecoderKind, Decoder]
) -> None:
    decoder = decoders[kind]
    inputs = random_inputs(decoder, ROWS, 3, seed=1)
    whole = decoder.run(inputs)
    for count in range(1, ROWS + 1):
        assert_same_rows(decoder.run(first_rows(inputs, count)), first_rows(whole, count))


@KINDS
def test_rows_with_constraints_come_out_the_same_in_batches_of_every_size_and_change_no_other(
    kind: DecoderKind, decoders: dict[DecoderKind, Decoder]
) -> None:
    decoder = decoders[kind]
    inputs = constrained_inputs(decoder, 64, 9, seed=1)
    assert inputs.constraints is not None
    whole = decoder.run(inputs)
    for count in range(1, 65):
        assert_same_rows(decoder.run(first_rows(inputs, count)), first_rows(whole, count))
    free = np.flatnonzero(inputs.constraints.state == FREE).tolist()
    alone = decoder.run(picked_rows(inputs, free)._replace(constraints=None))
    assert_same_rows(alone, picked_rows(whole, free))


@KINDS
def test_rows_come_out_the_same_in_any_order_beside_any_others(
    kind: DecoderKind, decoders: dict[DecoderKind, Decoder]
) -> None:
    decoder, random = decoders[kind], np.random.default_rng(2)
    inputs = random_inputs(decoder, ROWS, 3, seed=3)
    whole = decoder.run(inputs)
    for count in (1, 2, 3, 4, 5, 8, 17, 64, ROWS):
        rows = random.permutation(ROWS)[:count].tolist()
        assert_same_rows(decoder.run(picked_rows(inputs, rows)), picked_rows(whole, rows))


@KINDS
def test_rows_come_out_the_same_in_a_model_of_the_size_that_is_served(kind: DecoderKind, tmp_path: Path) -> None:
    """Libraries choose kernels by size, so a small model alone shows little: 2 x 512, 96 symbols."""
    decoder = exported(random_model(2, hidden=512, embedding=64, vocabulary=96), kind, tmp_path)
    inputs = random_inputs(decoder, ROWS, 2, seed=4)
    whole = decoder.run(inputs)
    for count in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255):
        assert_same_rows(decoder.run(first_rows(inputs, count)), first_rows(whole, count))


@KINDS
def test_steps_in_one_call_are_steps_in_many_calls(kind: DecoderKind, decoders: dict[DecoderKind, Decoder]) -> None:
    decoder = decoders[kind]
    inputs = random_inputs(decoder, 9, 8, seed=5)._replace(steps=np.full(9, 8))
    whole = decoder.run(inputs)
    part = inputs
    for step in range(8):
        here = slice(step, step + 1)
        part = part._replace(forced=inputs.forced[here], uniform=inputs.uniform[here], steps=np.ones(9, np.int64))
        result = decoder.run(part)
        assert np.array_equal(result.tokens, whole.tokens[here])
        assert np.array_equal(result.logprob, whole.logprob[here])
        counts = part.sampling["counts"].copy()
        counts[np.arange(9), result.tokens[0]] += 1
        part = with_sampling(part, counts=counts)._replace(token=result.tokens[0], state=result.state)
    assert np.array_equal(part.state, whole.state)


@KINDS
def test_a_row_is_frozen_after_its_steps_and_from_the_start_with_none(
    kind: DecoderKind, decoders: dict[DecoderKind, Decoder]
) -> None:
    decoder = decoders[kind]
    counts = np.array([0, 3, 6, 0, 1], np.int64)
    inputs = random_inputs(decoder, 5, 6, seed=6)._replace(steps=counts)
    result = decoder.run(inputs)
    for row, count in enumerate(counts):
        if count == 0:
            assert np.array_equal(result.state[:, :, row], inputs.state[:, :, row])
            assert result.tokens[:, row].tolist() == [inputs.token[row]] * 6
            continue
        alone = picked_rows(inputs, [row])
        expected = decoder.run(alone._replace(forced=alone.forced[:count], uniform=alone.uniform[:count]))
        assert np.array_equal(result.state[:, :, [row]], expected.state)
        assert np.array_equal(result.tokens[:count, [row]], expected.tokens)
        assert np.array_equal(result.logprob[:count, [row]], expected.logprob)
        assert set(result.tokens[count:, row]) <= {result.tokens[count - 1, row]}


@KINDS
def test_a_call_does_not_change_its_inputs(kind: DecoderKind, decoders: dict[DecoderKind, Decoder]) -> None:
    inputs = random_inputs(decoders[kind], 5, 4, seed=7)._replace(uniform=random_uniforms(7, (4, 5)))
    before = [value.copy() for value in inputs.by_name().values()]
    decoders[kind].run(inputs)
    for value, kept in zip(inputs.by_name().values(), before, strict=True):
        assert np.array_equal(value, kept)
