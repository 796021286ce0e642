from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from charloom.lab.tasks.calibration import BINS, calibration_error, fitted_temperature


def made(texts: int, too_sure: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are `too_sure` times those of which the labels were drawn."""
    draws = torch.Generator().manual_seed(1)
    true = torch.randn(texts, 3, generator=draws) * 2
    labels = torch.multinomial(true.softmax(1), 1, generator=draws).squeeze(1)
    return true * too_sure, labels


@pytest.mark.parametrize("too_sure", [0.3, 1.0, 4.0])
def test_the_temperature_is_how_much_too_sure_the_logits_are(too_sure: float) -> None:
    logits, labels = made(20_000, too_sure)
    temperature = fitted_temperature(logits, labels)
    assert temperature == pytest.approx(too_sure, rel=0.05)
    least = cross_entropy(logits.double() / temperature, labels)
    for other in (0.9, 1.1):
        assert cross_entropy(logits.double() / (temperature * other), labels) > least
    after = calibration_error((logits / temperature).softmax(1), labels)
    assert after < 0.02
    if too_sure != 1.0:
        assert calibration_error(logits.softmax(1), labels) > 5 * after


def test_texts_that_are_all_labelled_right_leave_the_logits_as_they_are() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert fitted_temperature(logits, torch.tensor([0, 1])) == 1.0


def test_the_calibration_error_is_that_of_bins_by_hand() -> None:
    # Two texts at 0.9 of which one is right, one at 0.6 that is right: 2/3 of |0.5 - 0.9| and 1/3 of |1 - 0.6|.
    probabilities = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    assert int(0.9 * BINS) != int(0.6 * BINS)
    found = calibration_error(probabilities, torch.tensor([0, 0, 0]))
    assert found == pytest.approx(2 / 3 * 0.4 + 1 / 3 * 0.4)
    assert calibration_error(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == 0.0
