"""The decoder that keeps everything on a device, on the CPU: its blocks, buffers and lanes, without the capture."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from charloom.bundle import Bundle, DecoderKind
from charloom.engine.decoding.decoder import Decoder, Inputs, Outputs
from charloom.engine.decoding.device_decoder import DeviceDecoder
from charloom.engine.decoding.invariance import is_batch_invariant, plain_inputs, random_inputs
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.loom.jobs import Stops
from tests.oracles.one_text import generate_stepwise
from tests.unit.engine.looms import Harness

ROWS = 8


@pytest.fixture(scope="module")
def device(bundle: Bundle) -> DeviceDecoder:
    return DeviceDecoder(bundle.decoder_file(DecoderKind.TORCHSCRIPT), "cpu", rows=ROWS)


@pytest.mark.parametrize("make", [random_inputs, plain_inputs])
@pytest.mark.parametrize(("rows", "steps"), [(1, 1), (3, 16), (8, 19), (13, 35)])
def test_it_computes_what_the_direct_decoder_computes(
    make: Callable[[Decoder, int, int], Inputs],
    rows: int,
    steps: int,
    device: DeviceDecoder,
    decoders: dict[DecoderKind, Decoder],
) -> None:
    """In blocks of steps and parts of rows. The state is close and not equal: the batches have other sizes."""
    inputs = make(device, rows, steps)
    found, expected = device.run(inputs), decoders[DecoderKind.TORCHSCRIPT].run(inputs)
    assert np.array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.logprob, expected.logprob, atol=1e-4)
    np.testing.assert_allclose(found.state[0], expected.state[0], atol=1e-4)
    assert np.array_equal(found.top_tokens, expected.top_tokens)


def test_its_rows_are_independent_of_each_other(device: DeviceDecoder) -> None:
    assert is_batch_invariant(device, 20)


def test_state_that_comes_on_the_device_goes_back_there(device: DeviceDecoder) -> None:
    inputs = random_inputs(device, 5, 4)
    state = torch.from_numpy(inputs.state)
    found, expected = device.run(inputs._replace(state=state)), device.run(inputs)  # type: ignore[arg-type]
    assert isinstance(found.state, torch.Tensor)
    assert isinstance(expected.state, np.ndarray)
    assert np.array_equal(found.state, expected.state)
    assert np.array_equal(found.tokens, expected.tokens)


def test_threads_have_buffers_of_their_own(device: DeviceDecoder) -> None:
    calls = [random_inputs(device, 6, 20, seed) for seed in range(4)]
    expected = [device.run(inputs) for inputs in calls]
    found: dict[int, Outputs] = {}

    def run(number: int) -> None:
        for _ in range(10):
            found[number] = device.run(calls[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, outputs in enumerate(expected):
        assert all(np.array_equal(a, b) for a, b in zip(found[number], outputs, strict=True))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_loom_on_it_gives_each_job_its_own_text(device: DeviceDecoder, bundle: Bundle, workers: int) -> None:
    harness = Harness(device, bundle.manifest.start_token, workers=workers)
    sampling = Sampling(top_k=9, presence_penalty=0.5)
    readers = [
        harness.submit(seed=n, prompt=[1] * (n % 3), max_tokens=150 + n, sampling=sampling if n % 2 else None)
        for n in range(12)
    ]
    stopping = harness.submit(seed=99, max_tokens=2000, stops=Stops([[5, 9]]))
    for n, reader in enumerate(readers):
        end = reader.wait().snapshot
        tokens, snapshot = generate_stepwise(
            device, harness.fresh(n), [1] * (n % 3), 150 + n, sampling if n % 2 else Sampling()
        )
        assert reader.tokens == tokens
        assert np.array_equal(end.state, snapshot.state)
    stopping.wait()
    harness.loom.drain(1)
