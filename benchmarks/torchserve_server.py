"""TorchServe as a process to measure, with the reference network in its continuous batch."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ending import ends_on_sigterm
from benchmarks.processes import Process, cores, free_ports
from benchmarks.reference import HIDDEN, SYMBOLS, reference_weights
from charloom.engine.decoding.automaton import unconstrained
from charloom.engine.decoding.decoder import neutral, nobody_learns
from charloom.export.onnx_graph import build_decoder

MOST_CALLS = 64
"""In a batch."""
NEEDED = ("ts", "model_archiver", "torch", "numpy", "yaml", "onnxruntime")
"""What TorchServe's environment has to have, by the names of its modules."""
STARTING_SECONDS = 180.0
KEPT_SESSIONS = 1024
LOGGING = """<Configuration status="warn">
  <Appenders><Console name="console"><PatternLayout pattern="%m%n"/></Console></Appenders>
  <Loggers>
    <Root level="error"><AppenderRef ref="console"/></Root>
    <Logger name="MODEL_LOG" level="info"/>
  </Loggers>
</Configuration>
"""
"""Errors, and what workers print; TorchServe otherwise logs several lines for each call."""


@dataclass(frozen=True)
class Setup:
    """A way to run TorchServe."""

    decoder: str
    workers: int
    steps: int
    """Of a round."""
    delay: int
    """Milliseconds."""

    @property
    def name(self) -> str:
        """Of its models, but for the number of the worker."""
        return f"{self.decoder}-workers-{self.workers}-steps-{self.steps}-delay-{self.delay}"

    @property
    def models(self) -> list[str]:
        """One for each worker: calls of a session have to come to the one that has its state."""
        return [f"{self.name}-{worker}" for worker in range(self.workers)]

    @property
    def configuration(self) -> dict[str, Any]:
        """Of each of its models."""
        handler = {
            "decoder": self.decoder,
            "threads": max(1, cores() // self.workers),
            "steps": self.steps,
            "sessions": KEPT_SESSIONS,
            "hidden": HIDDEN,
            "symbols": "".join(SYMBOLS),
        }
        workers = {"minWorkers": 1, "maxWorkers": 1}
        batch = {"batchSize": MOST_CALLS, "maxBatchDelay": self.delay, "continuousBatching": True}
        return workers | batch | {"handler": handler}


@dataclass(frozen=True)
class Group(Process):
    """A server of several processes, each started by another one of them."""

    members: tuple[int, ...]
    """All of them, once it is ready."""

    def pids(self) -> list[int]:
        """The processes that were there once it was ready."""
        return [*self.members]


def missing(python: str) -> str | None:
    """What is not there that TorchServe needs."""
    home = os.environ.get("JAVA_HOME")
    if not shutil.which(f"{home}/bin/java" if home else "java"):
        return "TorchServe needs Java 17: there is no command java"
    if not shutil.which(python):
        return f"{python}: there is no such Python"
    code = "import importlib.util, sys; print(*[name for name in sys.argv[1:] if not importlib.util.find_spec(name)])"
    absent = subprocess.run([python, "-c", code, *NEEDED], capture_output=True, text=True, check=True).stdout.split()
    if absent:
        return f"{python} has no {', '.join(absent)}: `python -m benchmarks.torchserve --help` says what to install"
    return None


def write_model(folder: Path) -> list[Path]:
    """The files that the handler opens: the network's matrices, and our server's graph with inputs that it needs."""
    weights, vocabulary = reference_weights(), len(SYMBOLS)
    first, second = weights.layers
    np.savez(
        folder / "weights.npz",
        table=weights.table,
        first=first["matrix"],
        second=second["matrix"],
        second_bias=second["bias"],
        head=weights.head,
        head_bias=weights.head_bias,
    )
    free: dict[str, Any] = neutral(MOST_CALLS, vocabulary) | unconstrained(MOST_CALLS, vocabulary).by_name()
    np.savez(folder / "inputs.npz", logprobs=np.array(False), **free, **nobody_learns(vocabulary))
    graph = build_decoder(weights, int8=True, metadata={})
    (folder / "decoder.onnx").write_bytes(graph.SerializeToString())
    return [folder / "weights.npz", folder / "inputs.npz", folder / "decoder.onnx"]


@contextmanager
def torchserve(python: str, folder: Path, setups: Sequence[Setup]) -> Iterator[Group]:
    """Run TorchServe with all models of these setups, loaded.

    Args:
        python: of its environment
        folder: for its files; empty

    Raises:
        RuntimeError: it did not start; the message has what it said.
    """
    store = folder / "store"
    store.mkdir()
    files = write_model(folder)
    for setup in setups:
        for model in setup.models:
            _archive(python, store, model, files, setup.configuration)
    (folder / "log4j2.xml").write_text(LOGGING)
    port, management, *others = free_ports(5)
    properties = {
        "inference_address": f"http://127.0.0.1:{port}",
        "management_address": f"http://127.0.0.1:{management}",
        "metrics_address": f"http://127.0.0.1:{others[0]}",
        "grpc_inference_port": others[1],
        "grpc_management_port": others[2],
        "disable_system_metrics": "true",
        "enable_metrics_api": "false",
    }
    (folder / "config.properties").write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    command = [python, "-m", "ts.model_server", "--foreground", "--ncs", "--disable-token-auth"]
    command += ["--model-store", str(store), "--ts-config", "config.properties", "--log-config", "log4j2.xml"]
    command += ["--models", *(f"{model}={model}" for setup in setups for model in setup.models)]
    places = dict.fromkeys(["TEMP", "TMPDIR", "LOG_LOCATION", "METRICS_LOCATION"], str(folder))
    said = folder / "said"
    with ends_on_sigterm():
        with said.open("w") as output:
            launcher = subprocess.Popen(
                command, stdout=output, stderr=output, cwd=folder, env=os.environ | places, start_new_session=True
            )
        try:
            end = time.monotonic() + STARTING_SECONDS
            while not all(_is_ready(management, model) for setup in setups for model in setup.models):
                if launcher.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"TorchServe did not start: {said.read_text().strip()[-2000:]}")
                time.sleep(0.5)
            yield Group(f"127.0.0.1:{port}", launcher.pid, _members(launcher.pid))
        finally:
            _end(launcher)


