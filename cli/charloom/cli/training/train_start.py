"""What `charloom train` starts from: flags that go together, settings, an earlier model, the text."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from charloom.bundle import VOCABULARY_FILE, Vocabulary, write_vocabulary
from charloom.cli import CommandError
from charloom.cli.flags import explain, given_settings
from charloom.cli.text import standard_input
from charloom.cli.training.text_flags import refuse_without_folder
from charloom.models import BUNDLED_MODEL
from charloom.training.checkpoint import read_last, run_vocabulary
from charloom.training.config import TrainingConfig
from charloom.training.data.corpus import Corpus, read_corpus
from charloom.training.data.texts import STDIN, digest_of, spool, text_files
from charloom.training.files import CheckpointError
from charloom.training.initial import initial_vocabulary, initial_weights
from charloom.training.presets import PRESETS
from charloom.training.ranks import Ranks
from charloom.training.run_lock import RunLock, lock_new_run, require_unused
from charloom.training.teachers import Teachers, load_teachers, require_vocabulary

INPUT_FILE = "input.txt"
"""What came from standard input, in the run directory."""


@dataclass(frozen=True)
class Start:
    """Where a run starts from, if not from nothing."""

    vocabulary: Vocabulary | None = None
    weights: dict[str, Tensor] | None = None
    teachers: Teachers | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """What comes with it."""
    sha256: str | None = None
    """Of the text of the run to resume."""


def run_or_bundle(given: str) -> Path:
    """The directory of a run or bundle; the bundled model can be given by its name."""
    path = Path(given)
    return BUNDLED_MODEL if given == BUNDLED_MODEL.name and not path.exists() else path


def refuse_contradictions(arguments: argparse.Namespace) -> None:
    """Refuse flags that cannot go together, before any work is done."""
    if arguments.text.count(STDIN) > 1:
        raise CommandError("standard input (-) can be read once; give it once")
    if arguments.find_learning_rate and arguments.resume:
        raise CommandError("--find-learning-rate: it makes no run, and resumes none; leave out --resume")
    if arguments.find_learning_rate and arguments.initial_weights:
        raise CommandError("--find-learning-rate: it starts from new weights; leave out --initial-weights")
    if arguments.find_learning_rate and arguments.tensorboard:
        raise CommandError("--find-learning-rate: it makes no run to watch; leave out --tensorboard")
    if arguments.find_learning_rate and arguments.teacher:
        raise CommandError("--find-learning-rate: it learns from the text alone; leave out --teacher")
    for flag in ("teacher_share", "teacher_temperature"):
        if flag in arguments and not (arguments.teacher or arguments.resume):
            raise CommandError(
                f"--{flag.replace('_', '-')}: there is no teacher; give --teacher RUN|BUNDLE, or leave it out"
            )
    for flag in ("vocabulary", "initial_weights"):
        if getattr(arguments, flag) is not None and arguments.resume:
            raise CommandError(f"--{flag.replace('_', '-')}: a resumed run goes on with its own; leave it out")
    for flag, paths in (("teacher", arguments.teacher), ("initial-weights", [arguments.initial_weights])):
        if BUNDLED_MODEL in paths:
            raise CommandError(
                f"--{flag} {BUNDLED_MODEL.name}: the bundled model has no weights, so that nothing can learn from it; "
                "give a run, or a bundle that was exported with its weights"
            )
    if not arguments.resume:
        refuse_without_folder(arguments, arguments.text)
    given = _source(arguments)
    if given and "vocabulary_size" in arguments:
        raise CommandError(f"--vocabulary-size: the vocabulary of {given} has its size; leave one of the two out")


def _source(arguments: argparse.Namespace) -> Path | None:
    """The run or bundle that the vocabulary is taken from."""
    found: Path | None = next(filter(None, (arguments.vocabulary, arguments.initial_weights, *arguments.teacher)), None)
    return found


def start_of(arguments: argparse.Namespace) -> Start:
    """The run to resume, or the vocabulary and weights of an earlier model; and the teachers.

    Raises:
        BundleError, CheckpointError: it cannot be read, or the run directory is not free.
    """
    run: Path | None = arguments.run_directory
    teachers = load_teachers(arguments.teacher) if arguments.teacher else None
    if run is not None and arguments.resume:
        last, began = read_last(run)
        return Start(run_vocabulary(run), None, teachers, began.model_dump(), last.facts["corpus"]["sha256"])
    if run is not None:
        require_unused(run)
    source, weights_of = _source(arguments), arguments.initial_weights
    if source is None:
        return Start()
    vocabulary, settings = initial_vocabulary(source)
    if teachers is not None:
        require_vocabulary(f"the teacher {arguments.teacher[0]}", teachers.vocabulary, vocabulary, str(source))
        settings["mask"] = teachers.mask
    if weights_of is None:
        return Start(vocabulary, None, teachers, settings)
    if initial_vocabulary(weights_of)[0].to_json() != vocabulary.to_json():
        raise CommandError(
            f"the weights of {weights_of} belong to its own vocabulary, which is not that of {source}; "
            "leave out --vocabulary"
        )
    weights, made_with = initial_weights(weights_of)
    if teachers is not None and teachers.mask != made_with.get("mask", teachers.mask):
        raise CommandError(
            f"the weights of {weights_of} learnt with --mask {made_with['mask']}, and the teacher "
            f"{arguments.teacher[0]} with {teachers.mask.value}; give two of the same"
        )
    return Start(vocabulary, weights, teachers, settings | made_with)


def config_of(arguments: argparse.Namespace, start: Start) -> TrainingConfig:
    """The settings: those that come with the start, or of the preset, or defaults; and what was given.

    What contradicts a run to resume is refused by the run itself.
    """
    preset = PRESETS[arguments.preset] if arguments.preset else {}
    given = given_settings(arguments, TrainingConfig)
    try:
        if arguments.resume:
            return TrainingConfig.model_validate(start.settings | preset | given)
        config = TrainingConfig.model_validate(preset | start.settings | given)
        kept = TrainingConfig.model_validate(preset | start.settings)
    except ValidationError as problem:
        raise CommandError(explain(problem, TrainingConfig)) from problem
    for name in start.settings.keys() & given.keys():
        if name == "mask" and start.weights is None and start.teachers is None:
            continue  # a vocabulary alone goes with another mask too
        if getattr(config, name) != getattr(kept, name):
            teacher = arguments.teacher[0] if name == "mask" and arguments.teacher else None
            whose = arguments.initial_weights or teacher or _source(arguments)
            raise CommandError(
                f"--{name.replace('_', '-')} {given[name]}: {whose} has "
                f"{kept.model_dump(mode='json')[name]}; leave the flag out, or start from another one"
            )
    _refuse_idle(config, given, teaches=start.teachers is not None)
    return config


def _refuse_idle(config: TrainingConfig, given: dict[str, Any], *, teaches: bool) -> None:
    """Refuse flags that can do nothing beside the other settings; runs of before that have such are resumed."""
    for name in ("plateau_patience", "plateau_factor"):
        if name in given and config.schedule != "plateau":
            raise CommandError(
                f"--{name.replace('_', '-')}: the schedule is {config.schedule}; "
                "give --schedule plateau, or leave it out"
            )
    if config.schedule == "plateau" and 0 < config.early_stopping <= config.plateau_patience + 1:
        raise CommandError(
            f"--early-stopping {config.early_stopping}: the run would end before --schedule plateau reduces the rate, "
            f"with evaluation {config.plateau_patience + 1} without progress; "
            f"give at least {config.plateau_patience + 2}, or a lower --plateau-patience"
        )
    if teaches and not config.teacher_share:
        raise CommandError("--teacher-share 0: the teachers would teach nothing; give a share above 0, or no --teacher")
    if config.variational_dropout and not config.dropout:
        raise CommandError("--variational-dropout: there is no dropout; give --dropout above 0, or leave it out")


@contextlib.contextmanager
def run_directory_of(arguments: argparse.Namespace, ranks: Ranks) -> Iterator[tuple[Path, RunLock | None]]:
    """The run directory, held by the first process; a run that does not begin leaves none behind.

    Where there is to be no run it is a temporary one.
    """
    run: Path | None = arguments.run_directory
    if run is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary), None
        return
    lock = None
    if ranks.first:
        lock = RunLock(run) if arguments.resume else lock_new_run(run)
    try:
        yield run, lock
    except BaseException:
        if lock is not None:
            if lock.made:
                shutil.rmtree(run, ignore_errors=True)
            lock.release()
        raise


def training_text(
    arguments: argparse.Namespace, config: TrainingConfig, start: Start, directory: Path, ranks: Ranks
) -> Corpus:
    """The text as tokens in the directory, which the first process makes and the others use.

    Raises:
        CheckpointError: it is not the text of the run to resume.
        CorpusError: it cannot be read, or cannot be trained on.
    """
    inputs = [directory / INPUT_FILE if text == STDIN else text for text in arguments.text]
    vocabulary, shared = start.vocabulary, arguments.run_directory is not None
    if shared and not ranks.first:
        ranks.wait()
        vocabulary = run_vocabulary(directory)
    elif start.sha256 is not None:
        if STDIN in arguments.text and not (directory / INPUT_FILE).is_file():
            raise CheckpointError(
                f"{directory} has no {INPUT_FILE}: it did not read standard input; resume it with its files"
            )
        # If the settings differ, the run is going to refuse them; until then its text is read as before.
        config = TrainingConfig.model_validate(start.settings)
        if digest_of(text_files(inputs, config).files) != start.sha256:
            raise CheckpointError(f"{directory} was trained on another text; resume it with the same file")
    elif STDIN in arguments.text:
        spool(standard_input("give files or folders").buffer, directory / INPUT_FILE)
    corpus = read_corpus(
        inputs,
        config.unit,
        config.validation_share,
        vocabulary,
        documents=config.documents,
        normalisation=config.normalise,
        vocabulary_size=config.vocabulary_size,
        directory=directory,
        settings=config,
        mask=config.mask,
    )
    if shared and ranks.first:
        if start.sha256 is None:
            write_vocabulary(directory / VOCABULARY_FILE, corpus.vocabulary)
        ranks.wait()
    return corpus
