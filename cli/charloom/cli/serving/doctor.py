"""`charloom doctor [BUNDLE]`: what this machine offers a server."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from charloom.bundle import Bundle, BundleError
from charloom.cli import CommandError
from charloom.cli.flags import explain, given_settings
from charloom.cli.problems import words_of
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.first_steps import BundleStuck
from charloom.engine.decoding.speed import tokens_per_second
from charloom.engine.loom.model import try_model
from charloom.engine.sessions.session import History, long_memory
from charloom.models import BUNDLED_MODEL, bundle_path
from charloom.server.open_runtime import budget_of, memory_for_sessions, memory_of_process, open_models
from charloom.server.process_cores import core_quota, cores
from charloom.server.process_memory import memory_free
from charloom.server.processor import Processor, processor
from charloom.server.settings import ServerSettings, read_settings

ROWS = 64
"""Streams of each decoder call, where many are measured."""
SECONDS = 1.0
"""How long each speed is measured."""


@dataclass(frozen=True)
class Gpu:
    """What torch sees."""

    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Model:
    """What one model does here."""

    name: str
    decoder: str
    device: str
    unit: str
    batch_invariant: bool
    tokens_per_second_alone: float
    """Of one stream, by the decoder with nothing around it."""
    tokens_per_second: float
    """Of many streams together."""
    streams: int
    """How many those were."""


@dataclass(frozen=True)
class Findings:
    """All findings; sizes in bytes, None if unknown."""

    processor: Processor
    cores: int
    core_quota: float | None
    workers: int
    """Decoder calls at a time of each model."""
    load: float
    """Programs that wanted to run, over the last minute."""
    torch: str | None
    gpus: list[Gpu]
    memory_limit: int | None
    memory_free: int | None
    memory_for_calls: int | None
    """With sessions in memory."""
    session_bytes: int
    """About, of one whose text is long."""
    sessions_in_memory: int
    model: Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "bundle",
        metavar="BUNDLE",
        nargs="?",
        default=BUNDLED_MODEL,
        help=f"whose decoder is measured (default: {BUNDLED_MODEL.name}, the bundled model)",
    )
    for name in ("decoder", "device", "workers"):
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help="as for charloom serve")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.epilog = "other settings of charloom serve count as they are in the environment and in CHARLOOM_CONFIG"


def run(arguments: argparse.Namespace) -> int:
    """Look, measure for some seconds, and print it."""
    try:
        settings = read_settings(given_settings(arguments, ServerSettings))
        findings = examine(bundle_path(arguments.bundle), settings)
    except ValidationError as problem:
        raise CommandError(explain(problem)) from problem
    except BundleStuck as problem:
        print(f"charloom doctor: {problem}", file=sys.stderr, flush=True)
        os._exit(1)  # the interpreter cannot exit while its thread is inside a library
    except (BundleError, OSError, ValueError) as problem:
        raise CommandError(words_of(problem)) from problem
    print(json.dumps(as_json(findings)) if arguments.json else report(findings, settings))
    return 0


def examine(path: Path, settings: ServerSettings) -> Findings:
    """Look at the machine, and measure the decoder of a bundle on it.

    Raises:
        BundleError, ValueError: as `open_models`.
    """
    load = os.getloadavg()[0]  # before the measurements add to it
    [(bundle, decoder)] = open_models([path], settings)
    limits = settings.limits()
    model = _measured(bundle, decoder, settings)
    limit = memory_of_process(settings)
    budget = budget_of(limit)
    arrays, layers, hidden, _ = decoder.shape
    token_bytes = History.fresh(decoder.shape, 0).token_bytes
    each = long_memory(4 * arrays * layers * hidden, token_bytes, limits.rewind_tokens)
    room = memory_for_sessions(budget)
    version, gpus = _gpus()
    return Findings(
        processor(),
        cores(),
        core_quota(),
        limits.workers,
        load,
        version,
        gpus,
        limit,
        memory_free(),
        budget,
        each,
        limits.max_sessions if room is None else min(limits.max_sessions, room // each),
        model,
    )


def _measured(bundle: Bundle, decoder: Decoder, settings: ServerSettings) -> Model:
    invariant = try_model(bundle, decoder, settings.max_rows).first.batch_invariant
    workers = settings.limits().workers
    alone = tokens_per_second(decoder, rows=1, threads=1, seconds=SECONDS)
    together = tokens_per_second(decoder, rows=ROWS, threads=workers, seconds=SECONDS)
    manifest = bundle.manifest
    return Model(
        *(manifest.name, decoder.kind, decoder.device, manifest.unit.value, invariant),
        *(round(alone), round(together), ROWS * workers),
    )


def _gpus() -> tuple[str | None, list[Gpu]]:
    """The version of torch, None where it is not installed, and the CUDA devices that it can use."""
    try:
        import torch
    except ModuleNotFoundError:
        return None, []
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return str(torch.__version__), [Gpu(one.name, one.total_memory) for one in found]


def as_json(findings: Findings) -> dict[str, Any]:
    """The findings as one JSON object."""
    return {**asdict(findings), "processor": findings.processor._asdict()}


def report(findings: Findings, settings: ServerSettings) -> str:
    """The findings as a table for a terminal."""
    chip, model, unit = findings.processor, findings.model, f"{findings.model.unit}s"
    quota = "no quota" if findings.core_quota is None else f"a quota of {findings.core_quota:g}"
    workers = f"{findings.workers} worker{'s' if findings.workers > 1 else ''}"
    whose = "this process" if settings.processes == 1 else f"each of {settings.processes} processes"
    lines = [
        ("processor", f"{chip.name or 'unknown'} ({chip.architecture})"),
        ("vector instructions", " ".join(chip.vector_instructions) or "none known"),
        ("cores", f"{findings.cores}, {quota}; {workers} for each model"),
        ("GPU", _gpu_line(findings)),
        ("memory", f"{_size(findings.memory_limit)} for {whose}"),
        ("free on the machine", _size(findings.memory_free)),
        ("for calls, sessions", f"{_size(findings.memory_for_calls)} beside the decoder"),
        (
            "sessions in memory",
            f"{findings.sessions_in_memory:,} of {findings.session_bytes / 1024:,.0f} KiB "
            f"(--max-sessions {settings.max_sessions})",
        ),
        ("model", f"{model.name}, {model.decoder} on {model.device}"),
        ("batch invariance", "holds" if model.batch_invariant else "fails: texts may depend on the load"),
        ("decoder, 1 stream", f"{model.tokens_per_second_alone:,} {unit}/s"),
        (f"decoder, {model.streams} streams", f"{model.tokens_per_second:,} {unit}/s"),
        ("load before", f"{findings.load:.1f}; what else runs takes from both speeds"),
        ("of a server", "half to three quarters of that, with clients on the same cores"),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name.ljust(width)}  {said}" for name, said in lines)


def _gpu_line(findings: Findings) -> str:
    if findings.torch is None:
        return "none usable without torch (pip install 'charloom[torch]')"
    if not findings.gpus:
        return f"torch {findings.torch} finds none"
    return ", ".join(f"{gpu.name}, {_size(gpu.memory_bytes)}" for gpu in findings.gpus)


def _size(count: int | None) -> str:
    return "an unknown amount" if count is None else f"{count / 2**20:,.0f} MiB"
