"""`charloom report RUN`."""

from __future__ import annotations

import argparse
from pathlib import Path

from charloom.cli import CommandError
from charloom.training.files import CheckpointError
from charloom.training.watching.html_report import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("run_directory", metavar="RUN", type=Path, help="directory of a run")


def run(arguments: argparse.Namespace) -> int:
    """Write the page that shows a run, which training does as well, at each evaluation."""
    try:
        print(f"wrote {write_report(arguments.run_directory)}")
    except CheckpointError as problem:
        raise CommandError(str(problem)) from problem
    return 0
