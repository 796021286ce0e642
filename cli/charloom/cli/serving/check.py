"""`charloom serve --check`: what is wrong with the settings of a server and with all that they name."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from charloom.cli import CommandError
from charloom.cli.flags import given_settings, mistakes
from charloom.cli.output import wrapped
from charloom.cli.problems import words_of
from charloom.cli.serving.folder import bundles_of_folder
from charloom.cli.thread_limit import check_threads, threads_of_server
from charloom.engine.decoding.first_steps import BundleStuck
from charloom.models import BUNDLED_MODEL, bundle_path
from charloom.server.checking import Finding, UsableSettings, look_at_everything
from charloom.server.identity.signatures import SigningProblem
from charloom.server.settings import ServerSettings, read_settings


def check(arguments: argparse.Namespace) -> int:
    """Print what was found, a line each; 0 only if `charloom serve` could start with these arguments."""
    found = []
    for finding in _findings(arguments):
        found.append(finding)
        good = finding.problem is None
        print(wrapped(f"{'ok' if good else 'WRONG':5}  {finding.what}: {finding.said}", 7), flush=True)
    wrong = [finding for finding in found if finding.problem is not None]
    print(f"{len(wrong)} mistakes" if len(wrong) > 1 else "1 mistake" if wrong else "no mistakes", flush=True)
    if any(isinstance(finding.problem, BundleStuck) for finding in wrong):
        sys.stdout.flush()
        os._exit(1)  # the interpreter cannot exit while a thread is inside a library
    return 1 if wrong else 0


def _findings(arguments: argparse.Namespace) -> Iterator[Finding]:
    given = given_settings(arguments, ServerSettings)
    settings: ServerSettings
    try:
        settings = read_settings(given)
    except ValidationError as problem:
        yield from (Finding("settings", said, problem) for said in mistakes(problem))
        settings = UsableSettings(**given)
    except (OSError, ValueError) as problem:
        yield Finding("settings", words_of(problem), problem)
        return
    else:
        doors = settings.open_doors()
        open_to = f"for other machines too, and {' and '.join(doors)} (--insecure)"
        yield Finding("settings", open_to if doors else "good")
    paths: list[Path] = []
    for given in arguments.bundles:
        try:
            paths.append(bundle_path(given))
        except FileNotFoundError as problem:
            yield Finding(f"bundle {given}", str(problem), problem)
    try:
        paths += bundles_of_folder(settings, empty=bool(arguments.bundles))
    except CommandError as problem:
        if not isinstance(problem.__cause__, SigningProblem):  # which is told of --trusted-keys
            yield Finding("--model-folder", str(problem), problem)
    if not (arguments.bundles or settings.model_folder):
        paths = [BUNDLED_MODEL]
    count = settings.processes * threads_of_server(len(paths), settings.limits().workers)
    try:
        check_threads(count)
    except CommandError as problem:
        yield Finding("threads", str(problem), problem)
        return  # what is opened next would need some
    yield Finding("threads", f"{count}, which can be started")
    yield from look_at_everything(paths, settings)
