"""A run at a glance, in as many lines as a terminal has."""

from __future__ import annotations

import math
import textwrap
import time
from collections import deque
from collections.abc import Iterator, Sequence
from statistics import mean

import psutil
from rich.text import Text

from charloom.training.records import Advice, Evaluation, Progress
from charloom.training.watching.figures import bits, clock, kind_title, perplexity, printable

SMOOTHED = 20
"""Steps over which the present loss is averaged."""
SAMPLE_LINES, WARNING_LINES, SHOWN_WARNINGS = 5, 3, 2
BLOCKS = "▁▂▃▄▅▆▇█"
LABEL = 11
"""Columns of the names on the left."""


def sparkline(values: Sequence[float], width: int) -> str:
    """Values as blocks of different height, the last ones right; of too many, evenly chosen ones."""
    chosen = list(values)
    if len(chosen) > width:
        chosen = [values[round(index * (len(values) - 1) / (width - 1))] for index in range(width)]
    finite = [value for value in chosen if math.isfinite(value)]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * scale)] if math.isfinite(value) else " " for value in chosen)


class Dashboard:
    """What is known of a run so far.

    Args:
        name: of the run
        unit: what a token is
        total_steps: of the whole run
        done_steps: that were made before
        evaluations: that were made before
    """

    def __init__(
        self, name: str, unit: str, total_steps: int, done_steps: int = 0, evaluations: Sequence[Evaluation] = ()
    ) -> None:
        self._name, self._unit = name, unit
        self._total, self._start = total_steps, done_steps
        self._evaluations = list(evaluations)
        self._advice: list[Advice] = []
        self._losses: deque[float] = deque(maxlen=SMOOTHED)
        self._last: Progress | None = None
        self._clipped = self._since = 0
        self._began = time.monotonic()
        self._earlier = self._evaluations[-1].seconds if self._evaluations else 0.0

    def step(self, progress: Progress) -> None:
        """Take note of a step."""
        self._last = progress
        self._losses.append(progress.loss)
        self._clipped += progress.clipped
        self._since += 1

    def evaluation(self, evaluation: Evaluation) -> None:
        """Take note of an evaluation."""
        self._evaluations.append(evaluation)
        self._clipped = self._since = 0

    def advice(self, advice: Advice) -> None:
        """Take note of a warning."""
        self._advice.append(advice)

    def lines(self, width: int, height: int) -> list[Text]:
        """Everything that fits: the figures first, then gates, warnings and the last sample."""
        lines = [*self._head(width), Text(), *self._losses_table(width), *self._gradient(width)]
        room = height - len(lines)
        warnings = list(self._warnings(width))
        gates = list(self._gates(max(0, room - len(warnings) - 3)))
        sample = list(self._sample(min(SAMPLE_LINES, room - len(gates) - len(warnings))))
        lines += [*gates, *sample, *warnings]
        for line in lines:
            line.no_wrap = True
            line.truncate(width, overflow="ellipsis")
        return lines[:height]

    def _head(self, width: int) -> Iterator[Text]:
        last = self._last
        done = last.step if last else self._start
        share = done / max(1, self._total)
        figures = f" {share:6.1%}  step {done:,} of {self._total:,}"
        bar = max(10, width - len(figures))
        full = round(bar * share)
        yield Text.assemble(("━" * full, "green"), ("━" * (bar - full), "bright_black"), figures)
        epochs = self._total / (last.step / last.epoch) if last and last.epoch else 0
        passed = time.monotonic() - self._began
        left = passed / (done - self._start) * (self._total - done) if done > self._start else None
        parts = [
            f"{self._name}",
            f"epoch {last.epoch:.2f} of {epochs:.0f}" if last else "starting",
            f"{clock(self._earlier + passed)} passed",
            f"{clock(left)} left" if left is not None else "",
            f"{last.tokens_per_second:,.0f} {self._unit}s/s" if last else "",
        ]
        yield Text("  ".join(part for part in parts if part), style="bold")

    def _losses_table(self, width: int) -> Iterator[Text]:
        unit = f"bits/{'char' if self._unit == 'character' else self._unit}"
        yield Text(f"{'':{LABEL}}{'nats':>9}{unit:>11}{'perplexity':>12}", style="dim")
        if self._losses:
            yield self._loss("training", mean(self._losses), f"mean of {len(self._losses)} steps")
        if self._evaluations:
            last = self._evaluations[-1]
            best = min(self._evaluations, key=lambda evaluation: evaluation.validation_loss)
            yield self._loss("validation", last.validation_loss, f"at epoch {last.epoch:.2f}")
            yield self._loss("best", best.validation_loss, f"at epoch {best.epoch:.2f}", "green")
            losses = [evaluation.validation_loss for evaluation in self._evaluations]
            if len(losses) > 1:
                ends = f"  {losses[0]:.3f} to {losses[-1]:.3f}"
                yield Text.assemble(
                    (f"{'course':{LABEL}}", "cyan"), sparkline(losses, width - LABEL - len(ends)), (ends, "dim")
                )

    def _loss(self, label: str, nats: float, note: str, style: str = "") -> Text:
        figures = f"{nats:9.4f}{bits(nats):11.4f}{perplexity(nats):12.3f}"
        return Text.assemble((f"{label:{LABEL}}", "cyan"), (figures, style), (f"   {note}", "dim"))

    def _gradient(self, width: int) -> Iterator[Text]:
        last = self._last
        if last is None:
            return
        clipped = self._clipped / self._since if self._since else 0.0
        memory = psutil.Process().memory_info().rss / 1e6
        yield Text.assemble(
            (f"{'gradient':{LABEL}}", "cyan"),
            f"{last.gradient_norm:.3g}  clipped {clipped:.0%}",
            ("   learning rate ", "cyan"),
            f"{last.learning_rate:.2e}",
            ("   memory ", "cyan"),
            f"{memory:,.0f} MB",
        )
        parts = "  ".join(f"{name} {norm:.2g}" for name, norm in last.gradient_norms.items())
        for line in textwrap.wrap(parts, max(20, width - LABEL), max_lines=2, placeholder=" ..."):
            yield Text(" " * LABEL + line, style="dim")

    def _gates(self, room: int) -> Iterator[Text]:
        gates = self._evaluations[-1].gates if self._evaluations else {}
        if not gates or room < 2:
            return
        kinds = list(next(iter(gates.values())))
        yield Text(f"{'% <.1 >.9':{LABEL}}" + "".join(f"{kind_title(kind):>12}" for kind in kinds), style="dim")
        shown = list(gates.items())
        if len(shown) > room - 1:
            shown = shown[: room - 2]
        for layer, activations in shown:
            line = Text(f"{layer:{LABEL}}", style="cyan")
            for kind, found in activations.items():
                style = "yellow" if found.near_low + found.near_high > 0.9 and kind != "hidden" else "default"
                line.append(f"{100 * found.near_low:8.0f}{100 * found.near_high:4.0f}", style)
            yield line
        if len(shown) < len(gates):
            yield Text(f"{'':{LABEL}}and {len(gates) - len(shown)} more layers, in report.html", style="dim")

    def _sample(self, room: int) -> Iterator[Text]:
        if not self._evaluations or room < 1:
            return
        lines = [line for line in printable(self._evaluations[-1].sample) if line.strip()]
        for number, line in enumerate(lines[:room]):
            label = "sample" if number == 0 else ""
            yield Text.assemble((f"{label:{LABEL}}", "cyan"), line)

    def _warnings(self, width: int) -> Iterator[Text]:
        for advice in self._advice[-SHOWN_WARNINGS:]:
            text = f"step {advice.step:,}: {advice.text}"
            wrapped = textwrap.wrap(text, max(20, width - LABEL), max_lines=WARNING_LINES, placeholder=" ...")
            for number, line in enumerate(wrapped):
                yield Text.assemble((f"{'warning' if number == 0 else '':{LABEL}}", "bold yellow"), (line, "yellow"))
