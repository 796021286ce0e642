"""`charloom evaluate RUN`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from charloom.cli import CommandError
from charloom.cli.flags import add_settings_flags
from charloom.cli.output import print_json
from charloom.cli.training.text_flags import refuse_unread, refuse_without_folder, text_settings
from charloom.cli.training.threads import add_threads_flag, use_threads
from charloom.training.checkpoint import load_trained
from charloom.training.data.corpus import read_stream
from charloom.training.data.text_settings import TextSettings
from charloom.training.data.texts import CorpusError
from charloom.training.evaluate import losses
from charloom.training.files import CheckpointError
from charloom.training.run_directory import load_validation, save_losses
from charloom.training.watching.figures import loss_figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("run_directory", metavar="RUN", type=Path, help="directory of a run")
    parser.add_argument(
        "--text", type=Path, nargs="+", help="all of these files or folders, instead of the run's validation part"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object: nats per token by protocol")
    add_threads_flag(parser)
    add_settings_flags(parser.add_argument_group("of --text"), TextSettings)


def run(arguments: argparse.Namespace) -> int:
    """Measure the best weights of a run by both protocols; keep the figures for the export."""
    refuse_unread(arguments, "text")
    refuse_without_folder(arguments, arguments.text or ())
    use_threads(arguments)
    try:
        trained = load_trained(arguments.run_directory)
        if arguments.text is None:
            tokens = load_validation(arguments.run_directory, trained.vocabulary.size)
        else:
            tokens = read_stream(
                arguments.text, trained.vocabulary, trained.documents, text_settings(arguments), trained.mask
            )
        found = losses(trained.model, tokens)
        if arguments.json:
            print_json(found)
        else:
            print(f"{len(tokens):,} {trained.vocabulary.unit.plural}")
            for protocol, loss in found.items():
                print(f"{protocol:12} {loss_figures(loss)}")
    except (CorpusError, CheckpointError) as problem:
        raise CommandError(str(problem)) from problem
    if arguments.text is None:
        try:
            save_losses(arguments.run_directory, trained.step, found)
        except CheckpointError as problem:
            print(f"the figures were not kept for the export: {problem}", file=sys.stderr)
    return 0
