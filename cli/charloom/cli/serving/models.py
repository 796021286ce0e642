"""`charloom models`."""

from __future__ import annotations

import argparse
import dataclasses
import json

from charloom.cli.columns import columns
from charloom.cli.connection import add_connection_arguments, connected, plain
from charloom.client import ModelInfo

_HEADINGS = ("NAME", "UNIT", "SYMBOLS", "NETWORK", "PARAMETERS", "DECODER", "DEVICE", "STATE", "VALIDATION")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--json", action="store_true", help="print all that is known, as a JSON list")
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the models of a server, the default one first."""
    with connected(arguments) as client:
        models = client.models()
    if arguments.json:
        print(json.dumps([dataclasses.asdict(model) for model in models], ensure_ascii=False, default=plain))
        return 0
    print(columns([_HEADINGS, *map(_row, models)]))
    return 0


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
    """The losses of the decoder in use, or else those of the checkpoint, marked so."""
    shown = []
    for protocol, losses in model.validation.items():
        if model.decoder in losses:
            shown.append(f"{protocol} {losses[model.decoder]:.4f} nats")
        elif "checkpoint" in losses:
            shown.append(f"{protocol} {losses['checkpoint']:.4f} nats (checkpoint)")
    return ", ".join(shown)
