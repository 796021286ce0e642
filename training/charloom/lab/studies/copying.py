"""How long a vanilla RNN and an LSTM remember: the copying memory problem over growing delays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from matplotlib.ticker import PercentFormatter
from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.table import Table

from charloom.lab.pictures import COLOURS, GREY, picture
from charloom.lab.studies.networks import Kind, Network
from charloom.lab.studies.recall import Task, made, train
from charloom.lab.studies.study import Lengths, Say, Settings

KINDS: dict[Kind, str] = {"rnn-orthogonal": "RNN, orthogonal", "lstm-mixed": "LSTM, half chrono"}


class CopySettings(Settings):
    """Settings of the copy study."""

    delays: Lengths = Field((10, 50, 100, 200), description="blanks between the symbols and their recall")
    symbols: int = Field(2, ge=1, le=100, description="symbols to remember, in order")
    alphabet: int = Field(8, ge=2, le=1000, description="how many different symbols there are")
    hidden_size: int = Field(64, ge=1, le=4096, description="units of either network")
    batches: int = Field(1200, ge=1, description="most batches that a training may take")
    batch_size: int = Field(32, ge=1, description="rows of a batch")
    rnn_learning_rate: float = Field(1e-3, gt=0, description="of the RNN, which does not bear the LSTM's")
    lstm_learning_rate: float = Field(1e-2, gt=0, description="of the LSTM")
    seeds: int = Field(3, ge=1, le=100, description="trainings of each network for each delay")


@dataclass(frozen=True)
class Recall:
    """How one training ended."""

    kind: Kind
    delay: int
    seed: int
    accuracy: float
    """share of the symbols recalled, on new rows"""
    batches: int
    """how many were used"""
    solved: bool
    """whether it ended early, all rows of a check being recalled"""


@dataclass(frozen=True)
class CopyResult:
    """All trainings of the study."""

    chance: float
    """accuracy of guessing"""
    parameters: dict[Kind, int]
    recalls: tuple[Recall, ...]

    def accuracies(self, kind: Kind, delay: int) -> list[float]:
        """The accuracies of one kind of network at one delay, of all seeds."""
        return [recall.accuracy for recall in self.recalls if (recall.kind, recall.delay) == (kind, delay)]

    @property
    def delays(self) -> list[int]:
        """All delays, ascending."""
        return sorted({recall.delay for recall in self.recalls})


def measure(settings: CopySettings, say: Say) -> CopyResult:
    """Train both networks for each delay and seed."""
    recalls, parameters = list[Recall](), dict[Kind, int]()
    for delay in settings.delays:
        task = Task(settings.symbols, settings.alphabet, delay)
        for kind in KINDS:
            rate = settings.rnn_learning_rate if kind.startswith("rnn") else settings.lstm_learning_rate
            for seed in range(settings.seeds):
                network = made(lambda t=task, k=kind: _network(k, t, settings), seed)  # type: ignore[misc]
                parameters[kind] = network.parameter_count()
                done = train(
                    network, task, batches=settings.batches, rows=settings.batch_size, learning_rate=rate, seed=seed
                )
                recalls.append(Recall(kind, delay, seed, done.accuracy, done.batches, done.solved))
            found = [recall.accuracy for recall in recalls[-settings.seeds :]]
            say(f"delay {delay}: {KINDS[kind]} recalls {median(found):.0%} (median of {len(found)})")
    return CopyResult(1 / settings.alphabet, parameters, tuple(recalls))


def _network(kind: Kind, task: Task, settings: CopySettings) -> Network:
    return Network(kind, task.inputs, settings.hidden_size, task.alphabet, span=task.steps)


def tables(result: CopyResult) -> list[Table]:
    """Accuracy over the delay, and how many batches it took."""
    table = Table(title="Symbols recalled: median (worst to best seed)", box=SIMPLE_HEAD)
    table.add_column("delay", justify="right", no_wrap=True)
    for kind, name in KINDS.items():
        table.add_column(f"{name}\n{result.parameters[kind]:,} parameters", justify="right")
    for delay in result.delays:
        cells = []
        for kind in KINDS:
            found = result.accuracies(kind, delay)
            batches = [r.batches for r in result.recalls if (r.kind, r.delay) == (kind, delay) and r.solved]
            after = f"{len(batches)} of {len(found)}" + (f", after {median(batches):.0f} batches" if batches else "")
            cells.append(f"{median(found):.0%} ({min(found):.0%} to {max(found):.0%})\n{after}")
        table.add_row(str(delay), *cells)
    table.caption = (
        f"below: seeds that recalled a whole check, and after how many batches; guessing recalls {result.chance:.1%}"
    )
    return [table]


def draw(result: CopyResult, file: Path) -> None:
    """Accuracy over the delay: each seed, and their median."""
    with picture(file, 6.4, 3.8) as figure:
        axes = figure.add_subplot()
        for number, (kind, name) in enumerate(KINDS.items()):
            colour = COLOURS[3 * number]
            medians = [median(result.accuracies(kind, delay)) for delay in result.delays]
            label = f"{name}, {result.parameters[kind]:,} parameters"
            axes.plot(result.delays, medians, "o-", color=colour, label=label, zorder=3)
            for delay in result.delays:
                found = result.accuracies(kind, delay)
                axes.plot([delay] * len(found), found, "_", color=colour, alpha=0.6, markersize=12)
        axes.axhline(result.chance, color=GREY, linestyle="--", linewidth=1)
        axes.annotate(
            "guessing", (max(result.delays), result.chance), xytext=(0, -11), textcoords="offset points", ha="right"
        )
        axes.set(xlabel="blanks between the symbols and their recall", ylabel="symbols recalled", ylim=(0, 1.05))
        axes.set_xticks(result.delays)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.72))
        seeds = len({recall.seed for recall in result.recalls})
        axes.set_title(f"Copying memory: median of {seeds} seeds; a dash is a seed", loc="left", fontsize=10)
