from __future__ import annotations

import pytest
import torch

from charloom.lab.studies.networks import Network
from charloom.lab.studies.recall import Task, made, train


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(task: Task, kind: str = "lstm-chrono", hidden: int = 16, seed: int = 0) -> Network:
    return made(lambda: Network(kind, task.inputs, hidden, task.alphabet, task.steps), seed)  # type: ignore[arg-type]


@pytest.mark.parametrize(("symbols", "delay"), [(1, 10), (3, 7)])
def test_a_row_is_the_symbols_blanks_and_requests_and_the_targets_are_the_symbols(symbols: int, delay: int) -> None:
    task = Task(symbols, 8, delay)
    inputs, targets = task.batch(200, random())
    assert inputs.shape == (200, 2 * symbols + delay)
    assert torch.equal(inputs[:, :symbols], targets)
    assert (inputs[:, symbols : symbols + delay] == 8).all()
    assert (inputs[:, symbols + delay :] == 9).all()
    assert set(targets.flatten().tolist()) == set(range(8))


def test_batches_differ_and_a_seed_repeats_them() -> None:
    task, generator = Task(2, 8, 3), random(1)
    one, two = task.batch(20, generator).targets, task.batch(20, generator).targets
    assert not torch.equal(one, two)
    assert torch.equal(task.batch(20, random(1)).targets, one)


def test_untrained_networks_guess() -> None:
    task = Task(2, 4, 5)
    found = [task.accuracy(network(task, seed=seed), task.batch(200, random(seed))) for seed in range(30)]
    assert sum(found) / len(found) == pytest.approx(1 / 4, abs=0.04)


def test_loss_and_accuracy_are_of_the_last_steps_alone() -> None:
    task = Task(2, 4, 5)
    batch = task.batch(50, random())

    class Oracle(torch.nn.Module):
        """Right at the last two steps, and wrong before."""

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(*inputs.shape, 4)
            logits[:, :-2, 0] = 1e3
            return logits.scatter(2, torch.nn.functional.pad(inputs[:, :2], (7, 0)).unsqueeze(2), 1e3)

    assert task.accuracy(Oracle(), batch) == 1  # type: ignore[arg-type]
    assert float(task.loss(Oracle(), batch)) < 1e-6  # type: ignore[arg-type]


def test_training_ends_where_all_is_recalled_and_leaves_those_weights() -> None:
    task = Task(1, 4, 5)
    net = network(task)
    done = train(net, task, batches=400, rows=16, learning_rate=1e-2, seed=0)
    assert done.solved
    assert done.batches < 400
    assert done.batches % 25 == 0
    assert done.accuracy == 1
    assert task.accuracy(net, task.batch(100, random(9))) == 1


def test_training_that_gets_worse_keeps_the_best_weights() -> None:
    task = Task(3, 8, 5)
    net = network(task, "rnn-orthogonal")
    kept = train(net, task, batches=40, rows=16, learning_rate=0.01, seed=0, check_every=20)
    assert kept.batches == 40
    assert not kept.solved
    spoilt = network(task, "rnn-orthogonal")
    done = train(spoilt, task, batches=200, rows=8, learning_rate=3.0, seed=0, check_every=1)
    assert done.accuracy > 1 / 8
    assert task.accuracy(spoilt, task.batch(500, random(3))) == pytest.approx(done.accuracy, abs=0.06)


def test_a_training_repeats() -> None:
    task = Task(1, 4, 5)
    one, two = (train(network(task), task, batches=30, rows=8, learning_rate=1e-3, seed=5) for _ in range(2))
    assert one == two
