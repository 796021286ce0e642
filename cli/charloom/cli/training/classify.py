"""`charloom classify ACTION`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from charloom.bundle import Unit
from charloom.cli import CommandError
from charloom.cli.flags import add_settings_flags, explain, given_settings
from charloom.cli.output import print_json
from charloom.cli.text import add_file, given_text
from charloom.cli.training.lasting_console import LastingConsole
from charloom.cli.training.stopping import interrupt, stopped_by_signals
from charloom.cli.training.text_flags import refuse_unread, text_settings
from charloom.cli.training.threads import add_threads_flag, use_threads
from charloom.lab.tasks.classification import ClassifierTrainer
from charloom.lab.tasks.classifier_runs import load_classifier, load_test
from charloom.lab.tasks.config import ClassificationConfig
from charloom.lab.tasks.folders import read_labelled, read_parts
from charloom.lab.tasks.predict import Example, Prediction, TextClassifier, scores_of
from charloom.lab.tasks.scores import Scores
from charloom.lab.tasks.terminal_report import TerminalReporter, score_line, score_table
from charloom.training.data.text_settings import TextSettings
from charloom.training.data.texts import CorpusError
from charloom.training.files import CheckpointError
from charloom.training.learner import TrainingDiverged
from charloom.training.run_directory import CLASSIFIER_FILE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and the arguments of each."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, action in ACTIONS.items():
        one = actions.add_parser(name, help=action.help, description=action.help, allow_abbrev=False)
        action.add_arguments(one)
        add_threads_flag(one)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    use_threads(arguments)
    try:
        return ACTIONS[arguments.action].run(arguments)
    except (CorpusError, CheckpointError, TrainingDiverged) as problem:
        raise CommandError(str(problem)) from problem


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=Path, help="one sub-folder of *.txt files for each label, or train/ and test/ with these"
    )
    parser.add_argument("--run", dest="run_directory", type=Path, required=True, help="directory of the run")
    parser.add_argument("--labels", metavar="A,B", help="these sub-folders alone (default: all)")
    add_settings_flags(parser.add_argument_group("settings"), ClassificationConfig)


def _train(arguments: argparse.Namespace) -> int:
    console = LastingConsole()
    try:
        config = ClassificationConfig.model_validate(given_settings(arguments, ClassificationConfig))
    except ValidationError as problem:
        raise CommandError(explain(problem, ClassificationConfig)) from problem
    if config.unit is Unit.BYTE and "unknown_share" in config.model_fields_set:
        raise CommandError("--unknown-share has no use with --unit byte, which knows every byte; leave it out")
    labels = None if arguments.labels is None else arguments.labels.split(",")
    parts = read_parts(arguments.folder, config, labels)
    run = arguments.run_directory
    training = ClassifierTrainer(config, parts, run)
    console.print(
        f"{', '.join(parts.labels)}: {len(parts.train):,} texts to train on, {len(parts.validation):,} to validate, "
        f"{len(parts.test):,} to test\n"
        + (f"files left out, empty or not {config.encoding}: {parts.left_out:,}\n" if parts.left_out else "")
        + f"model: {config.layers} x {config.hidden_size}, {'both directions' if config.bidirectional else 'forward'}, "
        f"{training.classifier.model.parameter_count():,} parameters; padding would be "
        f"{training.unsorted_padding():.1%} in batches not sorted by length"
    )
    if training.cut:
        console.print(f"{_cut(training.cut, config.max_length, config.unit)} (--max-length changes it)")
    reporter = TerminalReporter(console)
    try:
        with stopped_by_signals(interrupt), reporter:
            outcome = training.train(reporter)
    except KeyboardInterrupt:
        kept = (run / CLASSIFIER_FILE).exists()
        use = f"the best weights so far are kept: charloom classify evaluate {shlex.quote(str(run))}"
        console.print(f"stopped in epoch {reporter.finished + 1}; {use if kept else 'nothing was kept'}")
        raise
    why = "validation gets no better" if outcome.early else "that was the last epoch"
    console.print(f"{why}; the test, with the weights of epoch {outcome.best.epoch}:")
    trained = load_classifier(run).classifier
    _print_scores(console, trained, training.test)
    quoted = shlex.quote(str(run))
    served = "" if trained.model.lstm.bidirectional else f", or to serve it charloom export {quoted} BUNDLE"
    console.print(f"next: charloom classify predict {quoted} TEXT{served}")
    return 0


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--folder",
        type=Path,
        help="all texts of this folder of labels, instead of those kept for the test",
    )
    add_settings_flags(parser.add_argument_group("of --folder"), TextSettings)


def _evaluate(arguments: argparse.Namespace) -> int:
    refuse_unread(arguments, "folder")
    trained = load_classifier(arguments.run_directory).classifier
    if arguments.folder is None:
        examples = load_test(arguments.run_directory, trained)
    else:
        texts = read_labelled(arguments.folder, trained.labels, text_settings(arguments)).texts
        examples = trained.examples(texts)
        if cut := trained.too_long(texts):
            print(_cut(cut, trained.max_length, trained.symbols.vocabulary.unit), file=sys.stderr)
    if arguments.json:
        scores, before = _calibrated(trained, examples)
        by_label = zip(trained.labels, scores.precision, scores.recall, scores.f1, strict=True)
        found = {
            "texts": scores.texts,
            "accuracy": scores.accuracy,
            "majority": scores.majority,
            "macro_f1": scores.macro_f1,
            "loss": scores.loss,
            "temperature": trained.temperature,
            "calibration_error": scores.calibration_error,
            "calibration_error_before": before.calibration_error,
            "labels": {label: {"precision": p, "recall": r, "f1": f1} for label, p, r, f1 in by_label},
            "confusion": scores.confusion.tolist(),
        }
        print_json(found)
        return 0
    _print_scores(_console(), trained, examples)
    return 0


def _add_predict(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("text", nargs="?", metavar="TEXT", help="the text; - reads stdin, as does giving none")
    add_file(parser, "read the text from a file")


def _predict(arguments: argparse.Namespace) -> int:
    text = given_text(arguments)
    trained = load_classifier(arguments.run_directory).classifier
    found = trained.predict(text)
    _warn(found, trained.symbols.vocabulary.unit)
    if arguments.json:
        print_json(found._asdict())
        return 0
    print(found.label)
    for label, chance in sorted(found.probabilities.items(), key=lambda item: -item[1]):
        print(f"{chance:8.4f}  {label}")
    return 0


def _warn(found: Prediction, unit: Unit) -> None:
    if found.left_out:
        print(
            f"the text has {found.tokens:,} {unit.plural}; the last {found.left_out:,} were not read", file=sys.stderr
        )
    if found.unknown:
        one = unit.plural.removesuffix("s")
        print(f"{found.unknown:,} {one}(s) are unknown to the model, and read as such", file=sys.stderr)


def _cut(texts: int, length: int, unit: Unit) -> str:
    return f"{texts:,} text(s) are longer than {length:,} {unit.plural}, and read that far"


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_directory", metavar="RUN", type=Path, help="directory of a run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _calibrated(trained: TextClassifier, examples: Sequence[Example]) -> tuple[Scores, Scores]:
    """How good a classifier is on these texts, and how good it would be without its temperature."""
    judged = trained.judge(examples)
    return scores_of(judged, trained.temperature), scores_of(judged, 1.0)


def _print_scores(console: Console, trained: TextClassifier, examples: Sequence[Example]) -> None:
    scores, before = _calibrated(trained, examples)
    console.print(score_line(scores))
    console.print(score_table(scores, trained.labels))
    console.print(
        f"temperature {trained.temperature:.4f}; without it the calibration error is {before.calibration_error:.4f}"
    )


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Action:
    """One action of `charloom classify`."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


ACTIONS = {
    "train": Action("train a classifier on a folder of labelled texts", _add_train, _train),
    "evaluate": Action("accuracy, macro F1 and confusions on the texts kept for the test", _add_evaluate, _evaluate),
    "predict": Action("tell the label of a text, and how probable each is", _add_predict, _predict),
}
