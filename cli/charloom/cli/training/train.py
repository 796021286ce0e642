"""`charloom train TEXT... --run DIRECTORY`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

import torch
from rich.console import Console

from charloom.bundle import BundleError, UnknownSymbolsError
from charloom.cli import CommandError
from charloom.cli.flags import add_settings_flags
from charloom.cli.problems import words_of
from charloom.cli.training.lasting_console import LastingConsole
from charloom.cli.training.stopping import stopped_by_signals
from charloom.cli.training.threads import add_threads_flag, use_threads
from charloom.cli.training.train_start import (
    config_of,
    refuse_contradictions,
    run_directory_of,
    run_or_bundle,
    start_of,
    training_text,
)
from charloom.cli.training.train_watchers import keep_report, require_tensorboard, watching
from charloom.models import BUNDLED_MODEL
from charloom.training.checkpoint import load_trained
from charloom.training.config import SettingsError, TrainingConfig
from charloom.training.data.corpus import Corpus
from charloom.training.data.texts import CorpusError
from charloom.training.evaluate import losses, tail_estimate
from charloom.training.files import CheckpointError
from charloom.training.find_rate import OF_NO_USE, find_learning_rate
from charloom.training.learner import TrainingDiverged
from charloom.training.loop import Trainer
from charloom.training.precision import chosen_precision
from charloom.training.presets import PRESETS
from charloom.training.ranks import join_ranks, leave_ranks
from charloom.training.run_directory import save_losses
from charloom.training.watching.figures import loss_figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "text",
        metavar="TEXT",
        nargs="+",
        type=Path,
        help="a text file, a folder (the files below it that --include names), or - (standard input)",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--run", dest="run_directory", type=Path, help="directory of the run")
    where.add_argument(
        "--find-learning-rate",
        action="store_true",
        help="make no run; raise the rate from tiny to too high within some steps, and suggest one",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on where the run stopped, exactly; with more --epochs also beyond its end",
    )
    parser.add_argument("--preset", choices=PRESETS, help="settings to start from; settings that are given win")
    parser.add_argument(
        "--vocabulary",
        metavar="RUN|BUNDLE",
        type=run_or_bundle,
        help=f"use the vocabulary of a run or bundle ({BUNDLED_MODEL.name} is the bundled one), instead of one of this "
        "text",
    )
    parser.add_argument(
        "--initial-weights",
        metavar="RUN|BUNDLE",
        type=run_or_bundle,
        help="start from the weights of a run or bundle, with its vocabulary and sizes",
    )
    parser.add_argument(
        "--teacher",
        metavar="RUN|BUNDLE",
        nargs="+",
        type=run_or_bundle,
        default=[],
        help="learn also what these models predict (the mean of their probabilities), with their vocabulary",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (default: auto)")
    parser.add_argument("--tensorboard", action="store_true", help="also write event files into RUN/tensorboard")
    add_threads_flag(parser)
    add_settings_flags(parser.add_argument_group("settings"), TrainingConfig)


def run(arguments: argparse.Namespace) -> int:
    """Train, and leave checkpoints and a log in the run directory; `torchrun` may start several of this."""
    device = _device(arguments.device)
    use_threads(arguments)
    refuse_contradictions(arguments)
    if arguments.tensorboard:
        require_tensorboard()
    try:
        code = _run(arguments, device)
    except (
        CorpusError,
        CheckpointError,
        SettingsError,
        TrainingDiverged,
        UnknownSymbolsError,
        BundleError,
        OSError,
    ) as problem:
        raise CommandError(words_of(problem)) from problem
    except (MemoryError, RuntimeError) as problem:
        if not isinstance(problem, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(problem):
            raise
        raise CommandError(
            "there is not enough memory for a step; raise --accumulate, or lower --batch-size, --sequence-length or "
            "--hidden-size"
        ) from problem
    finally:
        several = leave_ranks()
    if several:
        # torch's threads sometimes abort an interpreter that ends after a process group; all is written by now.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(arguments: argparse.Namespace, device: str) -> int:
    start = start_of(arguments)
    config = config_of(arguments, start)
    chosen_precision(config, torch.device(device))  # refused before the text is read
    ranks = join_ranks(device)
    console = LastingConsole(quiet=not ranks.first)
    with run_directory_of(arguments, ranks) as (directory, lock):
        corpus = training_text(arguments, config, start, directory, ranks)
        if arguments.find_learning_rate:
            passed_over = [f"--{name.replace('_', '-')}" for name in OF_NO_USE if name in arguments]
            if passed_over:
                console.print(f"not used, as the rate is raised from tiny to too high: {', '.join(passed_over)}")
            _find_learning_rate(config, corpus, device, console)
            return 0
        if start.teachers is not None:
            count = len(corpus.train) * corpus.vocabulary.size
            console.print(
                f"the teachers read the training part first: {count:,} probabilities, {2 * count / 1e6:,.0f} MB"
            )
        trainer = Trainer(
            config,
            corpus,
            directory,
            resume=arguments.resume,
            device=device,
            ranks=ranks,
            weights=start.weights,
            teachers=start.teachers,
            lock=lock,
        )
    _describe(trainer, device, console)
    if trainer.former_epochs is not None:
        _tell_of_longer_run(trainer, trainer.former_epochs, console)
    if start.weights is not None and ranks.first:
        loss = tail_estimate(trainer.learner.model, corpus.validation)
        console.print(f"epoch   0.00  step 0  validation {loss_figures(loss)}  (initial weights)")
    return _train(trainer, arguments, device, console)


def _describe(trainer: Trainer, device: str, console: Console) -> None:
    config, corpus, ranks = trainer.config, trainer.corpus, trainer.ranks
    documents = ""
    if corpus.train.starts is not None and corpus.validation.starts is not None:
        documents = f"{len(corpus.train.starts) + len(corpus.validation.starts):,} documents, "
    taught_by = (
        f"{', '.join(one['name'] for one in trainer.teachers)}; "
        f"{config.teacher_share:.0%} of the loss, at temperature {config.teacher_temperature:g}"
    )
    former, precision = trainer.former_precision, trainer.learner.precision
    changed = former is not None and former != precision
    console.print(
        f"{corpus.name}: {corpus.characters:,} characters, {corpus.vocabulary.size} symbols, {documents}"
        f"{len(corpus.train):,} {config.unit.plural} to train on, {len(corpus.validation):,} to validate\n"
        + (f"files left out, empty or not {config.encoding}: {corpus.left_out:,}\n" if corpus.left_out else "")
        + f"model: {config.layers} x {config.hidden_size} {config.cell.value}, "
        f"{trainer.learner.model.parameter_count():,} parameters, "
        f"{precision} on {device}, {trainer.total_steps:,} steps"
        + (f", {ranks.count} processes" if ranks.count > 1 else "")
        + (f"\nteachers: {taught_by}" if trainer.teachers else "")
        + (f"\ntrained in {former} so far, goes on in {precision} on this machine" if changed else "")
    )


def _tell_of_longer_run(trainer: Trainer, former: int, console: Console) -> None:
    config = trainer.config
    if config.schedule == "plateau":
        schedule = "the learning rate stays as it is until the validation loss stops falling"
    else:
        before, now = trainer.rate_with(former), trainer.rate_with(config.epochs)
        schedule = (
            f"the learning rate follows the cosine of {config.epochs} epochs from here on: {now:.1e} instead of "
            f"{before:.1e}, so that the loss may rise at first"
        )
    if config.early_stopping:
        schedule += f"; --early-stopping {config.early_stopping} counts evaluations anew"
    console.print(f"{config.epochs} epochs instead of {former}: {schedule}")


def _train(trainer: Trainer, arguments: argparse.Namespace, device: str, console: Console) -> int:
    config, ranks = trainer.config, trainer.ranks
    with (
        stopped_by_signals(trainer.stop),
        watching(trainer, console, tensorboard=arguments.tensorboard) as reporter,
    ):
        outcome = trainer.train(reporter)
    run_directory = shlex.quote(str(trainer.run))
    if not outcome.finished:
        again = (
            f"charloom train {shlex.join(map(str, arguments.text))} --run {run_directory} --resume{_same(arguments)}"
        )
        console.print(f"stopped at step {outcome.step}; go on with: {again}")
        ranks.wait()  # torchrun ends the others as soon as one ends badly, and a stopped run is no success to it
        return 130
    if outcome.stopped_early:
        console.print(
            f"no progress in {config.early_stopping} evaluations: stopped early at step {outcome.step}; "
            f"--resume with more than {config.epochs} --epochs goes on"
        )
    ranks.wait()
    leave_ranks()  # the others need not wait for the measurement
    if not ranks.first:
        return 0
    console.print("done; measuring the best weights by both validation protocols (charloom evaluate does it too)")
    trained = load_trained(trainer.run)
    found = losses(trained.model.to(device), trainer.corpus.validation)
    save_losses(trainer.run, trained.step, found)
    for protocol, loss in found.items():
        console.print(f"{protocol:12} {loss_figures(loss)}")
    keep_report(trainer.run, console)
    console.print(f"next: charloom export {run_directory} BUNDLE")
    return 0


def _same(arguments: argparse.Namespace) -> str:
    """The flags beside the settings, which a run does not keep, as they were given."""
    threads = "" if arguments.threads is None else f" --threads {arguments.threads}"
    device = "" if arguments.device == "auto" else f" --device {arguments.device}"
    return threads + device + (" --tensorboard" if arguments.tensorboard else "")


def _find_learning_rate(config: TrainingConfig, corpus: Corpus, device: str, console: Console) -> None:
    found = find_learning_rate(config, corpus, device)
    shown = found.trials[:: max(1, len(found.trials) // 20)]
    highest = max(trial.loss for trial in shown)
    for trial in shown:
        console.print(f"{trial.rate:9.1e}  {trial.loss:7.3f} nats  {'#' * round(50 * trial.loss / highest)}")
    console.print(f"lowest loss at {found.lowest:.1e}; suggested: --learning-rate {found.suggestion:.1e}")


def _device(asked: str) -> str:
    if asked not in ("auto", "cpu", "cuda"):
        raise CommandError(f"--device {asked}: choose cpu, cuda or auto")
    if asked == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device cuda: no CUDA device is available; use --device cpu")
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return asked
