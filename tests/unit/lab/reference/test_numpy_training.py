from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from charloom.lab.reference.numpy_language_model import LanguageModel, Symbols, Unit, sequences
from charloom.lab.reference.numpy_lstm import Parameters
from charloom.lab.reference.numpy_training import SGD, Adam, Optimiser, clip, plot, train, validate
from tests.unit.lab.reference.checks import made_up_text, random_model, random_sequence


def random_parameters(seed: int) -> Parameters:
    random = np.random.default_rng(seed)
    return {"w": random.standard_normal((3, 4)), "b": random.standard_normal(4)}


def test_clipping_scales_all_gradients_by_one_factor_and_only_beyond_the_limit() -> None:
    gradients, kept = random_parameters(0), random_parameters(0)
    norm = float(np.sqrt((kept["w"] ** 2).sum() + (kept["b"] ** 2).sum()))
    assert clip(gradients, norm * 1.01) == pytest.approx(norm)
    np.testing.assert_array_equal(gradients["w"], kept["w"])
    assert clip(gradients, norm / 2) == pytest.approx(norm)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, kept[name] / 2, rtol=1e-12)
    assert clip({"w": np.zeros(3)}, 1.0) == 0


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_an_optimiser_steps_as_torch_s_does(kind: str) -> None:
    parameters = random_parameters(0)
    twins = {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in parameters.items()}
    ours: Optimiser = SGD(0.05) if kind == "sgd" else Adam(0.05)
    theirs = (torch.optim.SGD if kind == "sgd" else torch.optim.Adam)(twins.values(), lr=0.05)
    for step in range(1, 6):
        gradients = random_parameters(step)
        ours.step(parameters, gradients)
        for name, twin in twins.items():
            twin.grad = torch.from_numpy(gradients[name])
        theirs.step()
    for name, twin in twins.items():
        np.testing.assert_allclose(parameters[name], twin.detach().numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("unit", "below"),
    [("character", 1.6), ("word", 2.0)],
)
def test_a_model_learns_a_text(unit: Unit, below: float) -> None:
    text = made_up_text(2000)
    symbols = Symbols(text, unit)
    parts = sequences(symbols.encode(text), 40)
    fifth = len(parts) // 5
    model = LanguageModel.initialised(len(symbols), 24, np.random.default_rng(0))
    random = np.random.default_rng(1)
    curves = train(model, parts[fifth:], parts[:fifth], Adam(2e-2), 6, random=random)
    assert (len(curves.training), len(curves.validation)) == (6, 7)
    assert len(curves.norms) == 6 * (len(parts) - fifth)
    assert curves.validation[0] == pytest.approx(np.log(len(symbols)), abs=0.2)
    assert curves.validation[-1] == validate(model, parts[:fifth]) < below
    assert curves.training[-1] < below
    assert set(symbols.decode(model.generate(parts[0][:5], 60, random))) <= set(text)


def test_losses_are_per_token_whatever_the_lengths_of_the_sequences() -> None:
    model = random_model()
    parts = [random_sequence(length, seed=length) for length in (1, 7, 30)]
    total = sum(model.loss(part) for part in parts)
    assert validate(model, parts) == pytest.approx(total / 38)
    curves = train(model, parts, parts[:1], SGD(0.0), 2)
    assert curves.training == pytest.approx([total / 38] * 2)
    assert curves.validation == pytest.approx([model.loss(parts[0])] * 3)


def test_a_step_is_by_the_clipped_mean_of_the_sequence_s_gradients() -> None:
    model, twin, sequence = random_model(), random_model(), random_sequence(9)
    curves = train(model, [sequence], [sequence], SGD(0.3), 1, clip_norm=0.01)
    _, gradients = twin.loss_and_gradients(sequence)
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
    assert curves.norms == pytest.approx([norm / 9])
    for name, parameter in twin.parameters.items():
        expected = parameter - 0.3 * 0.01 * gradients[name] / norm
        np.testing.assert_allclose(model.parameters[name], expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", ["curves.svg", "curves.png"])
def test_the_curves_are_drawn_without_a_display(name: str, tmp_path: Path) -> None:
    model, sequence = random_model(), random_sequence(9)
    plot(train(model, [sequence], [sequence], SGD(0.1), 2), tmp_path / name)
    assert (tmp_path / name).stat().st_size > 1000
