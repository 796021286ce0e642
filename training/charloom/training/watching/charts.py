"""Charts as SVG inside a page, whose style sheet gives their classes (`line-1` and so on) colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 560, 230
LEFT, RIGHT, TOP, BOTTOM = 56, 52, 12, 34
MOST_POINTS = 400
"""Of one line; of more, evenly chosen ones are drawn."""
COLOURS = 6


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    values: Sequence[float]


class _Scale(NamedTuple):
    """From values to places between two ends."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def line_chart(
    title: str,
    x: Sequence[float],
    lines: Sequence[Line],
    *,
    x_name: str,
    y_name: str,
    log: bool = False,
    second: tuple[str, float] | None = None,
    from_zero: bool = False,
) -> str:
    """Lines over a common x, each point with its value as a tooltip.

    Args:
        title: for those who cannot see it
        x: ascending
        lines: with one value per x; what is not finite (or, on a logarithmic axis, not positive) is a gap
        x_name, y_name: of the axes
        log: whether the y axis is logarithmic
        second: the name of an axis on the right, and how many of its units a unit of the left one is
        from_zero: whether the y axis starts at zero
    """
    usable: Callable[[float], bool] = lambda value: math.isfinite(value) and (value > 0 or not log)  # noqa: E731
    values = [value for line in lines for value in line.values if usable(value)]
    if not values:
        return f"<p class='none'>{escape(title)}: nothing to show yet</p>"
    low, high = _range(min(values), max(values), log, from_zero)
    across = _Scale(min(x[0], 0), x[-1] or 1, LEFT, WIDTH - RIGHT, False)
    up = _Scale(low, high, HEIGHT - BOTTOM, TOP, log)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in _log_ticks(low, high) if log else _ticks(low, high):
        y = up(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="end">{_figure(tick)}</text>')
    for tick in _ticks(across.low, across.high):
        parts.append(f'<text x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" class="middle">{_figure(tick)}</text>')
    if second:
        name, factor = second
        for tick in _ticks(low * factor, high * factor):
            parts.append(f'<text x="{WIDTH - RIGHT + 6}" y="{up(tick / factor) + 4:.1f}">{_figure(tick)}</text>')
        parts.append(f'<text x="{WIDTH - 2}" y="{HEIGHT - 4}" class="end name">{escape(name)}</text>')
    parts.append(f'<text x="2" y="{HEIGHT - 4}" class="name">{escape(y_name)}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" class="middle name">{escape(x_name)}</text>')
    for number, line in enumerate(lines, start=1):
        parts += _drawn(number, line, x, across, up, usable)
    parts.append("</svg>")
    return legend([line.name for line in lines]) * (len(lines) > 1) + "".join(parts)


def histogram(title: str, counts: Sequence[Sequence[int]], low: float) -> str:
    """Several histograms over one another, each as the share of its values, as small as a word."""
    width, height, base = 120, 56, 44
    top = max((max(each) / max(1, sum(each)) for each in counts), default=0) or 1
    parts = [f'<svg class="small" viewBox="0 0 {width} {height}" role="img"><title>{escape(title)}</title>']
    parts.append(f'<path class="grid" d="M0 {base}H{width}"/>')
    for number, each in enumerate(counts, start=1):
        step, total = width / len(each), max(1, sum(each))
        points = "".join(
            f"V{base - (base - 2) * count / total / top:.1f}H{(index + 1) * step:.1f}"
            for index, count in enumerate(each)
        )
        parts.append(f'<path class="{_colour("line", number)}" d="M0 {base}{points}V{base}"/>')
    parts.append(f'<text x="0" y="{height - 1}">{low:g}</text>')
    parts.append(f'<text x="{width}" y="{height - 1}" class="end">1</text></svg>')
    return "".join(parts)


def legend(names: Sequence[str]) -> str:
    """A legend: the colour of each name, in the order of the lines."""
    keys = (
        f'<span><i class="{_colour("key", number)}"></i>{escape(name)}</span>'
        for number, name in enumerate(names, start=1)
    )
    return f'<div class="legend">{"".join(keys)}</div>'


def _colour(what: str, number: int) -> str:
    """The class of a line, point or key; those beyond the last colour have the colours once more, dashed."""
    cycle, colour = divmod(number - 1, COLOURS)
    return f"{what}-{colour + 1}" + f" cycle-{cycle}" * (cycle > 0)


def _drawn(
    number: int, line: Line, x: Sequence[float], across: _Scale, up: _Scale, usable: Callable[[float], bool]
) -> Iterator[str]:
    """The line itself, and its points where they are few enough to be told apart."""
    places = range(0, len(x), max(1, -(-len(x) // MOST_POINTS)))
    path, drawing, points = "", False, []
    for place in places:
        value = line.values[place]
        if not usable(value):
            drawing = False
            continue
        left, top = across(x[place]), up(value)
        path += f"{'L' if drawing else 'M'}{left:.1f} {top:.1f}"
        drawing = True
        tip = f"{escape(line.name)} {_figure(value)} at {x[place]:.2f}"
        at = f'cx="{left:.1f}" cy="{top:.1f}" r="2"'
        points.append(f'<circle class="{_colour("point", number)}" {at}><title>{tip}</title></circle>')
    yield f'<path class="{_colour("line", number)}" d="{path}"/>'
    if len(points) <= MOST_POINTS / 4:
        yield from points


def _range(low: float, high: float, log: bool, from_zero: bool) -> tuple[float, float]:
    if log:
        low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
        return low, high if high > low else low * 10
    if from_zero:
        return 0.0, high * 1.08 or 1.0
    margin = (high - low) * 0.06 or abs(high) * 0.06 or 1.0
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers."""
    raw = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    return [round(index * step, 12) for index in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = round(math.log10(low)), round(math.log10(high))
    return [10.0**power for power in range(first, last + 1, -(-(last - first) // 6))]


def _figure(value: float) -> str:
    """A number, short."""
    size = abs(value)
    if value and (size < 1e-3 or size >= 1e6):
        return f"{value:.3g}"
    return f"{value:,.0f}" if size >= 100 else f"{value:.4g}"
