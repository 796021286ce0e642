"""`charloom inspect TEXT`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from charloom.cli import CommandError
from charloom.cli.connection import add_connection_arguments, connected
from charloom.cli.output import print_json
from charloom.cli.sessions.heatmap import Heatmap, draw
from charloom.cli.sessions.score import add_reading_arguments
from charloom.cli.text import read_text, unknown_characters
from charloom.client import Client, Inspection, ModelInfo

ROWS = 12
"""Units that are shown unless somebody says how many, or which."""


class Kind(NamedTuple):
    """Something that each unit of a layer has for each token."""

    title: str
    high: float | None
    """The highest value that there can be, if there is one."""
    share: bool
    """Whether 0 is the lowest one; elsewhere it is the highest one with a minus."""


KINDS = {
    "input": Kind("input gate i", 1.0, True),
    "forget": Kind("forget gate f", 1.0, True),
    "candidate": Kind("candidate g", 1.0, False),
    "output": Kind("output gate o", 1.0, True),
    "cell": Kind("cell state c", None, False),
    "hidden": Kind("hidden state h", 1.0, False),
}
"""Those that are not a gate from 0 to 1 titled by its name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("text", metavar="TEXT", help="the text; - reads stdin")
    parser.add_argument(
        "--gate",
        metavar="NAME",
        help="what to show: a gate (of an LSTM input, forget, candidate or output), cell or hidden "
        "(default: cell, or hidden of a model without a cell state)",
    )
    parser.add_argument(
        "--layer", type=int, metavar="N", help="of which layer, 0 for the first one (default: the last one)"
    )
    parser.add_argument(
        "--units",
        type=_units,
        default=[],
        metavar="auto|N,N,...",
        help="which units to show (default: auto, those that vary most)",
    )
    parser.add_argument("--rows", type=int, metavar="N", help="how many units auto shows (default: 12)")
    add_reading_arguments(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--png", type=Path, metavar="FILE", help="draw into this file instead (needs matplotlib)")
    form.add_argument("--json", action="store_true", help="print one JSON object instead")
    add_connection_arguments(parser, serverless=True)


def run(arguments: argparse.Namespace) -> int:
    """Show what some units do while the text is read."""
    if arguments.rows is not None and arguments.rows < 1:
        raise CommandError(f"--rows {arguments.rows}: give at least 1")
    if arguments.rows is not None and arguments.units:
        raise CommandError("--rows says how many units auto shows, and --units which; leave one of the two out")
    text = read_text(arguments.text)
    with connected(arguments) as client:
        model, inspection = _inspect(client, text, arguments)
    if not inspection.tokens:
        raise CommandError("there is nothing to inspect; give a text with characters that the model knows")
    heatmap = _heatmap(model, inspection, arguments)
    if arguments.json:
        print_json(_plain(heatmap))
    elif arguments.png is None:
        draw(heatmap, Console(highlight=False))
    else:
        _save(heatmap, arguments.png)
    return 0


def _inspect(client: Client, text: str, arguments: argparse.Namespace) -> tuple[ModelInfo, Inspection]:
    unknown = unknown_characters(arguments)
    session = None if arguments.session is None else client.open_session(arguments.session)
    model = client.model((arguments.model or "") if session is None else session.info.model)
    layer = model.layers - 1 if arguments.layer is None else arguments.layer
    if not 0 <= layer < model.layers:
        has = "one layer, 0" if model.layers == 1 else f"layers 0 to {model.layers - 1}"
        raise CommandError(f"--layer {layer}: {model.name} has {has}")
    layers = [layer]
    if session is not None:
        return model, session.inspect(text, unknown_characters=unknown, layers=layers)
    return model, client.inspect(text, model=model.name, unknown_characters=unknown, layers=layers)


def _heatmap(model: ModelInfo, inspection: Inspection, arguments: argparse.Namespace) -> Heatmap:
    ((layer, activations),) = inspection.layers.items()
    shown = dict(activations.gates) | {"cell": activations.cell, "hidden": activations.hidden}
    names = [name for name, found in shown.items() if len(found)]
    gate = ("cell" if "cell" in names else "hidden") if arguments.gate is None else arguments.gate
    if gate not in names:
        raise CommandError(f"--gate {gate}: {model.name} ({model.cell}) has {', '.join(names)}")
    kind = KINDS.get(gate, Kind(f"{gate} gate", 1.0, True))
    values = np.asarray(shown[gate], np.float32).T
    units = arguments.units or np.argsort(-values.var(axis=1), kind="stable")[: arguments.rows or ROWS].tolist()
    if max(units) >= len(values):
        raise CommandError(f"--units {max(units)}: layer {layer} has units 0 to {len(values) - 1}")
    # What has no bounds gets those that fit, and the same on both sides.
    high = kind.high or float(f"{max(1e-6, np.abs(values[units]).max()):.2g}")
    return Heatmap(
        title=f"{model.name}, layer {layer}: {kind.title}",
        symbols=[token.symbol for token in inspection.tokens],
        bits=np.array([-token.logprob / math.log(2) for token in inspection.tokens], np.float32),
        units=units,
        values=values[units],
        low=0.0 if kind.share else -high,
        high=high,
    )


def _save(heatmap: Heatmap, file: Path) -> None:
    try:
        from charloom.cli.sessions.heatmap_png import save
    except ModuleNotFoundError as missing:
        raise CommandError(
            f"--png needs {missing.name}, which is not installed; run: pip install 'charloom[studies]'"
        ) from missing
    try:
        save(heatmap, file)
    except ValueError as problem:
        raise CommandError(f"{problem}; give a shorter text, or fewer --rows or --units") from problem
    print(f"wrote {file}: {heatmap.title}; {heatmap.summary}")


def _plain(heatmap: Heatmap) -> dict[str, object]:
    return {
        "title": heatmap.title,
        "tokens": heatmap.symbols,
        "bits": heatmap.bits.tolist(),
        "units": {str(unit): row for unit, row in zip(heatmap.units, heatmap.values.tolist(), strict=True)},
    }


def _units(text: str) -> list[int]:
    if text == "auto":
        return []
    try:
        units = [int(part) for part in text.split(",")]
    except ValueError:
        units = [-1]
    if min(units) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor numbers of units; give for example 3,17,40")
    return list(dict.fromkeys(units))  # each once
