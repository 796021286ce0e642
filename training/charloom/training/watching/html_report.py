"""A run as one page: settings, curves, gates, samples, warnings, and how to go on.

The page is one file: it needs neither a network nor scripts. What comes from a text, a model or a path is escaped.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from typing import Any

from charloom.bundle import parse_json
from charloom.training.checkpoint import read_facts
from charloom.training.config import TrainingConfig
from charloom.training.files import CheckpointError, replace_file
from charloom.training.records import Advice, Evaluation, Progress
from charloom.training.run_directory import BEST_FILE, CLASSIFIER_FILE, CONFIG_FILE, LAST_FILE, REPORT_FILE, read_losses
from charloom.training.watching.charts import Line, histogram, legend, line_chart
from charloom.training.watching.figures import bits, clock, kind_title, loss_figures, perplexity
from charloom.training.watching.history import read_evaluations, read_warnings

SHOWN_SAMPLES = 6
_STYLE = (Path(__file__).with_name("report.css")).read_text("utf-8")


class HtmlReport:
    """A watcher that writes the page of a run anew at each evaluation."""

    def __init__(self, run: Path) -> None:
        self._run = run

    def step(self, progress: Progress) -> None:
        """Nothing new to show."""

    def evaluation(self, evaluation: Evaluation) -> None:
        """Write the page."""
        write_report(self._run)

    def advice(self, advice: Advice) -> None:
        """Write the page."""
        write_report(self._run)

    def close(self) -> None:
        """Nothing is open."""


def write_report(run: Path) -> Path:
    """Write the page of a run, in one step; returns its file.

    Raises:
        CheckpointError: there is no run, its files are damaged, or the page cannot be written.
    """
    file = run / REPORT_FILE
    replace_file(file, report_page(run).encode())
    return file


def report_page(run: Path) -> str:
    """The page of a run.

    Raises:
        CheckpointError: there is no run, or its files are damaged.
    """
    if (run / CLASSIFIER_FILE).is_file():
        raise CheckpointError(
            f"{run} is a run of `charloom classify train`; only runs of `charloom train` have a report"
        )
    config = _json(run / CONFIG_FILE)
    if config is None:
        raise CheckpointError(f"there is no run in {run}; give the directory of a run that `charloom train` made")
    evaluations, warnings = read_evaluations(run), read_warnings(run)
    facts = next((read_facts(run / file) for file in (BEST_FILE, LAST_FILE) if (run / file).is_file()), {})
    sections = [
        _summary(evaluations, config),
        _warnings(warnings),
        _charts(evaluations),
        _gates(evaluations),
        _samples(evaluations),
        _losses(*read_losses(run)),
        _settings(config),
        _origin(facts),
        _next(run, evaluations),
    ]
    name = escape(run.resolve().name)
    written = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{name} - charloom</title><style>{_STYLE}</style></head><body>"
        f"<header><h1>{name}</h1><p>charloom, written {written}</p></header><main>{''.join(sections)}</main>"
        "</body></html>\n"
    )


def _json(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        found = dict(parse_json(file.read_bytes()))
    except (TypeError, ValueError) as problem:
        raise CheckpointError(f"{file} is damaged ({problem})") from problem
    return found


def _section(title: str, content: str, kind: str = "") -> str:
    return f'<section class="{kind}"><h2>{title}</h2>{content}</section>' if content else ""


def _table(rows: Iterable[tuple[str, object]]) -> str:
    cells = (f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def _summary(evaluations: Sequence[Evaluation], config: dict[str, Any]) -> str:
    if not evaluations:
        return _section("So far", "<p class='none'>no evaluation yet</p>")
    last, best = evaluations[-1], min(evaluations, key=lambda evaluation: evaluation.validation_loss)
    unit = "token" if config.get("unit") == "word" else str(config.get("unit", "token"))
    tiles = [
        (f"{best.validation_loss:.4f}", f"best validation loss, nats (epoch {best.epoch:.2f})"),
        (f"{bits(best.validation_loss):.4f}", f"bits per {unit}"),
        (f"{perplexity(best.validation_loss):.3f}", "perplexity"),
        (f"{last.epoch:.2f} of {config.get('epochs', '?')}", f"epochs, {last.step:,} steps"),
        (clock(last.seconds), "of training"),
        (f"{last.tokens_per_second:,.0f}", f"{unit}s per second"),
        (f"{last.memory_bytes / 1e6:,.0f} MB", "memory"),
    ]
    shown = "".join(f"<div><b>{escape(figure)}</b><span>{escape(name)}</span></div>" for figure, name in tiles)
    return f'<div class="tiles">{shown}</div>'


def _warnings(warnings: Sequence[Advice]) -> str:
    shown = "".join(
        f"<li><b>{escape(advice.cause)}</b>, step {advice.step:,}: {escape(advice.text)}</li>" for advice in warnings
    )
    return _section("Warnings", f"<ul>{shown}</ul>", "warnings") if warnings else ""


def _charts(evaluations: Sequence[Evaluation]) -> str:
    if not evaluations:
        return ""
    epochs = [evaluation.epoch for evaluation in evaluations]

    def chart(title: str, y_name: str, lines: dict[str, list[float]], **how: Any) -> str:
        drawn = line_chart(title, epochs, [Line(*line) for line in lines.items()], x_name="epoch", y_name=y_name, **how)
        return f"<figure><figcaption>{title}</figcaption>{drawn}</figure>"

    parts = {
        part: [e.gradient_norms.get(part, math.nan) for e in evaluations] for part in evaluations[-1].gradient_norms
    }
    charts = [
        chart(
            "Loss",
            "nats",
            {
                "training": [e.train_loss for e in evaluations],
                "validation": [e.validation_loss for e in evaluations],
            },
            second=("bits", bits(1.0)),
        ),
        chart("Learning rate", "rate", {"rate": [e.learning_rate for e in evaluations]}, from_zero=True),
        chart("Gradient norm, by part, before clipping", "norm", parts, log=True),
        chart("Clipped steps", "%", {"clipped": [100 * e.clipped_share for e in evaluations]}, from_zero=True),
        chart("Speed", "tokens/s", {"speed": [e.tokens_per_second for e in evaluations]}, from_zero=True),
        chart("Resident memory", "MB", {"memory": [e.memory_bytes / 1e6 for e in evaluations]}, from_zero=True),
    ]
    return _section("Curves", f'<div class="charts">{"".join(charts)}</div>')


def _spread(evaluations: Sequence[Evaluation], count: int) -> list[Evaluation]:
    """The first, the last, and evenly chosen ones between them."""
    last = len(evaluations) - 1
    return [evaluations[place] for place in sorted({round(n * last / max(1, count - 1)) for n in range(count)})]


def _gates(evaluations: Sequence[Evaluation]) -> str:
    seen = [evaluation for evaluation in evaluations if evaluation.gates]
    if not seen:
        return ""
    chosen = _spread(seen, 3)
    kinds = next(iter(chosen[-1].gates.values()))
    head = "".join(f"<th>{escape(kind_title(kind))}</th>" for kind in kinds)
    rows = "".join(
        f"<tr><th>{escape(layer)}</th>{''.join(_gate_cells(layer, chosen))}</tr>" for layer in chosen[-1].gates
    )
    keys = legend([f"epoch {evaluation.epoch:.2f}" for evaluation in chosen])
    note = (
        "<p>How open the gates are on a fixed piece of the validation text, and below each picture the share of values "
        "in the lowest and in the highest tenth (candidate: next to -1 and 1), last evaluation.</p>"
    )
    table = f'<table class="gates"><tr><th></th>{head}</tr>{rows}</table>'
    return _section("Gates", f'{note}{keys}<div class="wide">{table}</div>')


def _gate_cells(layer: str, chosen: Sequence[Evaluation]) -> Iterator[str]:
    for kind in chosen[-1].gates[layer]:
        found = [evaluation.gates[layer][kind] for evaluation in chosen]
        last = found[-1]
        picture = histogram(f"{layer}, {kind}", [each.counts for each in found], last.low)
        yield f"<td>{picture}<small>{last.near_low:.0%} low, {last.near_high:.0%} high</small></td>"


def _samples(evaluations: Sequence[Evaluation]) -> str:
    if not evaluations:
        return ""
    chosen = _spread(evaluations, SHOWN_SAMPLES)[::-1]
    shown = "".join(
        f"<details{' open' * (number < 2)}><summary>epoch {evaluation.epoch:.2f}, "
        f"{evaluation.validation_loss:.4f} nats</summary><pre>{escape(evaluation.sample)}</pre></details>"
        for number, evaluation in enumerate(chosen)
    )
    return _section("Samples, the latest first", shown)


def _losses(step: int, found: dict[str, float]) -> str:
    if not found:
        return ""
    rows = [(protocol, loss_figures(loss)) for protocol, loss in found.items()]
    note = f"<p>Of the best weights, from step {step:,}, by validation protocol.</p>"
    return _section("Final losses", note + _table(rows))


def _settings(config: dict[str, Any]) -> str:
    defaults = TrainingConfig().model_dump(mode="json")
    changed = {name: value for name, value in config.items() if defaults.get(name) != value}
    usual = {name: value for name, value in config.items() if name not in changed}
    given = _table(changed.items()) if changed else "<p>all as they are by default</p>"
    rest = f"<details><summary>{len(usual)} settings as they are by default</summary>{_table(usual.items())}</details>"
    return _section("Settings", given + rest)


def _origin(facts: dict[str, Any]) -> str:
    corpus = facts.get("corpus")
    told = corpus.items() if isinstance(corpus, dict) else ()
    rows = [(f"corpus {name}", f"{value:,}" if isinstance(value, int) else value) for name, value in told]
    names = ("parameters", "precision", "device", "threads", "processes", "torch", "python")
    rows += [(n, f"{facts[n]:,}" if isinstance(facts[n], int) else facts[n]) for n in names if n in facts]
    return _section("Corpus and environment", _table(rows)) if rows else ""


def _next(run: Path, evaluations: Sequence[Evaluation]) -> str:
    where = shlex.quote(str(run))
    commands = [
        f"charloom train TEXT --run {where} --resume    # if it was stopped",
        f"charloom evaluate {where}",
        f"charloom export {where} BUNDLE",
        "charloom serve BUNDLE",
    ]
    return _section("How to go on", f"<pre>{escape(chr(10).join(commands))}</pre>") if evaluations else ""
