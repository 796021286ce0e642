from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.nn.functional import cross_entropy

from charloom.lab.reference.torch_cells import State
from charloom.lab.studies import gradients
from charloom.lab.studies.networks import Kind, Network
from charloom.lab.studies.recall import Task, made

TASK = Task(1, 4, 6)


def network(kind: Kind, hidden: int = 5) -> Network:
    return made(lambda: Network(kind, TASK.inputs, hidden, TASK.alphabet, TASK.steps), seed=2)


@pytest.mark.parametrize("kind", ["rnn", "rnn-orthogonal", "lstm-1", "lstm-chrono"])
def test_state_gradients_are_the_product_of_the_steps_jacobians(kind: Kind) -> None:
    net, hidden = network(kind), 5
    batch = TASK.batch(3, torch.Generator().manual_seed(0))
    norms = np.zeros(TASK.steps - 1)
    cell = net.cell().double()
    for row, target in zip(batch.inputs, batch.targets, strict=True):
        states = [torch.zeros(2 * hidden, dtype=torch.float64)]
        jacobians = []
        for x in net.encoded(row[None]).double().unbind(1):

            def step(state: torch.Tensor, x: torch.Tensor = x) -> torch.Tensor:
                return torch.cat(cell(x, State(state[None, :hidden], state[None, hidden:])), dim=1)[0]

            jacobians.append(torch.autograd.functional.jacobian(step, states[-1]))
            states.append(step(states[-1]).detach())
        last = states[-1].requires_grad_()
        weight, bias = net.head.weight.double(), net.head.bias.double()
        loss = cross_entropy((weight @ last[:hidden] + bias)[None], target)
        product = torch.autograd.grad(loss, last)[0]
        for back, jacobian in enumerate(reversed(jacobians[1:])):
            product = product @ jacobian
            norms[back] += float(product.norm()) / len(batch.inputs)
    of_states, _ = gradients.backward(net, batch)
    np.testing.assert_allclose(of_states, norms, rtol=1e-9)


@pytest.mark.parametrize("kind", ["rnn", "lstm-0", "lstm-chrono"])
def test_input_gradients_are_those_of_the_whole_network(kind: Kind) -> None:
    net, batch = network(kind).double(), TASK.batch(3, torch.Generator().manual_seed(0))
    x = net.encoded(batch.inputs).requires_grad_()
    logits = net.head(net.layer(x)[0][:, -1])
    cross_entropy(logits, batch.targets[:, -1], reduction="sum").backward()
    expected = x.grad.norm(dim=2).mean(dim=0)[:-1].flip(0)  # type: ignore[union-attr]
    np.testing.assert_allclose(gradients.backward(net, batch)[1], expected, rtol=1e-9)


def test_the_study_has_all_networks_before_and_after_and_shows_the_difference(tmp_path: Path) -> None:
    settings = gradients.GradientSettings(distance=40, hidden_size=16, batches=3, batch_size=4, seeds=2)
    said: list[str] = []
    result = gradients.measure(settings, said.append)
    assert len(result.backward) == len(gradients.KINDS) * 2 * 2
    assert len(said) == len(gradients.KINDS)
    before = {kind: np.median(result.relative(kind, False), axis=0) for kind in gradients.KINDS}
    assert all(len(norms) == 40 and norms[0] == 1 for norms in before.values())
    assert before["rnn"][-1] < 1e-7 < 1e-2 < before["lstm-chrono"][-1] <= 2  # torch's RNN forgets, chrono does not
    assert before["lstm-0"][-1] < before["lstm-1"][-1] < before["lstm-chrono"][-1]
    assert not np.array_equal(result.relative("lstm-1", True), result.relative("lstm-1", False))
    gradients.draw(result, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    start, after = gradients.tables(result)
    assert [str(column.header) for column in start.columns] == ["network", "1", "10", "recalls"]
    assert start.row_count == 5
    assert "at the start" in str(start.title)
    assert "after" in str(after.title)


def test_what_vanishes_is_still_drawn(tmp_path: Path) -> None:
    vanished = gradients.GradientResult(
        tuple(
            gradients.Backward(kind, 0, trained, accuracy=0.1, states=(1e-3, 0.0, 0.0), inputs=(0.0, 0.0, 0.0))
            for kind in gradients.KINDS
            for trained in (False, True)
        )
    )
    assert np.all(vanished.relative("rnn", False) == [[1, 0, 0]])
    drawn = lines_of(vanished, tmp_path / "vanished.png")
    assert len(drawn) == len(gradients.KINDS) * 2 * 2  # each seed's and the median, at the start and after training
    for x, y in drawn:
        assert x == [1, 2, 3]
        assert y[0] == 1
        assert 0 < y[1] == y[2] < 1e-200  # what is zero has a place on the logarithmic axis, far below the rest
    for table in gradients.tables(vanished):
        assert [list(column.cells) for column in table.columns[1:]] == [["1"] * 5, ["10%"] * 5]


def lines_of(result: gradients.GradientResult, file: Path) -> list[tuple[list[float], list[float]]]:
    """Where the lines of the picture are, after it was saved."""
    figures: list[Figure] = []
    real = Figure.savefig

    def kept(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        real(figure, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", kept)
        gradients.draw(result, file)
    (figure,) = figures
    assert file.read_bytes().startswith(b"\x89PNG")
    return [
        (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for axes in figure.axes
        for line in axes.lines
    ]
