from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM
from tests.unit.training.training_runs import needs_bf16

VOCABULARY = 11
LAYERS = pytest.mark.parametrize("layers", [1, 2, 3])


def model_of(layers: int = 2, dropout: float = 0.0, seed: int = 0, **changes: int | bool) -> CharLSTM:
    torch.manual_seed(seed)
    sizes = {"layers": layers, "hidden_size": 16, "embedding_size": 8, "dropout": dropout} | changes
    return CharLSTM(VOCABULARY, ModelConfig.model_validate(sizes))


def tokens_of(rows: int, length: int) -> Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(5))


@LAYERS
def test_each_recurrent_gate_block_starts_orthogonal(layers: int) -> None:
    model = model_of(layers)
    for layer in range(layers):
        blocks = model.layers[layer].weight_hh.detach().chunk(4)
        for block in blocks:
            torch.testing.assert_close(block @ block.T, torch.eye(16), atol=1e-5, rtol=0)
        assert not torch.equal(blocks[0], blocks[1])


@LAYERS
def test_the_forget_bias_starts_at_one_and_all_other_biases_at_zero(layers: int) -> None:
    model = model_of(layers)
    for layer in range(layers):
        bias = model.layers[layer].bias
        assert bias.detach().tolist() == [0.0] * 16 + [1.0] * 16 + [0.0] * 32  # gates in the order i, f, g, o
    assert model.head.bias.detach().tolist() == [0.0] * VOCABULARY


@LAYERS
def test_input_weights_start_uniform_in_the_xavier_bound_of_one_gate(layers: int) -> None:
    model = model_of(layers)
    for layer in range(layers):
        inputs = 8 if layer == 0 else 16
        bound = math.sqrt(6 / (inputs + 16))
        for gate in model.layers[layer].weight_ih.detach().abs().chunk(4):
            assert 0.9 * bound < float(gate.max()) <= bound
            assert float(gate.mean()) == pytest.approx(bound / 2, rel=0.25)


def test_tied_weights_are_one_parameter_counted_once_and_trained_together() -> None:
    tied = model_of(tie_weights=True, embedding_size=16)
    untied = model_of(embedding_size=16)
    assert tied.head.weight is tied.embedding.weight
    assert untied.parameter_count() - tied.parameter_count() == VOCABULARY * 16
    optimizer = torch.optim.SGD(tied.parameters(), lr=0.5)
    before = tied.embedding.weight.detach().clone()
    tied(tokens_of(2, 4), tied.zero_state(2))[0].square().sum().backward()
    optimizer.step()
    assert not torch.equal(tied.head.weight, before)
    assert torch.equal(tied.head.weight, tied.embedding.weight)


def test_tied_weights_of_unequal_sizes_are_refused_with_both_sizes() -> None:
    with pytest.raises(ValidationError, match=r"embedding_size \(8\) equal to hidden_size \(16\)"):
        model_of(tie_weights=True)


def test_in_evaluation_mode_dropout_is_off_and_in_training_mode_it_is_on() -> None:
    model, tokens = model_of(dropout=0.5), tokens_of(2, 6)
    model.eval()
    first, second = (model(tokens, model.zero_state(2))[0] for _ in range(2))
    assert torch.equal(first, second)
    model.train()
    third, fourth = (model(tokens, model.zero_state(2))[0] for _ in range(2))
    assert not torch.equal(third, fourth)


def test_dropout_leaves_the_recurrence_alone() -> None:
    """With embeddings of zero the first layer has no input to drop: its state can differ only by its recurrence."""
    model, tokens = model_of(dropout=0.6), tokens_of(3, 20)
    torch.nn.init.zeros_(model.embedding.weight)
    torch.nn.init.normal_(model.layers[0].bias, generator=torch.Generator().manual_seed(1))
    model.eval()
    _, quiet = model(tokens, model.zero_state(3))
    model.train()
    _, noisy = model(tokens, model.zero_state(3))
    torch.testing.assert_close(noisy[0, 0], quiet[0, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(noisy[1, 0], quiet[1, 0], atol=1e-6, rtol=0)
    assert not torch.allclose(noisy[0, 1], quiet[0, 1], atol=1e-3)  # between the layers there is dropout


def test_a_model_of_one_layer_drops_out_too() -> None:
    model, tokens = model_of(layers=1, dropout=0.5), tokens_of(2, 6)
    model.train()
    first, second = (model(tokens, model.zero_state(2))[0] for _ in range(2))
    assert not torch.equal(first, second)


@LAYERS
@pytest.mark.parametrize("lengths", [[12, 12], [1] * 24, [5, 1, 18]], ids=["halves", "steps", "uneven"])
def test_a_sequence_in_parts_with_carried_state_is_the_whole_sequence(layers: int, lengths: list[int]) -> None:
    model, tokens = model_of(layers, dropout=0.5), tokens_of(3, 24)
    model.eval()
    with torch.no_grad():
        whole, end = model(tokens, model.zero_state(3))
        state, parts = model.zero_state(3), []
        for part in tokens.split(lengths, dim=1):
            logits, state = model(part, state)
            parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(state, end, atol=1e-5, rtol=0)


@LAYERS
def test_the_state_matters_and_has_the_contract_s_shape(layers: int) -> None:
    model, tokens = model_of(layers), tokens_of(3, 24)
    cold, state = model(tokens, model.zero_state(3))
    warm, _ = model(tokens, state)
    assert not torch.allclose(cold[:, 0], warm[:, 0], atol=1e-3)
    for found in (model.zero_state(3), state):
        assert found.shape == (2, layers, 3, 16)
        assert found.dtype == torch.float32


@needs_bf16
def test_the_carried_state_stays_float32_under_bf16_autocast() -> None:
    model = model_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, state = model(tokens_of(2, 3), model.zero_state(2))
    assert state.dtype == torch.float32
