"""Steps that read, where nobody asks for log-probabilities, leave out the output layer and change nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from charloom.bundle import DecoderKind
from charloom.engine.decoding.decoder import Decoder, Inputs
from charloom.engine.decoding.invariance import plain_inputs, random_inputs
from charloom.engine.decoding.onnx_decoder import OnnxDecoder
from tests.unit.export.decoder_calls import exported, random_model, with_sampling

ROWS, STEPS, READ = 6, 9, 4
GRAPHS = pytest.mark.parametrize("kind", [DecoderKind.ONNX_FP32, DecoderKind.ONNX_INT8], ids=lambda kind: kind.value)
WRITTEN_BEFORE = Path(__file__).resolve().parents[2] / "fixtures" / "written-by-0.1" / "bundle"


@pytest.fixture(scope="module", params=[1, 2], ids=["one layer", "two layers"])
def graphs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[DecoderKind, Decoder]:
    model, directory = random_model(request.param), tmp_path_factory.mktemp("reading")
    return {kind: exported(model, kind, directory) for kind in (DecoderKind.ONNX_FP32, DecoderKind.ONNX_INT8)}


def fed_at_first(inputs: Inputs) -> Inputs:
    """All rows are fed for `READ` steps; at the next one a row samples."""
    forced = inputs.forced.copy()
    forced[:READ] = np.abs(forced[:READ])
    forced[READ] = -1
    return inputs._replace(forced=forced)


def read_steps(decoder: Decoder, inputs: Inputs) -> int:
    """How many steps were taken without the output layer: these have no log-probability, and no other step has none.

    The rest of the call is as where somebody asks, bit for bit.
    """
    told, untold = decoder.run(inputs), decoder.run(inputs._replace(logprobs=False))
    assert (told.logprob < 0).all()
    without = int((untold.logprob == 0).all(axis=1).sum())
    assert (untold.logprob[:without] == 0).all()
    assert np.array_equal(untold.logprob[without:], told.logprob[without:])
    for name in ("tokens", "state", "top_tokens", "top_logprob"):
        assert np.array_equal(getattr(untold, name), getattr(told, name)), name
    return without


@GRAPHS
def test_steps_before_the_first_sample_are_read(kind: DecoderKind, graphs: dict[DecoderKind, Decoder]) -> None:
    decoder = graphs[kind]
    inputs = fed_at_first(plain_inputs(decoder, ROWS, STEPS))
    assert read_steps(decoder, inputs) == READ
    assert read_steps(decoder, inputs._replace(forced=np.abs(inputs.forced))) == STEPS
    first = inputs.forced.copy()
    first[0, 2] = -1
    assert read_steps(decoder, inputs._replace(forced=first)) == 0


@GRAPHS
def test_only_until_the_first_row_has_taken_its_steps(kind: DecoderKind, graphs: dict[DecoderKind, Decoder]) -> None:
    decoder = graphs[kind]
    inputs = plain_inputs(decoder, ROWS, STEPS)
    inputs = inputs._replace(forced=np.abs(inputs.forced))
    for shortest in (0, 1, 3):
        assert read_steps(decoder, inputs._replace(steps=np.array([STEPS, 5, shortest, 4, STEPS, 7]))) == shortest


@GRAPHS
def test_rows_with_biases_and_filters_are_read_like_others(
    kind: DecoderKind, graphs: dict[DecoderKind, Decoder]
) -> None:
    decoder = graphs[kind]
    inputs = fed_at_first(random_inputs(decoder, ROWS, STEPS))._replace(steps=np.full(ROWS, STEPS))
    off = {name: np.full(ROWS, value, np.float32) for name, value in (("repetition", 1), ("presence", 0))}
    inputs = with_sampling(inputs, **off, frequency=np.zeros(ROWS, np.float32), top=np.zeros(1, np.int64))
    assert read_steps(decoder, inputs) == READ


@GRAPHS
@pytest.mark.parametrize("asked", ["presence", "top"])
def test_where_tokens_are_counted_or_alternatives_told_no_step_is(
    kind: DecoderKind, asked: str, graphs: dict[DecoderKind, Decoder]
) -> None:
    decoder = graphs[kind]
    inputs = fed_at_first(plain_inputs(decoder, ROWS, STEPS))
    value = np.array([2]) if asked == "top" else np.array([0, 0, 0, 0, 0, 0.5], np.float32)
    assert read_steps(decoder, with_sampling(inputs, **{asked: value})) == 0


def test_a_graph_from_before_always_tells() -> None:
    decoder = OnnxDecoder(WRITTEN_BEFORE / DecoderKind.ONNX_INT8.file, DecoderKind.ONNX_INT8.value)
    assert read_steps(decoder, fed_at_first(plain_inputs(decoder, ROWS, STEPS))) == 0
