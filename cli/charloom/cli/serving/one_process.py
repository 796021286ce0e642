"""A process that serves bundles: all of `charloom serve`, or one of its several."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from charloom.bundle import BundleError
from charloom.cli import CommandError
from charloom.cli.serving.folder import bundles_of_folder
from charloom.cli.thread_limit import check_threads, threads_of_server
from charloom.engine.decoding.first_steps import BundleStuck
from charloom.models import BUNDLED_MODEL
from charloom.server.app import DecoderStuck, Server, serve
from charloom.server.group import Group
from charloom.server.listener import PortInUse
from charloom.server.open_runtime import open_models
from charloom.server.settings import ServerSettings
from charloom.server.signals import Orders
from charloom.server.telemetry.tracing import open_export


def bundles_to_serve(given: Sequence[Path], settings: ServerSettings) -> list[Path]:
    """Bundles that were given, with those of the folder of models; the bundled model where there are none.

    Raises:
        CommandError: as `bundles_of_folder`.
    """
    return [*given, *bundles_of_folder(settings, empty=bool(given))] or [BUNDLED_MODEL]


def serve_bundles(given: Sequence[Path], settings: ServerSettings, ready: Callable[[Server], None]) -> None:
    """Serve alone, until SIGTERM or SIGINT: bundles that were given, and those that the settings name.

    Raises:
        CommandError: that cannot be done.
    """
    serve_paths(bundles_to_serve(given, settings), settings, ready)


def serve_paths(
    paths: Sequence[Path],
    settings: ServerSettings,
    ready: Callable[[Server], None],
    orders: Orders | None = None,
    group: Group | None = None,
    digests: Mapping[str, str] | None = None,
) -> None:
    """Open bundles and serve them until the end; arguments as of `open_models` and `charloom.server.app.serve`.

    Raises:
        CommandError: that cannot be done.
    """
    check_threads(threads_of_server(len(paths), settings.limits().workers))
    try:
        with _traced(settings):
            asyncio.run(serve(open_models(paths, settings, digests), settings, ready, orders, group))
    except (BundleStuck, DecoderStuck) as problem:
        print(f"charloom serve: {problem}", file=sys.stderr, flush=True)
        os._exit(1)  # the interpreter cannot exit while its thread is inside a library
    except (BundleError, PortInUse, ValueError) as problem:
        raise CommandError(str(problem)) from problem


def described(server: Server) -> list[str]:
    """A line for each model, for people."""
    lines = []
    for model in server.engine.models:
        manifest, decoder = model.bundle.manifest, model.decoder
        lines.append(
            f"model {model.name}: {manifest.cell.layers} x {manifest.cell.hidden_size} {manifest.cell.kind.value}, "
            f"{manifest.vocabulary_size} symbols, {decoder.kind} on {decoder.device}"
            + (f", a classifier: {', '.join(manifest.labelling.labels)}" if manifest.labelling else "")
            + ("" if model.batch_invariant else "; texts may depend on the load (batch invariance fails here)")
        )
    return lines


def announce(server: Server) -> None:
    """The first line of standard output: where the server is, for people and for scripts."""
    for line in described(server):
        print(line, file=sys.stderr)
    print(f"listening on {server.address}", flush=True)
    if server.http_address:
        print(f"HTTP on {server.http_address}", flush=True)


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
