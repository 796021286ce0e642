"""The recurrent layers against the cells from first principles, and the regularisers that reach into the recurrence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from charloom.bundle import CellKind
from charloom.lab.reference.torch_cells import Cell, CombinedCell, LayerNormCell, PeepholeCell
from charloom.lab.reference.torch_cells import State as CellState
from charloom.network.config import ModelConfig
from charloom.network.layers import LAYERS, Layer, LayerNormLayer, LayerOutput, PeepholeLayer
from charloom.network.model import CharLSTM

X, H, B, T = 5, 7, 3, 12
CELLS = pytest.mark.parametrize("cell", list(CellKind), ids=lambda cell: cell.value)
STEPWISE = {"zoneout_cell": 1e-300}
"""A share that changes nothing and takes the plain cell out of torch's fused kernel."""


def layer_of(cell: CellKind, **settings: float) -> Layer:
    """In float64, every parameter off its neutral start."""
    torch.manual_seed(1)
    sizes = {"hidden_size": H, "embedding_size": X, "cell": cell} | settings
    layer = LAYERS[cell](X, ModelConfig.model_validate(sizes)).double().eval()
    for parameter in layer.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return layer


def inputs_of(rows: int = B, steps: int = T) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(rows, steps, X).double(), torch.randn(rows, H).double().tanh(), torch.randn(rows, H).double()


def reference_of(layer: Layer) -> Cell:
    """The cell from first principles with the same parameters."""
    cell: Cell
    if isinstance(layer, LayerNormLayer):
        cell = LayerNormCell(X, H).double()
        cell.weight_ih, cell.weight_hh, cell.bias = layer.weight_ih, layer.weight_hh, layer.bias
        cell.norm_inputs.weight, cell.norm_hidden.weight = layer.gain_ih, layer.gain_hh
        cell.norm_cell.weight, cell.norm_cell.bias = layer.gain_c, layer.shift_c
        return cell
    cell = (PeepholeCell if isinstance(layer, PeepholeLayer) else CombinedCell)(X, H).double()
    cell.weight.data = torch.cat([layer.weight_hh, layer.weight_ih], dim=1).detach()
    cell.bias = layer.bias
    if isinstance(layer, PeepholeLayer):
        assert isinstance(cell, PeepholeCell)
        cell.see_i, cell.see_f, cell.see_o = (nn.Parameter(row.detach()) for row in layer.see)
    return cell


def run_reference(cell: Cell, x: Tensor, h: Tensor, c: Tensor) -> LayerOutput:
    state, outputs = CellState(h, c), []
    for step in x.unbind(1):
        state = cell(step, state)
        outputs.append(state.h)
    return LayerOutput(torch.stack(outputs, dim=1), *state)


def loss_of(result: LayerOutput) -> Tensor:
    weights = torch.linspace(-1, 1, result.outputs.numel(), dtype=torch.float64).view_as(result.outputs)
    return (result.outputs * weights).sum() + result.c.square().sum()


@CELLS
@pytest.mark.parametrize("stepwise", [False, True], ids=["", "stepwise"])
def test_a_layer_is_its_cell_from_first_principles_and_so_are_its_gradients(cell: CellKind, stepwise: bool) -> None:
    layer = layer_of(cell, **(STEPWISE if stepwise else {}))
    x, h, c = inputs_of()
    leaves = [value.clone().requires_grad_() for value in (x, h, c)]
    result = layer(*leaves)
    own = torch.autograd.grad(loss_of(result), [*leaves, layer.weight_ih, layer.weight_hh, layer.bias])
    reference, others = reference_of(layer), [value.clone().requires_grad_() for value in (x, h, c)]
    expected = run_reference(reference, *others)
    for mine, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)
    if isinstance(reference, CombinedCell):
        *first, weight, bias = torch.autograd.grad(loss_of(expected), [*others, reference.weight, reference.bias])
        wanted = [*first, weight[:, H:], weight[:, :H], bias]
    else:
        parameters = [layer.weight_ih, layer.weight_hh, layer.bias]
        wanted = list(torch.autograd.grad(loss_of(expected), [*others, *parameters]))
    for mine, theirs in zip(own, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=0)


@CELLS
def test_every_parameter_of_a_layer_has_the_gradient_that_differences_show(cell: CellKind) -> None:
    layer = layer_of(cell, **STEPWISE)
    x, h, c = inputs_of(rows=2, steps=4)
    names, values = zip(*layer.named_parameters(), strict=True)

    def run(*parameters: Tensor) -> Tensor:
        return loss_of(torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x, h, c)))

    assert torch.autograd.gradcheck(run, tuple(value.detach().requires_grad_() for value in values))


