"""`charloom study NAME --out DIRECTORY`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

from pydantic import ValidationError

from charloom.bundle import UnknownSymbolsError
from charloom.cli import CommandError
from charloom.cli.flags import add_settings_flags, explain, given_settings
from charloom.cli.output import columns
from charloom.cli.training.lasting_console import LastingConsole
from charloom.cli.training.threads import add_threads_flag, use_threads
from charloom.lab.studies.catalogue import STUDIES
from charloom.lab.studies.reading import reading
from charloom.lab.studies.study import StudyError
from charloom.training.data.texts import CorpusError
from charloom.training.files import CheckpointError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the studies and the arguments of each."""
    studies = parser.add_subparsers(dest="study", metavar="STUDY", help="; without one, they are listed")
    for name, study in STUDIES.items():
        one = studies.add_parser(name, help=study.line, description=study.line, allow_abbrev=False)
        one.add_argument("--out", metavar="DIRECTORY", type=Path, required=True, help=f"for {name}.json and {name}.png")
        if study.reads_a_run:
            one.add_argument("--run", dest="run_directory", metavar="DIRECTORY", type=Path, help="of a trained run")
            one.add_argument("--text", type=Path, help="a file to read, instead of the run's validation part")
        add_threads_flag(one)
        add_settings_flags(one.add_argument_group("settings"), study.settings)


def run(arguments: argparse.Namespace) -> int:
    """Run one study: print its figures, and write them and a plot."""
    if arguments.study is None:
        print(columns([(name, study.line) for name, study in STUDIES.items()]))
        print("\nmake one with: charloom study NAME --out DIRECTORY")
        return 0
    study, console = STUDIES[arguments.study], LastingConsole()
    use_threads(arguments)
    out = _directory(arguments.out)
    began = time.monotonic()
    try:
        settings = study.settings.model_validate(given_settings(arguments, study.settings))
        sources = [reading(arguments.run_directory, arguments.text)] if study.reads_a_run else []
        result = study.measure(*sources, settings, console.print)
    except ValidationError as problem:
        raise CommandError(explain(problem)) from problem
    except (StudyError, CheckpointError, CorpusError, UnknownSymbolsError) as problem:
        raise CommandError(str(problem)) from problem
    content = {
        "study": arguments.study,
        "settings": settings.model_dump(mode="json"),
        "seconds": round(time.monotonic() - began, 3),
        "result": dataclasses.asdict(result),
    }
    figures, plot = out / f"{arguments.study}.json", out / f"{arguments.study}.png"
    figures.write_text(json.dumps(content) + "\n", "utf-8")
    study.draw(result, plot)
    for table in study.tables(result):
        console.print(table)
    console.print(f"{figures}\n{plot}")
    return 0


def _directory(path: Path) -> Path:
    """The directory, made; before anything is measured."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as problem:
        raise CommandError(f"--out {path}: there is a file of that name; give a directory") from problem
    return path
