"""One step of an LSTM cell with numbers of your own: every line of its equations, and what one input does to them.

Axis letters: X inputs, H hidden, N values of the input that is swept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.table import Table

from charloom.lab.pictures import COLOURS, GREY, picture
from charloom.lab.reference.numpy_lstm import GATES, LSTM, Step, explain_step
from charloom.lab.studies.study import Numbers, Say, Settings, StudyError

REACH = 3.0
"""The input is swept from minus this to this."""
VALUES = 121
"""How many values it takes, N."""
DRAWN = {
    "forget gate, f": "f",
    "input gate, i": "i",
    "candidate, g": "g",
    "output gate, o": "o",
    "cell state after the step, c'": "c'",
    "output, h'": "h'",
}
"""What is drawn, by its heading."""


class StepSettings(Settings):
    """Settings of the cell study."""

    input: Numbers = Field(
        (0.5, -0.2, 0.8), description="what the step reads, x; where a minus begins it, --input=-1,2"
    )
    hidden: Numbers = Field((0.1, 0.3, -0.1, 0.2), description="the output before the step, h: a number for each unit")
    cell: Numbers = Field((1.0, -0.5, 0.3, 0.7), description="the cell state before the step, c: as many")
    swept: int = Field(1, ge=1, description="which input goes from -3 to 3 in the picture, counted from 1")
    forget_bias: float = Field(1.0, ge=-100, le=100, description="bias of the forget gate; the other biases are 0")
    seed: int = Field(0, ge=0, description="of the weights, which are orthogonal")


@dataclass(frozen=True)
class StepResult:
    """One step, and the same with other values of one input."""

    inputs: list[float]
    """x, [X]"""
    before: dict[str, list[float]]
    """h and c, [H]"""
    parameters: dict[str, list[list[float]] | list[float]]
    """`w_f` and so on, [H, H + X]: the columns of h, then those of x; `b_f` and so on, [H]"""
    z: list[float]
    """[H + X]"""
    lines: dict[str, list[float]]
    """the values of each line, [H], by what stands left of its equals sign"""
    swept: int
    """the input that is swept, from 1"""
    values: list[float]
    """what it is set to, [N]"""
    sweep: dict[str, list[list[float]]]
    """gates and state for each unit and value, [H, N]"""


def measure(settings: StepSettings, say: Say) -> StepResult:
    """Make the step, and make it again with each value of the swept input.

    Raises:
        StudyError: the state's two parts differ in length, or there is no such input.
    """
    if len(settings.hidden) != len(settings.cell):
        raise StudyError(
            f"--hidden has {len(settings.hidden)} numbers and --cell {len(settings.cell)}; give each one per unit"
        )
    if settings.swept > len(settings.input):
        raise StudyError(f"--swept {settings.swept}: --input has {len(settings.input)} numbers, the first is 1")
    x, h, c = (np.array(given) for given in (settings.input, settings.hidden, settings.cell))
    random = np.random.default_rng(settings.seed)
    parameters = LSTM.initialised(len(x), len(h), random, forget_bias=settings.forget_bias).parameters
    step = explain_step(parameters, x, h, c)
    say(f"{len(x)} inputs, {len(h)} units, weights of seed {settings.seed}")
    place = settings.swept - 1
    values = np.linspace(min(-REACH, x[place]), max(REACH, x[place]), VALUES)
    steps = [explain_step(parameters, np.where(np.arange(len(x)) == place, value, x), h, c) for value in values]
    made = [_lines(one) for one in steps]
    return StepResult(
        x.tolist(),
        {"h": h.tolist(), "c": c.tolist()},
        {name: value.tolist() for name, value in parameters.items()},
        step.z.tolist(),
        _lines(step),
        settings.swept,
        values.tolist(),
        {name: np.array([lines[name] for lines in made]).T.tolist() for name in DRAWN.values()},
    )


def _lines(step: Step) -> dict[str, list[float]]:
    found = {}
    for gate in GATES:
        found[f"W_{gate} z + b_{gate}"] = step.preactivations[gate]
        found[gate] = step.gates[gate]
    found |= {"f ⊙ c": step.kept, "i ⊙ g": step.added, "c'": step.c, "tanh(c')": np.tanh(step.c), "h'": step.h}
    return {name: value.tolist() for name, value in found.items()}


MEANINGS = {
    "f": "f = σ(W_f z + b_f)",
    "i": "i = σ(W_i z + b_i)",
    "g": "g = tanh(W_g z + b_g)",
    "o": "o = σ(W_o z + b_o)",
    "c'": "c' = f ⊙ c + i ⊙ g",
    "h'": "h' = o ⊙ tanh(c')",
}


def tables(result: StepResult) -> list[Table]:
    """The step, line by line."""
    z = ", ".join(map(_number, result.z))
    table = Table(title=f"z = [h; x] = [{z}]", box=SIMPLE_HEAD, caption="the weights are in the JSON file: parameters")
    table.add_column("")
    for unit in range(1, len(result.before["c"]) + 1):
        table.add_column(f"unit {unit}", justify="right", no_wrap=True)
    table.add_row("c", *map(_number, result.before["c"]), end_section=True)
    for name, values in result.lines.items():
        table.add_row(MEANINGS.get(name, name), *map(_number, values), end_section=name in MEANINGS)
    return [table]


def _number(value: float) -> str:
    return f"{value:.3f}"


def draw(result: StepResult, file: Path) -> None:
    """Gates, cell state and output of each unit over the swept input."""
    given = result.inputs[result.swept - 1]
    with picture(file, 9.6, 5.4) as figure:
        for axes, (heading, name) in zip(figure.subplots(2, 3, sharex=True).flat, DRAWN.items(), strict=True):
            for unit, line in enumerate(result.sweep[name]):
                axes.plot(result.values, line, color=COLOURS[unit], label=f"unit {unit + 1}")
            axes.axvline(given, color=GREY, linestyle="--", linewidth=1)
            axes.set_title(heading, loc="left", fontsize=10)
            if name in GATES:
                axes.set_ylim(-1.05 if name == "g" else -0.05, 1.05)
        for axes in figure.axes[3:]:
            axes.set_xlabel(f"input {result.swept}")
        figure.axes[0].legend(frameon=False, fontsize=8)
        figure.suptitle(f"One step of an LSTM cell over input {result.swept}; the dashed line is {given:g}, as given")
