"""Rows that learn from their text, in every exported decoder: against the definition, and beside any other rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from charloom.bundle import DecoderKind
from charloom.controls.adaptation import LARGEST_STATE, layout
from charloom.engine.decoding.adaptation import fresh
from charloom.engine.decoding.decoder import Adaptation, Decoder, Inputs, neutral
from charloom.engine.decoding.invariance import constrained_inputs, first_rows, learning_inputs, random_inputs
from tests.unit.export.decoder_calls import assert_same_rows, exported, naive, picked_rows, random_model, with_sampling

KINDS = pytest.mark.parametrize("kind", list(DecoderKind), ids=lambda kind: kind.value)
FULL_PRECISION = pytest.mark.parametrize(
    "kind", [DecoderKind.ONNX_FP32, DecoderKind.TORCHSCRIPT], ids=lambda k: k.value
)


@FULL_PRECISION
@pytest.mark.parametrize("seed", range(3))
def test_rows_that_learn_are_what_plain_numpy_makes_of_them(kind: DecoderKind, seed: int, tmp_path: Path) -> None:
    """Beside rows that do not, some filtered, some penalised, some with fewer steps than others."""
    model = random_model(2)
    decoder, oracle = exported(model, kind, tmp_path), naive(model)
    inputs = learning_inputs(decoder, 40, 12, seed)
    result, expected = decoder.run(inputs), oracle.run(inputs)
    assert inputs.adaptation is not None
    learns = inputs.adaptation.learns
    assert 10 < learns.sum() < 40
    assert np.array_equal(result.tokens, expected.tokens)
    taken = np.arange(12)[:, None] < result.taken
    np.testing.assert_allclose(result.logprob[taken], expected.logprob[taken], atol=1e-4)
    np.testing.assert_allclose(result.adaptation[learns], expected.adaptation[learns], atol=1e-6)
    ordinary = decoder.run(inputs._replace(adaptation=None))
    assert np.array_equal(result.logprob[:, ~learns], ordinary.logprob[:, ~learns])
    assert (np.abs(result.logprob - ordinary.logprob)[taken & learns] > 0.01).sum() > 50


@FULL_PRECISION
def test_they_learn_what_their_constraint_chooses(kind: DecoderKind, tmp_path: Path) -> None:
    """Until it ends the text."""
    model = random_model(1)
    decoder, oracle = exported(model, kind, tmp_path), naive(model)
    inputs = constrained_inputs(decoder, 40, 12)._replace(adaptation=learning_inputs(decoder, 40, 12).adaptation)
    result, expected = decoder.run(inputs), oracle.run(inputs)
    assert inputs.adaptation is not None
    learns = inputs.adaptation.learns
    assert (result.taken < inputs.steps)[learns].any()
    assert np.array_equal(result.tokens, expected.tokens)
    np.testing.assert_allclose(result.adaptation[learns], expected.adaptation[learns], atol=1e-6)


@KINDS
def test_they_come_out_the_same_in_batches_of_every_size_and_change_no_other(
    kind: DecoderKind, decoders: dict[DecoderKind, Decoder]
) -> None:
    decoder = decoders[kind]
    inputs = learning_inputs(decoder, 64, 9, seed=1)
    whole = decoder.run(inputs)
    for count in (1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 63, 64):
        assert_same_rows(decoder.run(first_rows(inputs, count)), first_rows(whole, count))
    assert inputs.adaptation is not None
    ordinary = np.flatnonzero(~inputs.adaptation.learns).tolist()
    alone = decoder.run(picked_rows(inputs, ordinary)._replace(adaptation=None))
    beside = picked_rows(whole, ordinary)
    assert_same_rows(alone, beside._replace(adaptation=alone.adaptation))


@KINDS
def test_how_steps_are_divided_into_calls_changes_nothing(
    kind: DecoderKind, decoders: dict[DecoderKind, Decoder]
) -> None:
    decoder = decoders[kind]
    inputs = without_counts(learning_inputs(decoder, 8, 24, seed=2)._replace(steps=np.full(8, 24)))
    whole, parts, at = decoder.run(inputs), [], inputs
    for size in (1, 7, 16):
        cut = at._replace(forced=at.forced[:size], uniform=at.uniform[:size], steps=np.full(8, size))
        parts.append(decoder.run(cut))
        at = going_on(at, parts[-1].tokens[-1], parts[-1].state, parts[-1].adaptation, size)
    assert np.array_equal(np.concatenate([part.tokens for part in parts]), whole.tokens)
    assert np.array_equal(np.concatenate([part.logprob for part in parts]), whole.logprob)
    assert np.array_equal(parts[-1].adaptation, whole.adaptation)
    assert np.array_equal(parts[-1].state, whole.state)


def without_counts(inputs: Inputs) -> Inputs:
    """No row has penalties, which count what has occurred in the call."""
    rows, names = len(inputs.token), ("repetition", "presence", "frequency", "counts")
    free = neutral(rows, inputs.sampling["bias"].shape[1])
    return with_sampling(inputs, **{name: free[name] for name in names})


def going_on(inputs: Inputs, token: object, state: object, learnt: object, size: int) -> Inputs:
    """What is left of a call after its first `size` steps."""
    assert inputs.adaptation is not None
    return inputs._replace(
        token=np.asarray(token),
        state=np.asarray(state),
        forced=inputs.forced[size:],
        uniform=inputs.uniform[size:],
        adaptation=inputs.adaptation._replace(state=np.asarray(learnt)),
    )


@KINDS
def test_before_the_first_token_they_are_like_any_others(
    kind: DecoderKind, decoders: dict[DecoderKind, Decoder]
) -> None:
    decoder = decoders[kind]
    inputs = random_inputs(decoder, 12, 1, seed=3)
    size = decoder.shape.vocabulary
    found = decoder.run(inputs._replace(adaptation=Adaptation(np.ones(12, bool), fresh(12, size))))
    expected = decoder.run(inputs)
    assert_same_rows(found._replace(adaptation=expected.adaptation), expected)
    assert found.adaptation.any(axis=1).tolist() == (inputs.steps > 0).tolist()


@FULL_PRECISION
def test_a_vocabulary_that_is_too_large_for_a_bias_has_none(kind: DecoderKind, tmp_path: Path) -> None:
    vocabulary = 12_000
    model = random_model(1, hidden=4, embedding=2, vocabulary=vocabulary)
    assert (layout(vocabulary).bias, layout(10_000).bias) == (0, 10_000)
    assert sum(layout(10_000)) <= LARGEST_STATE
    decoder, oracle = exported(model, kind, tmp_path), naive(model)
    inputs = learning_inputs(decoder, 4, 5)
    result, expected = decoder.run(inputs), oracle.run(inputs)
    assert inputs.adaptation is not None
    learns = inputs.adaptation.learns
    np.testing.assert_allclose(result.adaptation[learns], expected.adaptation[learns], atol=1e-6)
