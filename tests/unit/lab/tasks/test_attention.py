from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from charloom.lab.tasks.attention import AttentionModel, State
from charloom.lab.tasks.symbols import END, MARKS, PADDING, START, UNKNOWN, Padded, padded
from tests.unit.lab.tasks.gradients import assert_gradients

SOURCES = [np.random.default_rng(length).integers(MARKS, 11, length) for length in (6, 1, 9, 4)]
TARGETS = [np.append(np.random.default_rng(length).integers(MARKS, 10, length), END) for length in (3, 5, 1, 4)]


@pytest.fixture
def model() -> AttentionModel:
    torch.manual_seed(0)
    return AttentionModel(11, 10, embedding=4, hidden=5).double()


def test_padding_has_no_influence_and_gets_no_attention(model: AttentionModel) -> None:
    logits, weights = model(padded(SOURCES), padded(TARGETS).tokens)
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        alone, own = model(padded([source]), padded([target]).tokens)
        torch.testing.assert_close(logits[row, : len(target)], alone[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(weights[row, : len(target), : len(source)], own[0], rtol=0, atol=1e-12)
        assert not weights[row, :, len(source) :].any()


def test_what_stands_in_the_padding_does_not_matter(model: AttentionModel) -> None:
    source, target = padded(SOURCES), padded(TARGETS).tokens
    places = torch.arange(source.tokens.size(1)) >= source.lengths[:, None]
    other = Padded(source.tokens.masked_fill(places, MARKS + 1), source.lengths)
    for one, two in zip(model(source, target), model(other, target), strict=True):
        assert torch.equal(one, two)


def test_attention_sums_to_one_and_depends_on_the_step(model: AttentionModel) -> None:
    _, weights = model(padded(SOURCES), padded(TARGETS).tokens)
    torch.testing.assert_close(weights.sum(2), torch.ones(4, 6).double())
    assert (weights >= 0).all()
    assert (weights[0, 0] - weights[0, 1]).abs().max() > 1e-4


def test_attention_is_bahdanaus(model: AttentionModel) -> None:
    """Written out for one row: the energies, the context, the decoder's step and the logits."""
    encoded, state = model.encode(padded(SOURCES[:1]))
    outputs, _ = model.encoder(model.source_embedding(torch.from_numpy(SOURCES[0]))[None])
    torch.testing.assert_close(encoded.states, outputs)
    last = torch.cat([outputs[0, -1, :5], outputs[0, 0, 5:]])  # forwards after the last, backwards after the first
    torch.testing.assert_close(state.h[0], torch.tanh(model.first_state.weight @ last + model.first_state.bias))
    assert not state.c.any()
    logits, after, weights = model.step(torch.tensor([START]), state, encoded)
    states, previous = encoded.states[0], state.h[0]
    energies = torch.stack(
        [
            model.energy.weight[0] @ torch.tanh(model.query.weight @ previous + model.key.weight @ h + model.key.bias)
            for h in states
        ]
    )
    expected = torch.exp(energies) / torch.exp(energies).sum()
    torch.testing.assert_close(weights[0], expected)
    context = sum(weight * h for weight, h in zip(expected, states, strict=True))
    inputs = torch.cat([model.target_embedding.weight[START], context])
    h, c = model.decoder(inputs[None], (state.h, state.c))
    torch.testing.assert_close(after.h, h)
    torch.testing.assert_close(after.c, c)
    torch.testing.assert_close(logits[0], model.head.weight @ torch.cat([h[0], context]) + model.head.bias)


def test_teacher_forcing_feeds_the_target_one_step_late(model: AttentionModel) -> None:
    source, target = padded(SOURCES[:1]), padded(TARGETS[:1]).tokens
    logits, _ = model(source, target)
    changed = target.clone()
    changed[0, 1] = MARKS if target[0, 1] != MARKS else MARKS + 1
    other, _ = model(source, changed)
    assert torch.equal(logits[0, :2], other[0, :2])  # the token at 1 is not seen before step 2
    assert not torch.allclose(logits[0, 2], other[0, 2])


def test_greedy_writing_is_what_teacher_forcing_says_of_it(model: AttentionModel) -> None:
    source = padded(SOURCES)
    written, weights = model.write(source, longest=7)
    logits, forced = model(source, written)
    for row in range(4):
        steps = int((written[row] != PADDING).sum())
        assert torch.equal(logits[row, :steps, END:].argmax(1) + END, written[row, :steps])
        torch.testing.assert_close(weights[row, :steps], forced[row, :steps])


@pytest.mark.parametrize("mark", [PADDING, UNKNOWN, START])
def test_marks_are_never_written(mark: int, model: AttentionModel) -> None:
    expected = model.write(padded(SOURCES), longest=7)
    with torch.no_grad():
        model.head.bias[mark] = 100
    found = model.write(padded(SOURCES), longest=7)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.weights, expected.weights)


def test_a_row_that_ended_writes_no_more_while_others_do(
    model: AttentionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 0 ends at once, row 1 a step later, and so on."""
    steps = iter(range(10))
    step = model.step

    def scripted(tokens: torch.Tensor, *others: Any) -> tuple[torch.Tensor, State, torch.Tensor]:
        logits, state, weights = step(tokens, *others)
        logits = torch.zeros_like(logits)
        logits[:, MARKS] = 1
        logits[next(steps), END] = 2
        return logits, state, weights

    monkeypatch.setattr(model, "step", scripted)
    x = MARKS
    assert model.write(padded(SOURCES), longest=7).tokens.tolist() == [
        [END, PADDING, PADDING, PADDING],
        [x, END, PADDING, PADDING],
        [x, x, END, PADDING],
        [x, x, x, END],
    ]


def test_writing_ends_with_each_rows_end(model: AttentionModel) -> None:
    with torch.no_grad():
        model.head.bias[END] = 100
    written, weights = model.write(padded(SOURCES), longest=7)
    assert written.tolist() == [[END]] * 4
    assert weights.shape == (4, 1, 9)
    with torch.no_grad():
        model.head.bias[END] = -100
    assert model.write(padded(SOURCES), longest=7).tokens.shape == (4, 7)


def test_gradients_are_those_of_finite_differences(model: AttentionModel) -> None:
    source, target = padded(SOURCES), padded(TARGETS).tokens

    def loss() -> torch.Tensor:
        logits, _ = model(source, target)
        return cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PADDING)

    assert_gradients(model, loss)
