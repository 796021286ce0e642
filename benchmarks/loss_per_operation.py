"""Which model to choose for which budget: loss against multiply-adds and against measured characters per second.

    python -m benchmarks.loss_per_operation TEXT FOLDER [--epochs 4] [--minutes 85] [--threads N] [--rows 64]
                                            [--seconds 1.5] [--plot FILE.svg] [--json]

Twelve small models, by cell, layers and units, learn from the same text for the same number of epochs by the same
recipe (the preset `quick`), which is tuned for none of them: compare them with each other, and not with runs that were
trained to the end. `tail` is the loss on the last tenth of the text, nats per token, of the exported decoders.
Multiply-adds are those of the matrix products of one step. Characters per second are of a decoder on one thread,
generating in so many rows at once, best of three.

FOLDER keeps runs and bundles. A call ends after `--minutes`, with what it has saved; the same call again goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.processes import hardware
from benchmarks.reporting import Budget, at_least_one, finish, new_parser, say, some_minutes
from benchmarks.training_runs import MINUTES, claim, has_ended, train
from charloom.bundle import CellKind, DecoderKind, read_bundle
from charloom.engine.decoding.onnx_decoder import OnnxDecoder
from charloom.engine.decoding.speed import tokens_per_second
from charloom.export import ExportError, export_bundle
from charloom.export.weights import DecoderWeights, decoder_weights
from charloom.lab.pictures import COLOURS, picture
from charloom.training.checkpoint import load_trained
from charloom.training.run_directory import load_validation

REPEATS = 3
KINDS = (DecoderKind.ONNX_FP32, DecoderKind.ONNX_INT8)


class Model(NamedTuple):
    """The shape of a model."""

    cell: CellKind
    layers: int
    units: int

    @property
    def name(self) -> str:
        return f"{self.cell.value}-{self.layers}x{self.units}"

    @property
    def flags(self) -> list[str]:
        """Of `charloom train`."""
        return ["--cell", self.cell.value, "--layers", str(self.layers), "--hidden-size", str(self.units)]


MODELS = [
    *(Model(CellKind.LSTM, 1, units) for units in (128, 256, 512, 768)),
    *(Model(CellKind.LSTM, 2, units) for units in (128, 256, 512)),
    *(Model(cell, 2, 256) for cell in (CellKind.CIFG, CellKind.GRU, CellKind.LAYER_NORM)),
    *(Model(cell, 1, 512) for cell in (CellKind.GRU, CellKind.LAYER_NORM)),
]


def arguments(given: list[str]) -> argparse.Namespace:
    """What the command line says."""
    parser = new_parser(__doc__)
    parser.add_argument("text", metavar="TEXT", type=Path, help="a text file")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where runs and bundles are")
    parser.add_argument("--epochs", type=at_least_one, default=4, help="of each model (default: 4)")
    parser.add_argument("--minutes", type=some_minutes, default=MINUTES, help="of this call (default: 85)")
    parser.add_argument("--threads", type=at_least_one, metavar="N", help="CPU threads of training")
    parser.add_argument("--rows", type=at_least_one, default=64, help="of the decoder (default: 64)")
    parser.add_argument("--seconds", type=float, default=1.5, help="each decoder is timed, three times (default: 1.5)")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw it into this file")
    return parser.parse_args(given)


def main(given: list[str]) -> None:
    """Train what is unfinished; where all is there, measure and draw."""
    options = arguments(given)
    budget = Budget(options.minutes)
    text = hashlib.sha256(options.text.read_bytes()).hexdigest()
    claim(options.folder, {"text": text, "epochs": options.epochs})
    common = ["--preset", "quick", "--epochs", str(options.epochs)]
    for model in MODELS:
        if not train(options.folder / model.name, options.text, [*common, *model.flags], budget, options.threads):
            break
    ended = [model for model in MODELS if has_ended(options.folder / model.name)]
    unfinished = [model.name for model in MODELS if model not in ended]
    found: dict[str, Any] = {"hardware": hardware(), "epochs": options.epochs, "rows": options.rows}
    found |= {"models": [], "unfinished": unfinished}
    for model in ended:
        found["models"].append(measured(model, options.folder, options.rows, options.seconds))
        say(f"{model.name}: {found['models'][-1]}")
    if unfinished:
        say(f"unfinished: {', '.join(unfinished)}; the same command again goes on")
    elif options.plot:
        draw(found, options.plot)
    finish(found, table(found), only_json=options.json)


def measured(model: Model, folder: Path, rows: int, seconds: float) -> dict[str, Any]:
    """Operations, size, losses and speeds of a trained model, which is exported where it was not yet."""
    run, bundle = folder / model.name, folder / f"{model.name}.bundle"
    trained = load_trained(run)
    if not bundle.is_dir():
        options: dict[str, Any] = {"name": model.name, "include_weights": False, "include_inspector": False}
        try:
            export_bundle(trained, load_validation(run), bundle, decoders=KINDS, **options)
        except ExportError as problem:
            say(f"{model.name}: {problem}")
            export_bundle(trained, load_validation(run), bundle, decoders=KINDS[:1], **options)
    manifest = read_bundle(bundle).manifest
    found: dict[str, Any] = {
        "model": model.name,
        "cell": model.cell.value,
        "layers": model.layers,
        "units": model.units,
    }
    found |= {"parameters": manifest.cell.parameters, "multiply_adds": multiply_adds(decoder_weights(trained.model))}
    for kind in KINDS:
        if kind.file not in manifest.files:
            continue
        decoder = OnnxDecoder(bundle / kind.file, kind.value)
        speeds = [tokens_per_second(decoder, rows=rows, threads=1, seconds=seconds) for _ in range(REPEATS)]
        found[kind.value] = {
            "tail": round(manifest.validation["tail"][kind.value], 4),
            "chars_per_s": round(max(speeds)),
            "bytes": (bundle / kind.file).stat().st_size,
        }
    return found


def multiply_adds(weights: DecoderWeights) -> int:
    """Of the matrix products of one step of a decoder."""
    products = [matrix for layer in weights.layers for matrix in layer.values() if matrix.ndim == 2]
    return sum(matrix.size for matrix in [*products, weights.head])


def table(found: dict[str, Any]) -> list[list[object]]:
    """A line for each model, those of the fewest operations first."""
    rows: list[list[object]] = [["model", "multiply-adds"]]
    for kind in KINDS:
        rows[0] += [f"{kind.value} tail", "characters/s", "bytes"]
    for one in sorted(found["models"], key=lambda one: int(one["multiply_adds"])):
        figures = [one.get(kind.value, {}) for kind in KINDS]
        cells = [each.get(name, "-") for each in figures for name in ("tail", "chars_per_s", "bytes")]
        rows.append([one["model"], one["multiply_adds"], *cells])
    return rows


def draw(found: dict[str, Any], file: Path) -> None:
    """Loss over multiply-adds, and over characters per second of both decoders."""
    colours = dict(zip(dict.fromkeys(one["cell"] for one in found["models"]), COLOURS, strict=False))
    with picture(file, 8.6, 4.0, form="svg") as figure:
        of_operations, of_speed = figure.subplots(1, 2, sharey=True)
        for one in found["models"]:
            colour, name = colours[one["cell"]], f"{one['layers']}x{one['units']}"
            fp32, int8 = (one.get(kind.value) for kind in KINDS)
            of_operations.plot(one["multiply_adds"], fp32["tail"], "o", color=colour)
            note = {"xytext": (4, 4), "textcoords": "offset points", "fontsize": 7, "color": colour}
            of_operations.annotate(name, (one["multiply_adds"], fp32["tail"]), **note)
            for figures, mark, face in ((fp32, "o", colour), (int8, "o", "none")):
                if figures is not None:
                    of_speed.plot(figures["chars_per_s"], figures["tail"], mark, color=colour, markerfacecolor=face)
            if int8 is not None:
                of_speed.annotate(name, (int8["chars_per_s"], int8["tail"]), **note)
        for cell, colour in colours.items():
            of_operations.plot([], [], "o", color=colour, label=cell)
        of_operations.legend(frameon=False)
        of_operations.set(xscale="log", xlabel="multiply-adds per character", ylabel="tail, nats per character")
        of_speed.set(xscale="log", xlabel=f"characters/s, one thread, {found['rows']} rows (hollow: int8)")
        low, high = of_speed.get_xlim()
        marks = [first * 10**power for power in range(1, 8) for first in (1, 2, 5)]
        shown = [mark for mark in marks if low <= mark <= high]
        of_speed.set_xticks(shown, [f"{mark:,}" for mark in shown])
        of_speed.set_xticks([], minor=True)
        title = f"Loss per operation: {found['epochs']} epochs each, one recipe for all; {found['hardware']}"
        figure.suptitle(title, fontsize=9)


if __name__ == "__main__":
    main(sys.argv[1:])