def _archive(python: str, store: Path, model: str, files: Sequence[Path], configuration: dict[str, Any]) -> None:
    written = store.parent / f"{model}.yaml"
    written.write_text(json.dumps(configuration))  # which is YAML too
    words: dict[str, object] = {
        "model-name": model,
        "version": "1.0",
        "handler": Path(__file__).with_name("torchserve_handler.py"),
        "extra-files": ",".join(map(str, files)),
        "config-file": written,
        "archive-format": "no-archive",
        "export-path": store,
    }
    flags = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    code = "from model_archiver.model_packaging import generate_model_archive as main; main()"
    subprocess.run([python, "-c", code, *flags], check=True)


def _is_ready(port: int, model: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/models/{model}", timeout=5) as answer:
            (version,) = json.load(answer)
    except OSError:  # it does not listen yet, or does not know the model yet
        return False
    return any(worker["status"] == "READY" for worker in version["workers"])


def _members(group: int) -> tuple[int, ...]:
    """The processes of a group that run: some that have ended may be waited for by nobody."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(folder.name))
    return tuple(found)


def _end(launcher: subprocess.Popen[bytes]) -> None:
    """End the group: Java and the workers outlive the process that started them."""
    wanted = signal.SIGTERM
    end = time.monotonic() + 20
    while _members(launcher.pid):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.killpg(launcher.pid, wanted)
        launcher.poll()
        time.sleep(0.2)
        if time.monotonic() > end:
            wanted = signal.SIGKILL
