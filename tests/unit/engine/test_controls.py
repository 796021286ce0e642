"""A control that is new in the table reaches the decoders; those that were exported before it serve on without it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charloom.bundle import Bundle, DecoderKind
from charloom.controls import INPUTS, Control, Effect
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.decoding.decoder import Decoder, Inputs, Outputs
from charloom.engine.decoding.device_decoder import DeviceDecoder
from charloom.engine.decoding.invariance import is_batch_invariant, random_inputs
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.engine import Engine
from charloom.engine.errors import InvalidRequest
from tests.unit.engine.looms import Harness, Slow
from tests.unit.export.decoder_calls import exported, random_model, with_sampling

VOCABULARY = 19
"""Of no other test's model: inputs of rows that ask for nothing are kept by their sizes, and here they are one more."""
LIKED = 7
GRAPHS = [DecoderKind.ONNX_FP32, DecoderKind.ONNX_INT8]


@dataclass(frozen=True)
class FondSampling(Sampling):
    """What a request looks like when it has the new control."""

    fondness: float = 0.0


@pytest.fixture
def fondness(monkeypatch: pytest.MonkeyPatch) -> Control:
    """A control at the end of the table: how much one token is liked."""
    control = Control(
        name="fond",
        option="fondness",
        type=float,
        effect=Effect.FILTERS,
        neutral=0.0,
        lowest=0.0,
        highest=1.0,
        wanted="from 0 (off) to 1",
        words=f"likes token {LIKED}",
        tried=(0, 0.5),
    )
    monkeypatch.setitem(INPUTS, control.name, control)
    return control


class Fond(Slow):
    """Does what the control says, by the input of each row."""

    def run(self, inputs: Inputs) -> Outputs:
        bias = inputs.sampling["bias"].copy()
        bias[:, LIKED] += 100 * inputs.sampling["fond"]
        return super().run(with_sampling(inputs, bias=bias))


@pytest.mark.parametrize("kind", GRAPHS)
def test_what_a_request_asks_of_a_new_control_arrives_in_its_row(
    kind: DecoderKind, fondness: Control, tmp_path: Path
) -> None:
    decoder = exported(random_model(1, vocabulary=VOCABULARY), kind, tmp_path)
    assert decoder.lacks == frozenset()
    harness = Harness(Fond(decoder), 0)
    fond = harness.submit(seed=1, sampling=FondSampling(fondness=1))
    other = harness.submit(seed=1, sampling=FondSampling())
    assert fond.wait()
    assert other.wait()
    harness.loom.drain(1)
    assert set(fond.tokens) == {LIKED}
    assert len(set(other.tokens)) > 3


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_graph_that_is_built_with_a_new_control_is_checked_with_it(
    kind: DecoderKind, fondness: Control, tmp_path: Path
) -> None:
    decoder = exported(random_model(1, vocabulary=VOCABULARY), kind, tmp_path)
    inputs = random_inputs(decoder, 40, 2)
    assert set(inputs.sampling["fond"]) == {0, 0.5}
    assert is_batch_invariant(decoder, 5)
    with pytest.raises(ValueError, match="fond"):
        decoder.run(inputs._replace(sampling={n: a for n, a in inputs.sampling.items() if n != "fond"}))


@pytest.mark.parametrize("kind", list(DecoderKind), ids=str)
def test_an_exported_decoder_has_every_control_of_the_table(kind: DecoderKind, tmp_path: Path) -> None:
    assert exported(random_model(1, vocabulary=VOCABULARY), kind, tmp_path).lacks == frozenset()


def test_a_new_control_has_its_range_checked(fondness: Control) -> None:
    with pytest.raises(InvalidRequest, match=r"sampling.fondness: 2 is not allowed; give a number from 0 .off. to 1"):
        FondSampling(fondness=2)
    assert FondSampling(fondness=0.5).filters
    assert not FondSampling().asked


@pytest.mark.parametrize("kind", [*DecoderKind, "device"], ids=str)
def test_a_decoder_from_before_a_control_serves_calls_that_leave_it_neutral(
    kind: Any, bundle: Bundle, decoders: dict[DecoderKind, Decoder], request: pytest.FixtureRequest
) -> None:
    before = decoders[DecoderKind.TORCHSCRIPT if kind == "device" else kind]
    inputs = random_inputs(before, 6, 4)
    expected = before.run(inputs)
    request.getfixturevalue("fondness")
    if kind == "device":
        decoder: Decoder = DeviceDecoder(bundle.decoder_file(DecoderKind.TORCHSCRIPT), "cpu", rows=6)
    else:
        decoder = open_decoder(bundle, kind=kind)
    assert decoder.lacks == {"fond"}
    found = decoder.run(with_sampling(inputs, fond=np.zeros(6, np.float32)))
    assert np.array_equal(found.tokens, expected.tokens)


def test_a_call_that_asks_a_decoder_for_a_control_that_it_lacks_is_refused(bundle: Bundle, fondness: Control) -> None:
    async def ask() -> None:
        engine = Engine([(bundle, open_decoder(bundle))])
        try:
            await engine.generating.generate(GenerationRequest(sampling=FondSampling(fondness=0.5)))
        finally:
            await engine.drain(0)

    with pytest.raises(InvalidRequest, match=r"sampling.fondness: .* was exported before .* export it again, or leave"):
        asyncio.run(ask())