@CELLS
def test_a_reset_inside_a_sequence_is_a_start_from_the_zero_state(cell: CellKind) -> None:
    """Row 0 is reset before steps 0 and 5, row 1 never, row 2 before step 11: like sequences run by themselves."""
    layer = layer_of(cell)
    x, h, c = inputs_of()
    resets = torch.zeros(B, T, dtype=torch.bool)
    resets[0, 0] = resets[0, 5] = resets[2, 11] = True
    found = layer(x, h, c, resets)

    def alone(row: int, start: int, end: int, fresh: bool) -> Tensor:
        scale = 0.0 if fresh else 1.0
        outputs: Tensor = layer(x[row : row + 1, start:end], scale * h[row : row + 1], scale * c[row : row + 1]).outputs
        return outputs[0]

    torch.testing.assert_close(found.outputs[0], torch.cat([alone(0, 0, 5, True), alone(0, 5, T, True)]))
    torch.testing.assert_close(found.outputs[1], alone(1, 0, T, False))
    torch.testing.assert_close(found.outputs[2], torch.cat([alone(2, 0, 11, False), alone(2, 11, T, True)]))
    at_start = torch.zeros_like(resets)
    at_start[:, 0] = True  # the only case that leaves the plain cell in its fused kernel
    torch.testing.assert_close(layer(x, h, c, at_start).outputs, layer(x, 0 * h, 0 * c).outputs)


@CELLS
def test_zoneout_keeps_shares_in_training_and_mixes_them_in_evaluation(cell: CellKind) -> None:
    layer = layer_of(cell, zoneout_cell=0.4, zoneout_hidden=0.1)
    x, h, c = inputs_of(rows=4000, steps=1)
    plain = layer_of(cell)(x, h, c)
    mixed = layer(x, h, c)
    torch.testing.assert_close(mixed.c, 0.4 * c + 0.6 * plain.c)
    torch.testing.assert_close(mixed.h, 0.1 * h + 0.9 * plain.h)
    layer.train()
    trained = layer(x, h, c)
    assert float((trained.c == c).float().mean()) == pytest.approx(0.4, abs=0.02)
    assert float((trained.h == h).float().mean()) == pytest.approx(0.1, abs=0.02)
    changed = trained.c != c
    torch.testing.assert_close(trained.c[changed], plain.c[changed])


@CELLS
def test_weight_drop_drops_recurrent_weights_for_a_whole_sequence_and_only_in_training(cell: CellKind) -> None:
    layer, plain = layer_of(cell, weight_drop=0.5), layer_of(cell)
    x, h, c = inputs_of()
    torch.testing.assert_close(layer(x, h, c).outputs, plain(x, h, c).outputs)
    layer.train()
    result = layer(x, h, c)
    gradient = torch.autograd.grad(loss_of(result), layer.weight_hh)[0]
    dropped = gradient == 0  # a weight that no step saw
    assert 0.3 < float(dropped.float().mean()) < 0.7
    plain.weight_hh.data = torch.where(dropped, 0, 2 * plain.weight_hh.data)
    torch.testing.assert_close(result.outputs, plain(x, h, c).outputs)
    torch.testing.assert_close(layer(0 * x, 0 * h, c).outputs[:, 0], plain(0 * x, 0 * h, c).outputs[:, 0])


def test_variational_dropout_has_one_mask_for_all_steps_and_plain_dropout_one_for_each() -> None:
    """Embeddings of one: what the first layer reads shows the mask."""
    for variational in (True, False):
        torch.manual_seed(3)
        config = ModelConfig(hidden_size=8, embedding_size=64, dropout=0.5, variational_dropout=variational)
        model, seen = CharLSTM(9, config).train(), []
        nn.init.ones_(model.embedding.weight)
        model.layers[0].register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        model(torch.zeros(2, 10, dtype=torch.long), model.zero_state(2))
        read = seen[0]
        assert sorted(set(read.flatten().tolist())) == [0, 2]
        assert bool((read == read[:, :1]).all()) is variational
        assert not torch.equal(read[0], read[1])
        assert float((read == 0).float().mean()) == pytest.approx(0.5, abs=0.15)


@CELLS
def test_bf16_takes_the_same_steps_roughly(cell: CellKind) -> None:
    layer = layer_of(cell, **STEPWISE).float()
    x, h, c = (value.float() for value in inputs_of())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = layer(x, h, c)
    loss_of(rounded).backward()
    exact = layer(x, h, c)
    assert rounded.c.dtype == torch.float32
    torch.testing.assert_close(rounded.outputs, exact.outputs, atol=0.05, rtol=0)
    assert not torch.equal(rounded.outputs, exact.outputs)
    assert layer.weight_hh.grad is not None
    assert layer.weight_hh.grad.dtype == torch.float32
