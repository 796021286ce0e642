"""`charloom serve [BUNDLE ...]`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from charloom.cli import CommandError
from charloom.cli.flags import add_settings_flags, explain, given_settings
from charloom.cli.problems import words_of
from charloom.cli.variables import unread_by_servers
from charloom.models import BUNDLED_MODEL, bundle_path
from charloom.server.logs import set_up_logs
from charloom.server.settings import CONFIG_VARIABLE, ServerSettings, read_settings
from charloom.server.signals import leave_when_asked

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "bundles",
        metavar="BUNDLE",
        nargs="*",
        type=Path,
        help=f"bundles to serve (default: {BUNDLED_MODEL.name}, the bundled model)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="read settings, bundles, keys, certificates and store, tell each mistake, and change and serve nothing",
    )
    parser.add_argument("--config", help=f"a TOML file with settings (also: {CONFIG_VARIABLE})")
    group = parser.add_argument_group(
        "settings", "each also as an environment variable, --max-rows as CHARLOOM_MAX_ROWS; flags win over both"
    )
    add_settings_flags(group, ServerSettings)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. Each kind of run imports its own: a parent of processes has no engine."""
    if arguments.config == "":
        raise CommandError("--config is empty; give a TOML file, or leave it out")
    if arguments.config is not None:
        os.environ[CONFIG_VARIABLE] = arguments.config
    if arguments.check:
        from charloom.cli.serving.check import check

        for said in unread_by_servers():
            print(f"charloom serve: {said}", file=sys.stderr, flush=True)
        return check(arguments)
    settings, paths = begin(arguments.bundles, given_settings(arguments, ServerSettings))
    if settings.processes > 1:
        from charloom.cli.serving.several_processes import serve_with_children

        serve_with_children(paths, settings)
    else:
        from charloom.cli.serving.one_process import announce, serve_bundles

        serve_bundles(paths, settings, announce)
    return 0


def begin(bundles: Sequence[Path], given: dict[str, Any]) -> tuple[ServerSettings, list[Path]]:
    """Read the settings, and let logs and signals be those of a server; returns the settings and the bundles' paths.

    Args:
        bundles: what to serve
        given: settings, which win over those of the environment and the file

    Raises:
        CommandError: the settings cannot be used, or a bundle is not there.
    """
    try:
        settings = read_settings(given)
    except ValidationError as problem:
        raise CommandError(explain(problem)) from problem
    except (OSError, ValueError) as problem:
        raise CommandError(
            f"cannot read the file of settings (--config, {CONFIG_VARIABLE}): {words_of(problem)}"
        ) from problem
    try:
        paths = [bundle_path(path) for path in bundles]
    except FileNotFoundError as problem:
        raise CommandError(str(problem)) from problem
    set_up_logs(settings.log_format)
    for said in unread_by_servers():
        log.warning("%s", said)
    if (found := settings.open_host()) is not None and (doors := settings.open_doors()):
        log.warning("--insecure: %s %s is for other machines too, and %s", *found, " and ".join(doors))
    leave_when_asked()
    return settings, paths
