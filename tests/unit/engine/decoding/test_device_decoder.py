"""The decoder that keeps everything on a device: its blocks, buffers and lanes, and on a CUDA device its graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from charloom.bundle import Bundle, DecoderKind
from charloom.engine.decoding import device_decoder
from charloom.engine.decoding.automaton import unconstrained
from charloom.engine.decoding.decoder import Decoder, Inputs, Outputs, nobody_learns
from charloom.engine.decoding.device_decoder import BLOCKS, DeviceDecoder
from charloom.engine.decoding.invariance import (
    constrained_inputs,
    first_rows,
    is_batch_invariant,
    learning_inputs,
    plain_inputs,
    random_inputs,
)
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.loom.jobs import FinishReason, Stops
from tests.oracles.one_text import generate_stepwise
from tests.unit.devices import CUDA, DEVICES
from tests.unit.engine.decoding.recorded_graphs import record_graphs
from tests.unit.engine.looms import Harness
from tests.unit.export.decoder_calls import assert_same_rows, exported, picked_rows, random_model, with_sampling
from tests.waiting import eventually

ROWS = 8


def learning_under_constraints(decoder: Decoder, rows: int, steps: int) -> Inputs:
    """Of every other part no row learns."""
    learning = learning_inputs(decoder, rows, steps).adaptation
    assert learning is not None
    learns = np.arange(rows) % (2 * ROWS) < ROWS
    return constrained_inputs(decoder, rows, steps)._replace(adaptation=learning._replace(learns=learns))


MAKES = pytest.mark.parametrize(
    "make", [random_inputs, plain_inputs, constrained_inputs, learning_inputs, learning_under_constraints]
)
Make = Callable[[Decoder, int, int], Inputs]


@pytest.fixture(scope="module", params=["recorded", *DEVICES])
def where(request: pytest.FixtureRequest) -> Iterator[str]:
    """A device; "recorded" is the CPU with what stands there for CUDA's streams and graphs."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "recorded":
            record_graphs(patch)
        yield "cpu" if request.param == "recorded" else request.param


@pytest.fixture(scope="module")
def file(bundle: Bundle) -> Path:
    return bundle.decoder_file(DecoderKind.TORCHSCRIPT)


@pytest.fixture(scope="module")
def device(file: Path, where: str) -> DeviceDecoder:
    return DeviceDecoder(file, where, rows=ROWS)


def assert_same(found: Outputs, expected: Outputs) -> None:
    assert_same_rows(on_host(found), on_host(expected))


def on_host(outputs: Outputs) -> Outputs:
    return Outputs(*(part.cpu().numpy() if isinstance(part, torch.Tensor) else part for part in outputs))


def at_once(calls: Sequence[Callable[[], None]]) -> None:
    """Make all calls at the same time, a thread each; the first error of one is raised."""
    barrier, problems = threading.Barrier(len(calls)), list[BaseException]()

    def run(call: Callable[[], None]) -> None:
        try:
            barrier.wait(60)
            call()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


@MAKES
@pytest.mark.parametrize(("rows", "steps"), [(1, 1), (3, 16), (8, 19), (13, 35), (50, 3)])
def test_it_computes_what_the_direct_decoder_computes(
    make: Make, rows: int, steps: int, device: DeviceDecoder, decoders: dict[DecoderKind, Decoder]
) -> None:
    """In blocks of steps and parts of rows. The state is close and not equal: the batches have other sizes."""
    inputs = make(device, rows, steps)
    found, expected = device.run(inputs), decoders[DecoderKind.TORCHSCRIPT].run(inputs)
    assert np.array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.logprob, expected.logprob, atol=1e-4)
    np.testing.assert_allclose(found.state[0], expected.state[0], atol=1e-4)
    assert np.array_equal(found.top_tokens, expected.top_tokens)
    assert np.array_equal(found.taken, expected.taken)
    assert np.array_equal(found.automaton, expected.automaton)
    np.testing.assert_allclose(found.allowed, expected.allowed, atol=1e-4)
    np.testing.assert_allclose(found.adaptation, expected.adaptation, atol=1e-4)


def test_its_rows_are_independent_of_each_other(device: DeviceDecoder) -> None:
    assert is_batch_invariant(device, 20)


def test_rows_are_the_same_beside_any_others_in_any_order(device: DeviceDecoder) -> None:
    inputs, random = random_inputs(device, 20, 18), np.random.default_rng(2)
    whole = device.run(inputs)
    for count in (1, 3, 8, 9, 20):
        rows = random.permutation(20)[:count].tolist()
        assert_same(device.run(picked_rows(inputs, rows)), picked_rows(whole, rows))


