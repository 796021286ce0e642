"""`charloom models [ACTION]`."""

from __future__ import annotations

import argparse
import sys

from charloom.cli import CommandError
from charloom.cli.connection import add_connection_arguments, connected
from charloom.cli.output import columns, print_json
from charloom.client import Client, LoadedModel, ModelInfo, ModelState, ModelVersion, RequestError

_HEADINGS = ("NAME", "UNIT", "SYMBOLS", "NETWORK", "PARAMETERS", "DECODER", "DEVICE", "STATE", "VALIDATION")
_VERSION_HEADINGS = ("NAME", "VERSION", "STATE", "DIGEST", "CALLS", "GRACE ENDS")

ACTIONS = {
    "list": "the models that serve (default)",
    "versions": "what serves, drains and is being loaded",
    "load": "load the bundle PATH of the server, NAME/VERSION below its --model-folder, or absolute",
    "reload": "load the models NAME, or all, anew: the newest version in --model-folder, even after a load of an older "
    "one, or else the bundle that the model came from",
    "unload": "let the model NAME serve no new calls; running ones and sessions go on",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    actions = "; ".join(f"{name}: {does}" for name, does in ACTIONS.items())
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", metavar="ACTION", help=actions)
    parser.add_argument("what", metavar="PATH|NAME", nargs="*", help="what to load, reload or unload")
    parser.add_argument("--json", action="store_true", help="print all that is known, as a JSON list")
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked of the models of a server; 1 where one of several cannot be reloaded."""
    action, what = arguments.action, arguments.what
    if action in ("load", "unload") and len(what) != 1:
        raise CommandError(f"{action} needs one {'PATH' if action == 'load' else 'NAME'}")
    if action in ("list", "versions") and what:
        raise CommandError(f"{action} takes no names")
    with connected(arguments) as client:
        if action == "reload":
            return _reload(client, arguments)
        if action == "load":
            _print_loaded([client.load_model(what[0])], arguments)
        elif action == "unload":
            _print_versions([client.unload_model(what[0])], arguments)
        elif action == "versions":
            _print_versions(client.model_versions(), arguments)
        else:
            _print_models(client.models(), arguments)
    return 0


def _reload(client: Client, arguments: argparse.Namespace) -> int:
    loaded, failed = [], False
    for name in arguments.what or [model.name for model in client.models()]:
        try:
            loaded.append(client.reload_model(name))
        except RequestError as problem:  # the others can still be reloaded
            failed = True
            print(f"charloom models: {name}: {problem}", file=sys.stderr)
    _print_loaded(loaded, arguments)
    return int(failed)


def _print_loaded(loaded: list[LoadedModel], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(loaded)
        return
    for version, changed in ((one.version, one.changed) for one in loaded):
        now = "serves now" if changed else "served already"
        print(f"{version.name} {version.version} ({version.digest[:12]}) {now}")


def _print_versions(versions: list[ModelVersion], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(versions)
    else:
        print(columns([_VERSION_HEADINGS, *map(_version_row, versions)]))


def _version_row(version: ModelVersion) -> tuple[str, ...]:
    calls = "-" if version.state is ModelState.LOADING else str(version.calls)
    ends = version.grace_end_time
    shown = "-" if ends is None else ends.isoformat(timespec="seconds")
    return (version.name, version.version, version.state.value, version.digest[:12], calls, shown)


def _print_models(models: list[ModelInfo], arguments: argparse.Namespace) -> None:
    """The default one first."""
    if arguments.json:
        print_json(models)
    else:
        print(columns([_HEADINGS, *map(_row, models)]))


def _row(model: ModelInfo) -> tuple[str, ...]:
    return (
        model.name,
        model.unit.value,
        str(model.vocabulary_size),
        f"{model.cell} {model.layers} x {model.hidden_size}",
        f"{model.parameters:,}",
        model.decoder,
        model.device,
        f"{model.state_bytes:,} B",
        _validation(model) or "-",
    )


def _validation(model: ModelInfo) -> str:
    """The losses of the decoder in use, or else those of the checkpoint, marked so; of a classifier its accuracy."""
    shown = []
    scores = model.label_scores.get(model.decoder)
    if scores is not None:
        shown.append(f"accuracy {scores.accuracy:.4f} ({', '.join(model.labels)})")
    for protocol, losses in model.validation.items():
        if model.decoder in losses:
            shown.append(f"{protocol} {losses[model.decoder]:.4f} nats")
        elif "checkpoint" in losses:
            shown.append(f"{protocol} {losses['checkpoint']:.4f} nats (checkpoint)")
    return ", ".join(shown)
