"""`charloom train TEXT --run DIRECTORY`."""

from __future__ import annotations

import argparse
import shlex
import signal
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from rich.console import Console

from charloom.bundle import BundleError, UnknownSymbolsError
from charloom.cli import CommandError
from charloom.cli.flags import add_settings_flags, explain, given_settings
from charloom.cli.threads import add_threads_flag, use_threads
from charloom.training.checkpoint import LAST_FILE, CheckpointError, load_trained, read_checkpoint, save_losses
from charloom.training.config import TrainingConfig
from charloom.training.corpus import CorpusError, read_corpus
from charloom.training.evaluate import losses
from charloom.training.loop import Trainer, TrainingDiverged
from charloom.training.report import TerminalReporter, loss_figures

_STOPPING = (signal.SIGINT, signal.SIGTERM)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("text", type=Path, help="a UTF-8 text file")
    parser.add_argument("--run", dest="run_directory", type=Path, required=True, help="directory of the run")
    parser.add_argument("--resume", action="store_true", help="go on where the run stopped, exactly")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (default: auto)")
    add_threads_flag(parser)
    add_settings_flags(parser.add_argument_group("settings"), TrainingConfig)


def run(arguments: argparse.Namespace) -> int:
    """Train, and leave checkpoints and a log in the run directory."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    device = _device(arguments.device)
    use_threads(arguments)
    try:
        config = _config(arguments)
        corpus = read_corpus(arguments.text, config.unit, config.validation_share)
        trainer = Trainer(config, corpus, arguments.run_directory, resume=arguments.resume, device=device)
        former = {number: signal.signal(number, lambda *_: trainer.stop()) for number in _STOPPING}
        console.print(
            f"{corpus.name}: {corpus.characters:,} characters, {corpus.vocabulary.size} symbols, "
            f"{len(corpus.train):,} {config.unit.value}s to train on, {len(corpus.validation):,} to validate\n"
            f"model: {config.layers} x {config.hidden_size}, {trainer.model.parameter_count():,} parameters, "
            f"{'bf16 autocast' if trainer.bf16 else 'fp32'} on {device}, {trainer.total_steps:,} steps"
        )
        with TerminalReporter(console, trainer.total_steps, trainer.step, config.unit.value) as reporter:
            outcome = trainer.train(reporter)
        for number, handler in former.items():
            signal.signal(number, handler)
        again = f"charloom train {shlex.quote(str(arguments.text))} --run {shlex.quote(str(trainer.run))} --resume"
        if not outcome.finished:
            console.print(f"stopped at step {outcome.step}; go on with: {again}")
            return 130
        console.print("done; measuring the best weights by both validation protocols (charloom evaluate does it too)")
        trained = load_trained(trainer.run)
        found = losses(trained.model.to(device), corpus.validation)
        save_losses(trainer.run, trained.facts["step"], found)
    except (CorpusError, CheckpointError, TrainingDiverged, UnknownSymbolsError, BundleError, OSError) as problem:
        raise CommandError(str(problem)) from problem
    for protocol, loss in found.items():
        console.print(f"{protocol:12} {loss_figures(loss)}")
    console.print(f"next: charloom export {shlex.quote(str(trainer.run))} BUNDLE")
    return 0


def _device(asked: str) -> str:
    if asked not in ("auto", "cpu", "cuda"):
        raise CommandError(f"--device {asked}: choose cpu, cuda or auto")
    if asked == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device cuda: no CUDA device is available; use --device cpu")
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return asked


def _config(arguments: argparse.Namespace) -> TrainingConfig:
    """The settings: those of the run to resume, or else defaults; and what was given, which a resumed run refuses."""
    saved: dict[str, Any] = {}
    if arguments.resume:
        saved = read_checkpoint(arguments.run_directory / LAST_FILE).facts["config"]
    try:
        return TrainingConfig.model_validate(saved | given_settings(arguments, TrainingConfig))
    except ValidationError as problem:
        raise CommandError(explain(problem)) from problem