def test_rows_that_ask_for_nothing_are_the_same_beside_rows_that_filter(device: DeviceDecoder) -> None:
    """They take other steps, in another graph."""
    plain, full = plain_inputs(device, 6, 18), random_inputs(device, 6, 18)
    both = {
        name: array if name == "top" else np.concatenate([array[:3], full.sampling[name][3:]])
        for name, array in plain.sampling.items()
    }
    mixed, alone = device.run(with_sampling(plain, **both)), device.run(plain)
    assert_same(picked_rows(mixed, [0, 1, 2]), picked_rows(alone, [0, 1, 2]))


@pytest.mark.parametrize("where", DEVICES, indirect=True)
def test_its_rows_are_independent_in_a_model_of_the_size_that_is_served(where: str, tmp_path: Path) -> None:
    """Libraries choose kernels by size, so a small model alone shows little: 2 x 512, 96 symbols, and today's rows."""
    exported(random_model(2, hidden=512, embedding=64, vocabulary=96), DecoderKind.TORCHSCRIPT, tmp_path)
    decoder = DeviceDecoder(tmp_path / DecoderKind.TORCHSCRIPT.file, where)
    rows = device_decoder.ROWS + 1
    inputs = random_inputs(decoder, rows, 2)
    whole = decoder.run(inputs)
    for count in (1, 2, 31, 64, 255, 256):
        assert_same(decoder.run(first_rows(inputs, count)), first_rows(whole, count))


@pytest.mark.parametrize("cuts", [[35], [1] * 35, [16, 16, 3], [7, 28], [17, 1, 17]])
def test_a_text_is_the_same_however_it_is_cut_into_calls(cuts: list[int], device: DeviceDecoder) -> None:
    """To the bit, with the state carried from call to call in main memory, as that of a stored session is."""
    inputs = random_inputs(device, 9, 35)._replace(steps=np.full(9, 35))
    whole, part, done = device.run(inputs), inputs, 0
    counts = part.sampling["counts"].copy()
    for steps in cuts:
        here = slice(done, done + steps)
        part = part._replace(forced=inputs.forced[here], uniform=inputs.uniform[here], steps=np.full(9, steps))
        found = device.run(part)
        assert np.array_equal(found.tokens, whole.tokens[here])
        assert np.array_equal(found.logprob, whole.logprob[here])
        np.add.at(counts, (np.arange(9), found.tokens), 1)
        part = with_sampling(part, counts=counts)._replace(token=found.tokens[-1], state=found.state)
        done += steps
    assert np.array_equal(part.state, whole.state)


def test_state_that_comes_on_the_device_goes_back_there(device: DeviceDecoder, where: str) -> None:
    inputs = random_inputs(device, 5, 4)
    state = torch.from_numpy(inputs.state).to(where)
    found, expected = device.run(inputs._replace(state=state)), device.run(inputs)  # type: ignore[arg-type]
    assert isinstance(found.state, torch.Tensor)
    assert found.state.device.type == where
    assert isinstance(expected.state, np.ndarray)
    assert_same(found, expected)


@MAKES
def test_parts_of_a_call_have_buffers_of_their_own(make: Make, file: Path, where: str) -> None:
    """More parts than lanes, as many, and one lane for all."""
    decoders = [DeviceDecoder(file, where, rows=ROWS, lanes=lanes) for lanes in (1, 3, 5)]
    inputs = make(decoders[0], 5 * ROWS - 1, 19)
    expected, *others = [decoder.run(inputs) for decoder in decoders]
    for found in others:
        assert_same(found, expected)


def test_threads_have_buffers_of_their_own(device: DeviceDecoder) -> None:
    calls = [random_inputs(device, 6 + 5 * seed, 20, seed) for seed in range(4)]
    expected = [device.run(inputs) for inputs in calls]

    def run(number: int) -> None:
        for _ in range(10):
            assert_same(device.run(calls[number]), expected[number])

    at_once([lambda number=number: run(number) for number in range(len(calls))])  # type: ignore[misc]


def test_lanes_are_taken_again_and_belong_to_no_thread(file: Path, where: str) -> None:
    decoder = DeviceDecoder(file, where, rows=ROWS)
    inputs = plain_inputs(decoder, 2, 1)
    for _ in range(3):
        at_once([lambda: None, lambda: assert_same(decoder.run(inputs), decoder.run(inputs))])
    assert len(decoder._free) == 1


def test_a_call_that_fails_gives_its_lanes_back(file: Path, where: str) -> None:
    decoder = DeviceDecoder(file, where, rows=ROWS)
    inputs = random_inputs(decoder, 2 * ROWS, 5)
    expected = decoder.run(inputs)
    with pytest.raises(RuntimeError):
        decoder.run(inputs._replace(uniform=inputs.uniform[:, :ROWS]))
    assert len(decoder._free) == 2
    assert_same(decoder.run(inputs), expected)


