"""The copying memory problem: some symbols, blanks, and then the symbols again, on request.

    inputs    3 1 4 . . . . . ? ? ?        . a blank, ? the request
    targets                   3 1 4

Hochreiter and Schmidhuber (1997) have tasks of this kind; in this form it is that of Arjovsky, Shah and Bengio (2016,
"Unitary Evolution Recurrent Neural Networks"), except that here the loss is that of the recalled symbols alone.

Axis letters: B rows, T time, S symbols to recall.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from charloom.lab.studies.networks import Network


class Batch(NamedTuple):
    """Some rows of the task."""

    inputs: Tensor
    """[B, T] with T = 2S + delay"""
    targets: Tensor
    """[B, S]: the symbols to recall at the last S steps"""


@dataclass(frozen=True)
class Task:
    """Recalling `symbols` symbols, out of `alphabet`, after `delay` blanks."""

    symbols: int
    alphabet: int
    delay: int

    @property
    def inputs(self) -> int:
        """How many inputs there are: the alphabet, the blank, the request."""
        return self.alphabet + 2

    @property
    def steps(self) -> int:
        """Length of a row, T."""
        return 2 * self.symbols + self.delay

    def batch(self, rows: int, random: torch.Generator) -> Batch:
        """Some random rows."""
        targets = torch.randint(self.alphabet, (rows, self.symbols), generator=random)
        inputs = torch.full((rows, self.steps), self.alphabet)
        inputs[:, : self.symbols] = targets
        inputs[:, -self.symbols :] = self.alphabet + 1
        return Batch(inputs, targets)

    def loss(self, network: Network, batch: Batch) -> Tensor:
        """Mean cross-entropy of the recalled symbols."""
        logits = network(batch.inputs)[:, -self.symbols :]
        return cross_entropy(logits.flatten(0, 1), batch.targets.flatten())

    @torch.no_grad()
    def accuracy(self, network: Network, batch: Batch) -> float:
        """Share of the symbols that are recalled in their places."""
        answers = network(batch.inputs)[:, -self.symbols :].argmax(-1)
        return float((answers == batch.targets).double().mean())


@dataclass(frozen=True)
class Trained:
    """How a training ended."""

    batches: int
    """how many were used"""
    accuracy: float
    """of the best weights, on rows that were used for nothing else"""
    solved: bool
    """whether it ended early, a check having found all recalled"""


def train(
    network: Network, task: Task, *, batches: int, rows: int, learning_rate: float, seed: int, check_every: int = 25
) -> Trained:
    """Train with Adam, the gradient's norm clipped to 1; leaves the best weights in `network`.

    Every `check_every` batches the accuracy is taken on rows of their own. Training ends early where all of these are
    recalled; the best weights are those of the best check.
    """
    random = torch.Generator().manual_seed(seed)
    checked, tested = task.batch(256, random), task.batch(512, random)
    optimiser = torch.optim.Adam(network.parameters(), learning_rate)
    best, weights, step = -1.0, network.state_dict(), 0
    while step < batches and best < 1:
        step += 1
        optimiser.zero_grad()
        task.loss(network, task.batch(rows, random)).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if step % check_every == 0 or step == batches:
            accuracy = task.accuracy(network, checked)
            if accuracy > best:
                best, weights = accuracy, copy.deepcopy(network.state_dict())
    network.load_state_dict(weights)
    return Trained(step, task.accuracy(network, tested), solved=best == 1)


def made(make: Callable[[], Network], seed: int) -> Network:
    """A network whose first weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()
