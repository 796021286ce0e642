"""`charloom serve [BUNDLE ...]`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from charloom.bundle import BundleError
from charloom.cli import CommandError
from charloom.cli.flags import add_settings_flags, explain, given_settings
from charloom.cli.serving.check import check
from charloom.cli.serving.folder import bundles_of_folder
from charloom.cli.thread_limit import check_threads, threads_of_server
from charloom.engine.decoding.first_steps import BundleStuck
from charloom.models import BUNDLED_MODEL, bundle_path
from charloom.server.app import DecoderStuck, Server, serve
from charloom.server.listener import PortInUse
from charloom.server.logs import set_up_logs
from charloom.server.runtime import open_models
from charloom.server.settings import CONFIG_VARIABLE, ServerSettings, read_settings
from charloom.server.signals import leave_when_asked
from charloom.server.telemetry.tracing import open_export

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
    """Serve until SIGTERM or SIGINT."""
    if arguments.config:
        os.environ[CONFIG_VARIABLE] = arguments.config
    if arguments.check:
        return check(arguments)
    serve_bundles(arguments.bundles, given_settings(arguments, ServerSettings), _announce)
    return 0


def serve_bundles(bundles: Sequence[Path], given: dict[str, Any], ready: Callable[[Server], None]) -> None:
    """Serve in this process until SIGTERM or SIGINT.

    Args:
        bundles: what to serve; none for the bundled model
        given: settings, which win over those of the environment and the file
        ready: called once the server takes calls

    Raises:
        CommandError: it cannot.
    """
    try:
        settings = read_settings(given)
    except ValidationError as problem:
        raise CommandError(explain(problem)) from problem
    except (OSError, ValueError) as problem:
        raise CommandError(f"cannot read the settings: {problem}") from problem
    try:
        paths = [bundle_path(path) for path in bundles]
    except FileNotFoundError as problem:
        raise CommandError(str(problem)) from problem
    set_up_logs(settings.log_format)
    paths = [*paths, *bundles_of_folder(settings, empty=bool(paths))] or [BUNDLED_MODEL]
    check_threads(threads_of_server(len(paths), settings.limits().workers))
    if (found := settings.open_host()) is not None and (doors := settings.open_doors()):
        log.warning("--insecure: %s %s is for other machines too, and %s", *found, " and ".join(doors))
    leave_when_asked()
    try:
        with _traced(settings):
            asyncio.run(serve(open_models(paths, settings), settings, ready))
    except (BundleStuck, DecoderStuck) as problem:
        print(f"charloom serve: {problem}", file=sys.stderr, flush=True)
        os._exit(1)  # its thread is inside a library and lets no interpreter end in order
    except (BundleError, PortInUse, ValueError) as problem:
        raise CommandError(str(problem)) from problem


@contextmanager
def _traced(settings: ServerSettings) -> Iterator[None]:
    """Export traces meanwhile, where the settings want it.

    Raises:
        ValueError: what exports them is not installed, or its variables are wrong.
    """
    if not settings.traces:
        yield
        return
    export = open_export()
    export.install()
    try:
        yield
    finally:
        export.close()


def _announce(server: Server) -> None:
    """The first line of standard output: where the server is, for people and for scripts."""
    for model in server.engine.models:
        manifest, decoder = model.bundle.manifest, model.decoder
        print(
            f"model {model.name}: {manifest.cell.layers} x {manifest.cell.hidden_size} {manifest.cell.kind.value}, "
            f"{manifest.vocabulary_size} symbols, {decoder.kind} on {decoder.device}"
            + ("" if model.batch_invariant else "; texts may depend on the load (batch invariance fails here)"),
            file=sys.stderr,
        )
    print(f"listening on {server.address}", flush=True)
    if server.http_address:
        print(f"HTTP on {server.http_address}", flush=True)