@MAKES
def test_a_call_that_fails_leaves_nothing_of_its_own_to_later_ones(make: Make, file: Path, where: str) -> None:
    decoder, other = DeviceDecoder(file, where, rows=ROWS), DeviceDecoder(file, where, rows=ROWS)
    broken = make(decoder, ROWS, 5)
    with pytest.raises(RuntimeError):
        decoder.run(broken._replace(uniform=broken.uniform[:, :2]))
    inputs = random_inputs(decoder, ROWS, 5)
    assert_same(decoder.run(inputs), other.run(inputs))


def test_the_first_calls_of_several_decoders_at_once(file: Path, where: str) -> None:
    """On a CUDA device each captures its graphs, of which a process may make one at a time, while others replay."""
    decoders = [DeviceDecoder(file, where, rows=ROWS) for _ in range(2)]
    calls = [(decoder, make(decoder, 6, 19)) for decoder in decoders for make in (random_inputs, plain_inputs) * 2]
    expected = {full: decoders[0].run(calls[full][1]) for full in (0, 1)}

    def run(number: int) -> None:
        decoder, inputs = calls[number]
        for _ in range(5):
            assert_same(decoder.run(inputs), expected[number % 2])

    at_once([lambda number=number: run(number) for number in range(len(calls))])  # type: ignore[misc]


@pytest.mark.parametrize("make", [random_inputs, plain_inputs])
@pytest.mark.parametrize("where", ["recorded", CUDA], indirect=True)
def test_a_graph_does_what_was_captured(make: Make, file: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit what the same kernels do when they are launched one by one; each lane captures a block once."""
    graphs, new = list[object](), torch.cuda.CUDAGraph
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graphs.append(new()) or graphs[-1])
    with_graphs, without = DeviceDecoder(file, where, rows=ROWS), DeviceDecoder(file, where, rows=ROWS, graphs=False)
    inputs = make(without, 2 * ROWS, 35)
    expected = without.run(inputs)
    assert graphs == []
    for _ in range(3):
        assert_same(with_graphs.run(inputs), expected)
    assert len(graphs) == 2 * len(BLOCKS)


def test_fp32_is_not_tf32_whatever_the_process_had_set(file: Path, where: str) -> None:
    torch.set_float32_matmul_precision("high")
    decoder = DeviceDecoder(file, where, rows=ROWS)
    assert torch.get_float32_matmul_precision() == "highest"
    exact = torch.jit.load(file, map_location="cpu").double()  # type: ignore[no-untyped-call]
    inputs = plain_inputs(decoder, ROWS, 1)
    vocabulary = decoder.shape.vocabulary
    given = inputs.by_name(decoder.lacks) | unconstrained(ROWS, vocabulary).by_name() | nobody_learns(vocabulary)
    arrays = {n: torch.from_numpy(a) for n, a in given.items() if n != "top"}
    arrays = {name: value.double() if value.is_floating_point() else value for name, value in arrays.items()}
    expected = exact(**arrays, top=0, filtered=False, penalised=False, constrained=False, adaptive=False)[1].numpy()
    np.testing.assert_allclose(decoder.run(inputs).logprob, expected, atol=2e-5)


@pytest.mark.parametrize("where", DEVICES, indirect=True)
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


@pytest.mark.parametrize("where", DEVICES, indirect=True)
def test_a_text_that_is_resumed_on_a_loom_is_the_text_that_was_never_stopped(
    device: DeviceDecoder, bundle: Bundle
) -> None:
    harness = Harness(device, bundle.manifest.start_token, workers=2)
    whole = harness.submit(seed=5, max_tokens=130)
    others = [harness.submit(seed=n, max_tokens=300) for n in range(10, 20)]
    first = harness.submit(seed=5, max_tokens=47)
    rest = harness.submit(start=first.wait().snapshot, max_tokens=83)
    assert np.array_equal(rest.wait().snapshot.state, whole.wait().snapshot.state)
    assert first.tokens + rest.tokens == whole.tokens
    for other in others:
        other.wait()
    harness.loom.drain(1)


def test_jobs_that_run_and_jobs_that_wait_are_told_that_it_drains(device: DeviceDecoder, bundle: Bundle) -> None:
    harness = Harness(device, bundle.manifest.start_token, max_rows=1)
    running = harness.submit(seed=1, max_tokens=10**6)
    assert running.began.wait(60)
    waiting = [harness.submit(seed=seed, max_tokens=10**6) for seed in (2, 3)]
    eventually(lambda: harness.loom.waiting == 2)
    assert harness.loom.drain(0)
    assert [reader.wait().reason for reader in (running, *waiting)] == [FinishReason.DRAINING] * 3
    assert running.wait().snapshot.position == len(running.tokens) > 0
    assert [(reader.wait().snapshot.seed, reader.wait().snapshot.position) for reader in waiting] == [(2, 0), (3, 0)]
