"""How far back the gradient of a loss reaches, in vanilla RNNs and LSTMs, before and after training.

The loss is that of recalling one symbol after a delay, at the last step only. Its gradient in the state that step t
hands to step t + 1 tells how much a change of the memory at t would change the loss. It is divided by the gradient one
step back, since the loss itself is smaller where a network has learnt.

Hochreiter (1991); Bengio, Simard and Frasconi (1994, "Learning long-term dependencies with gradient descent is
difficult"); Pascanu, Mikolov and Bengio (2013, "On the difficulty of training recurrent neural networks").
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from charloom.lab.pictures import COLOURS, picture
from charloom.lab.reference.torch_cells import State
from charloom.lab.studies.networks import Kind, Network
from charloom.lab.studies.recall import Batch, Task, made, train
from charloom.lab.studies.study import Say, Settings

KINDS: dict[Kind, str] = {
    "rnn": "RNN, default",
    "rnn-orthogonal": "RNN, orthogonal",
    "lstm-0": "LSTM, bias 0",
    "lstm-1": "LSTM, bias 1",
    "lstm-chrono": "LSTM, chrono",
}
SHOWN_DISTANCES = (1, 10, 50, 100)
ALPHABET = 8


class GradientSettings(Settings):
    """Settings of the gradient study."""

    distance: int = Field(100, ge=2, le=10_000, description="the farthest step back, which read the symbol")
    hidden_size: int = Field(64, ge=1, le=4096, description="units of each network")
    batches: int = Field(300, ge=0, description="most batches that each network is trained for")
    batch_size: int = Field(32, ge=1, description="rows of a batch")
    learning_rate: float = Field(3e-3, gt=0, description="of all networks")
    seeds: int = Field(5, ge=1, le=100, description="networks of each kind")


@dataclass(frozen=True)
class Backward:
    """The gradients of one network."""

    kind: Kind
    seed: int
    trained: bool
    accuracy: float
    """share of the symbols recalled"""
    states: tuple[float, ...]
    """mean norm over the rows of the gradient in (h, c), 1, 2, ... steps back"""
    inputs: tuple[float, ...]
    """the same in x: the inputs read 1, 2, ... steps before the last one"""


@dataclass(frozen=True)
class GradientResult:
    """All networks of the study."""

    backward: tuple[Backward, ...]

    def relative(self, kind: Kind, trained: bool) -> npt.NDArray[np.float64]:
        """[seeds, distances]: norms in the state, over those one step back."""
        norms = np.array([b.states for b in self.backward if (b.kind, b.trained) == (kind, trained)])
        return np.asarray(norms / np.maximum(norms[:, :1], np.finfo(float).tiny))


def measure(settings: GradientSettings, say: Say) -> GradientResult:
    """Take the gradients of each kind and seed before and after training."""
    task = Task(1, ALPHABET, settings.distance - 1)  # so that the symbol is read `distance` steps before the last
    found = list[Backward]()
    for kind, name in KINDS.items():
        for seed in range(settings.seeds):
            network = made(
                lambda k=kind: Network(k, task.inputs, settings.hidden_size, ALPHABET, task.steps),  # type: ignore[misc]
                seed,
            )
            batch = task.batch(settings.batch_size, torch.Generator().manual_seed(seed))
            for trained in (False, True):
                if trained:
                    train(
                        network,
                        task,
                        batches=settings.batches,
                        rows=settings.batch_size,
                        learning_rate=settings.learning_rate,
                        seed=seed,
                    )
                states, inputs = backward(network, batch)
                found.append(Backward(kind, seed, trained, task.accuracy(network, batch), tuple(states), tuple(inputs)))
        last = GradientResult(tuple(found)).relative(kind, trained=False)[:, -1]
        say(f"{name}: at the start {np.median(last):.1e} of the gradient remains {settings.distance} steps back")
    return GradientResult(tuple(found))


def backward(network: Network, batch: Batch) -> tuple[list[float], list[float]]:
    """Norms of the gradient of the loss at the last step, 1, 2, ... T - 1 steps back, means over the rows.

    The first are those in the state (h, c) which one step handed to the next, both as one vector; the second those in
    the inputs. In float64, since what vanishes may be less than float32 can hold.
    """
    cell = network.cell().double()
    inputs = [x.requires_grad_() for x in network.encoded(batch.inputs).double().unbind(1)]
    state, handed = cell.zero_state(inputs[0]), list[State]()
    for x in inputs:
        # A node of its own: the gradient in `handed` goes through the next step alone, not from c through h.
        state = State(*(part.clone().requires_grad_() for part in state))
        handed.append(state)
        state = cell(x, state)
    logits = linear(state.h, network.head.weight.detach().double(), network.head.bias.detach().double())
    loss = cross_entropy(logits, batch.targets[:, -1], reduction="sum")  # the rows do not share anything
    steps = len(inputs) - 1
    nodes = [part for state in handed[1:] for part in state]
    of_parts = torch.autograd.grad(loss, [*nodes, *inputs[:-1]], allow_unused=True)
    gradients = [
        torch.zeros_like(node) if g is None else g for node, g in zip([*nodes, *inputs], of_parts, strict=False)
    ]
    of_h, of_c, of_x = gradients[: 2 * steps : 2], gradients[1 : 2 * steps : 2], gradients[2 * steps :]
    return (
        [_norm(torch.cat(pair, dim=1)) for pair in zip(reversed(of_h), reversed(of_c), strict=True)],
        [_norm(gradient) for gradient in reversed(of_x)],
    )


def _norm(gradient: Tensor) -> float:
    return float(gradient.norm(dim=1).mean())


def tables(result: GradientResult) -> list[Table]:
    """What remains of the gradient at some distances."""
    farthest = len(result.backward[0].states)
    distances = [distance for distance in SHOWN_DISTANCES if distance <= farthest]
    made_tables = list[Table]()
    for trained in (False, True):
        table = Table(title=f"Gradient in the state some steps back, over one back; {_when(trained)}", box=SIMPLE_HEAD)
        table.add_column("network", no_wrap=True)
        for distance in distances:
            table.add_column(f"{distance}", justify="right")
        table.add_column("recalls", justify="right")
        for kind, name in KINDS.items():
            norms = result.relative(kind, trained)[:, [distance - 1 for distance in distances]]
            cells = ["1" if (n == 1).all() else f"{np.median(n):.1e}\n{n.min():.0e}–{n.max():.0e}" for n in norms.T]
            recalled = np.median([b.accuracy for b in result.backward if (b.kind, b.trained) == (kind, trained)])
            table.add_row(name, *cells, f"{recalled:.0%}")
        table.caption = "median of the seeds, and range; recalls: share of the symbols, median"
        made_tables.append(table)
    return made_tables


def draw(result: GradientResult, file: Path) -> None:
    """The relative norms over the distance: medians, and each seed as a thin line."""
    farthest = len(result.backward[0].states)
    distances = np.arange(1, farthest + 1)
    with picture(file, 9.0, 3.9) as figure:
        for trained, axes in enumerate(figure.subplots(1, 2, sharey=True)):
            for colour, (kind, name) in zip(COLOURS, KINDS.items(), strict=False):
                norms = np.maximum(result.relative(kind, bool(trained)), 1e-300)
                axes.plot(distances, norms.T, color=colour, alpha=0.35, linewidth=0.7)
                axes.plot(distances, np.median(norms, axis=0), color=colour, label=name)
            axes.set_yscale("log")
            axes.set(xlabel="steps back from the loss", xlim=(1, farthest))
            axes.set_title(_when(bool(trained)), loc="left", fontsize=10)
            if not trained:
                axes.set_ylabel("gradient norm in the state, relative")
                axes.legend(frameon=False, loc="lower left")


def _when(trained: bool) -> str:
    return "after some training" if trained else "at the start"
