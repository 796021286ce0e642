"""What a session that learns from its text gains and costs, beside one that does not. Needs no server.

    python -m benchmarks.adaptive BUNDLE TEXT [--share 0.1] [--steps] [--rows 1,16,64] [--rounds 9] [--json]

The last `--share` of TEXT is read once, in order, by one row from the zero state (the protocol `tail`), without and
with learning; the loss is also told of parts of it, since a session has learnt little at first. With learning it is a
number of its own, not to be compared with those of models that do not learn from the text that they are judged by.

With `--steps`, steps that generate are timed as by `benchmarks.decoder`: one thread, processor time, by turns, the
reference artifact, int8. "one" is a batch in which one row learns, "all" one in which all rows do.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ceiling import STEPS, bare_step
from benchmarks.decoder import Call, compared
from benchmarks.processes import hardware
from benchmarks.reference import write_reference_bundle
from benchmarks.reporting import at_least_one, counts, finish, new_parser, say
from charloom.bundle import Bundle, DecoderKind, Tokens, read_bundle
from charloom.engine.decoding.adaptation import fresh
from charloom.engine.decoding.decoder import Adaptation, Floats, Inputs, neutral
from charloom.engine.decoding.invariance import generating_inputs
from charloom.engine.decoding.onnx_decoder import OnnxDecoder

CALL = 64
"""Steps of a call that reads."""
BORDERS = (0, 1_000, 10_000)
"""Where parts of the text begin, in tokens."""


def main() -> None:
    """Run the benchmark."""
    parser = new_parser(__doc__)
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a bundle with an ONNX decoder")
    parser.add_argument("text", metavar="TEXT", type=Path, help="a text file in UTF-8")
    parser.add_argument("--share", type=_share, default=0.1, help="of the text, its end (default: 0.1)")
    parser.add_argument("--steps", action="store_true", help="time steps too")
    parser.add_argument("--rows", type=counts, default=[1, 16, 64], help="numbers of rows")
    parser.add_argument("--rounds", type=at_least_one, default=9, help="how often each step is timed")
    options = parser.parse_args()
    bundle = read_bundle(options.bundle)
    kind = next(kind for kind in bundle.manifest.decoders if kind is not DecoderKind.TORCHSCRIPT)
    decoder = OnnxDecoder(bundle.decoder_file(kind), kind.value)
    text = options.text.read_bytes().decode()
    tokens = bundle.vocabulary.encode(text[int(len(text) * (1 - options.share)) :])
    found: dict[str, Any] = {"hardware": hardware(), "decoder": kind.value, "tokens": len(tokens)}
    found["state_bytes"] = fresh(1, decoder.shape.vocabulary).nbytes
    found["loss"] = {}
    for name, learns in (("ordinary", False), ("adaptive", True)):
        found["loss"][name] = parts_of(losses(decoder, tokens, learns=learns))
        say(f"{name}: {found['loss'][name]}")
    found["steps"] = {}
    if options.steps:
        with tempfile.TemporaryDirectory() as directory:
            reference = read_bundle(write_reference_bundle(Path(directory) / "bundle"))
            for rows in options.rows:
                found["steps"][str(rows)] = compared(calls_of(reference, rows), options.rounds)
                say(f"{rows} rows: {found['steps'][str(rows)]}")
    parts = list(found["loss"]["ordinary"])
    table: list[list[object]] = [["nats per token", *parts]]
    table += [[name, *(loss[part] for part in parts)] for name, loss in found["loss"].items()]
    if found["steps"]:
        table.append(["rows", "what", "us a step", "this / generating", *[""] * (len(parts) - 3)])
    for rows, figures in found["steps"].items():
        for what, each in figures.items():
            table.append([rows, what, each["us"], each["to_generating"], *[""] * (len(parts) - 3)])
    finish(found, table, only_json=options.json)


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share above 0, up to 1")
    return share


def losses(decoder: OnnxDecoder, tokens: Tokens, *, learns: bool) -> Floats:
    """The loss of each token but the first, [T - 1], read by one row from the zero state."""
    shape, sampling = decoder.shape, neutral(1, decoder.shape.vocabulary)
    state = np.zeros((shape.arrays, shape.layers, 1, shape.hidden), np.float32)
    adaptation = Adaptation(np.array([True]), fresh(1, shape.vocabulary)) if learns else None
    found = []
    for start in range(0, len(tokens) - 1, CALL):
        forced = np.asarray(tokens[start + 1 : start + 1 + CALL], np.int64)[:, None]
        outputs = decoder.run(
            Inputs(
                token=np.asarray(tokens[start : start + 1], np.int64),
                state=state,
                forced=forced,
                steps=np.array([len(forced)]),
                uniform=np.zeros(forced.shape, np.float32),
                sampling=sampling,
                adaptation=adaptation,
            )
        )
        state = outputs.state
        if adaptation is not None:
            adaptation = adaptation._replace(state=outputs.adaptation)
        found.append(-outputs.logprob[:, 0])
    return np.concatenate(found)


def parts_of(found: Floats) -> dict[str, float]:
    """The mean of all, and of each part that there is."""
    borders = [*(border for border in BORDERS if border < len(found)), len(found)]
    parts = {"tail": (0, len(found))} | {f"{a:,} to {b:,}": (a, b) for a, b in pairwise(borders)}
    return {name: round(float(found[a:b].mean(dtype=np.float64)), 4) for name, (a, b) in parts.items()}


def calls_of(bundle: Bundle, rows: int) -> dict[str, Call]:
    """What is timed: the bare step, and calls that generate without and with learning."""
    decoder = OnnxDecoder(bundle.decoder_file(DecoderKind.ONNX_INT8), DecoderKind.ONNX_INT8.value)
    free = generating_inputs(decoder, rows, STEPS)
    calls: dict[str, Call] = {"bare": (bare_step(int8=True, rows=rows), 1)}
    calls["generating"] = (partial(decoder.run, free), STEPS)
    for name, learning in (("one", 1), ("all", rows)):
        adaptation = Adaptation(np.arange(rows) < learning, fresh(rows, decoder.shape.vocabulary))
        calls[name] = (partial(decoder.run, free._replace(adaptation=adaptation)), STEPS)
    return calls


if __name__ == "__main__":
    main()
