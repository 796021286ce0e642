"""What many tests share: a small model that was really trained, and its bundle."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from pydoc_data import topics
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import hypothesis
import pytest

from charloom.bundle import Bundle, DecoderKind, read_bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.first_steps import FirstSteps, Pace, at_once, first_steps
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.engine.loom import model

if TYPE_CHECKING:  # what trains and exports is imported where that is done: torch takes seconds
    from charloom.training.records import Evaluation, Progress

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Small models gain nothing from more threads, and lose much when the machine is busy: here, where torch is imported
# later, and in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

# A shell starts what is to run in the background with SIGINT ignored; some tests interrupt themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)

warnings.filterwarnings("ignore", message=".*torch.jit.*")

# A busy machine is no reason to fail; in continuous integration the examples are the same in each run.
hypothesis.settings.register_profile(
    "charloom",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("charloom")

SMALL = {"layers": 2, "hidden_size": 48, "embedding_size": 24, "dropout": 0.1, "batch_size": 8, "warmup_steps": 20}


class Silent:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[Progress] = []
        self.evaluations: list[Evaluation] = []

    def step(self, progress: Progress) -> None:
        self.steps.append(progress)

    def evaluation(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)


@pytest.fixture(autouse=True)
def _process_is_left_as_it_was() -> Iterator[None]:
    """What belongs to the whole process would show in the tests that come later, and which those are is chance."""

    def found() -> dict[str, object]:
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        return {
            "folder": os.getcwd(),
            "level of the logs": logging.getLogger().level,
            "threads of torch": sys.modules["torch"].get_num_threads() if "torch" in sys.modules else 1,
        } | {one.name: signal.getsignal(one) for one in signals}

    before = found()
    yield
    assert found() == before


@pytest.fixture(scope="session", autouse=True)
def _first_steps_are_taken_once() -> Iterator[None]:
    """Hundreds of engines are made with the same few decoders, whose first steps take a part of a second each time."""
    taken: WeakKeyDictionary[Decoder, dict[int, FirstSteps]] = WeakKeyDictionary()

    def once(bundle: Bundle, decoder: Decoder, most_rows: int, pace: Pace = at_once) -> FirstSteps:
        of_decoder = taken.setdefault(decoder, {})
        if most_rows not in of_decoder:
            of_decoder[most_rows] = first_steps(bundle, decoder, most_rows, pace)
        return deepcopy(of_decoder[most_rows])  # what a step costs is learnt further

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(model, "first_steps", once)
        yield


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """English prose that is on every machine with Python: 160,000 characters of the language reference."""
    path = tmp_path_factory.mktemp("text") / "reference.txt"
    path.write_text("".join(topics.topics.values())[:160_000], "utf-8")
    return path


@pytest.fixture(scope="session")
def run_directory(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: 2 x 48, one epoch, some seconds."""
    from charloom.training.config import TrainingConfig
    from charloom.training.data.corpus import read_corpus
    from charloom.training.loop import Trainer

    config = TrainingConfig.model_validate({**SMALL, "epochs": 1, "sequence_length": 32, "learning_rate": 1e-2})
    run = tmp_path_factory.mktemp("run") / "small"
    outcome = Trainer(config, read_corpus(text_file, config.unit), run).train(Silent())
    assert outcome.finished
    return run


@pytest.fixture(scope="session")
def bundle(run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The run's bundle with all three decoders, named "small". Tests that change a bundle copy it first."""
    from charloom.export import export_bundle
    from charloom.training.checkpoint import load_trained
    from charloom.training.run_directory import load_validation

    path = tmp_path_factory.mktemp("bundles") / "small"
    export_bundle(load_trained(run_directory), load_validation(run_directory), path, name="small")
    return read_bundle(path)


@pytest.fixture(scope="session")
def decoders(bundle: Bundle) -> dict[DecoderKind, Decoder]:
    """The bundle's decoders, all on the CPU."""
    return {kind: open_decoder(bundle, kind=kind) for kind in DecoderKind}


@pytest.fixture(scope="session")
def decoder(decoders: dict[DecoderKind, Decoder]) -> Decoder:
    """The decoder that a server takes by default."""
    return decoders[DecoderKind.ONNX_INT8]


@pytest.fixture
def copied(bundle: Bundle, tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of the bundle's directory that a test may damage."""

    def copy() -> Path:
        target = tmp_path / "copied"
        target.mkdir()
        for file in bundle.path.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        return target

    return copy
