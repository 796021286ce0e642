"""The recurrent layers against the cells from first principles, and the regularisers that reach into the recurrence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from charloom.bundle import CellKind
from charloom.lab.reference.torch_cells import Cell, CombinedCell, LayerNormCell, PeepholeCell
from charloom.lab.reference.torch_cells import State as CellState
from charloom.network.cells import CANDIDATE, Layer, LayerOutput
from charloom.network.cells import CELLS as ALL_CELLS
from charloom.network.cells.layer_norm import LayerNormLayer
from charloom.network.cells.peephole import PeepholeLayer
from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM

X, H, B, T = 5, 7, 3, 12
CELLS = pytest.mark.parametrize("cell", list(CellKind), ids=lambda cell: cell.value)
STEPWISE = {"zoneout_hidden": 1e-300}
"""A share that changes nothing and takes the plain cell out of torch's fused kernel."""


def layer_of(cell: CellKind, **settings: float) -> Layer:
    """In float64, every parameter off its neutral start."""
    torch.manual_seed(1)
    sizes = {"hidden_size": H, "embedding_size": X, "cell": cell} | settings
    config, kind = ModelConfig.model_validate(sizes), ALL_CELLS[cell]
    layer = kind.layer(X, H, config.weight_drop, config.zoneout).double().eval()
    for parameter in layer.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return layer


def inputs_of(cell: CellKind, rows: int = B, steps: int = T) -> tuple[Tensor, tuple[Tensor, ...]]:
    """x and the state before it."""
    torch.manual_seed(2)
    x, h = torch.randn(rows, steps, X).double(), torch.randn(rows, H).double().tanh()
    return x, (h, *(torch.randn(rows, H).double() for _ in ALL_CELLS[cell].arrays[1:]))


def leaves_of(x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The same, for gradients to be taken by."""
    return x.clone().requires_grad_(), tuple(part.clone().requires_grad_() for part in state)


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
    return LayerOutput(torch.stack(outputs, dim=1), tuple(state))


def loss_of(result: LayerOutput) -> Tensor:
    weights = torch.linspace(-1, 1, result.outputs.numel(), dtype=torch.float64).view_as(result.outputs)
    return (result.outputs * weights).sum() + result.state[-1].square().sum()


@CELLS
@torch.no_grad()
def test_a_layer_does_what_the_equations_of_its_cell_say(cell: CellKind) -> None:
    """Row by row in NumPy; `steps` shows the same, with the gates."""
    kind = ALL_CELLS[cell]
    layer = layer_of(cell)
    x, state = inputs_of(cell)
    result, steps = layer(x, state), layer.steps(x, state)
    own = {name: parameter.numpy() for name, parameter in layer.named_parameters()}
    for row in range(B):
        arrays = tuple(part[row].numpy() for part in state)
        for place in range(T):
            expected = kind.equations(own, x[row, place].numpy(), arrays)
            arrays, found = expected.state, steps[place]
            torch.testing.assert_close(result.outputs[row, place].numpy(), arrays[0], atol=1e-12, rtol=0)
            assert (len(found.state), len(found.gates)) == (len(kind.arrays), len(kind.gates))
            for mine, theirs in zip((*found.state, *found.gates), (*arrays, *expected.gates), strict=True):
                torch.testing.assert_close(mine[row].numpy(), theirs, atol=1e-12, rtol=0)
        for mine, theirs in zip(result.state, arrays, strict=True):
            torch.testing.assert_close(mine[row].numpy(), theirs, atol=1e-12, rtol=0)


@CELLS
@torch.no_grad()
def test_h_and_gates_stay_within_their_bounds(cell: CellKind) -> None:
    """Far from where they start: |h| <= 1 is what the scale of int8 products counts on."""
    layer = layer_of(cell)
    for parameter in layer.parameters():
        parameter.data *= 20
    x, state = inputs_of(cell, steps=40)
    for step in layer.steps(20 * x, [torch.zeros_like(part) for part in state]):
        assert float(step.state[0].abs().max()) <= 1
        for name, gate in zip(ALL_CELLS[cell].gates, step.gates, strict=True):
            assert -1.0 * (name == CANDIDATE) <= float(gate.min()) <= float(gate.max()) <= 1


@pytest.mark.parametrize("cell", [CellKind.LSTM, CellKind.PEEPHOLE, CellKind.LAYER_NORM], ids=lambda cell: cell.value)
@pytest.mark.parametrize("stepwise", [False, True], ids=["", "stepwise"])
def test_a_layer_is_its_cell_from_first_principles_and_so_are_its_gradients(cell: CellKind, stepwise: bool) -> None:
    layer = layer_of(cell, **(STEPWISE if stepwise else {}))
    x, (h, c) = leaves_of(*inputs_of(cell))
    result = layer(x, (h, c))
    own = torch.autograd.grad(loss_of(result), [x, h, c, layer.weight_ih, layer.weight_hh, layer.bias])
    reference, others = reference_of(layer), [value.detach().clone().requires_grad_() for value in (x, h, c)]
    expected = run_reference(reference, *others)
    torch.testing.assert_close(result, expected, atol=1e-12, rtol=0)
    if isinstance(reference, CombinedCell):
        *first, weight, bias = torch.autograd.grad(loss_of(expected), [*others, reference.weight, reference.bias])
        wanted = [*first, weight[:, H:], weight[:, :H], bias]
    else:
        parameters = [layer.weight_ih, layer.weight_hh, layer.bias]
        wanted = list(torch.autograd.grad(loss_of(expected), [*others, *parameters]))
    for mine, theirs in zip(own, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=0)


@torch.no_grad()
def test_a_gated_recurrent_unit_is_torch_s_with_all_biases_outside_of_the_reset_in_one() -> None:
    layer, torch_s = layer_of(CellKind.GRU), nn.GRU(X, H, batch_first=True).double()
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0")
    for name, value in zip(names, (layer.weight_ih, layer.weight_hh, layer.bias), strict=True):
        getattr(torch_s, name).copy_(value)
    torch_s.bias_hh_l0.copy_(torch.cat([torch.zeros(2 * H), layer.get_parameter("bias_hh")]))
    x, (h,) = inputs_of(CellKind.GRU)
    outputs, last = torch_s(x, h[None])
    torch.testing.assert_close(layer(x, (h,)), LayerOutput(outputs, (last[0],)), atol=1e-12, rtol=0)


@torch.no_grad()
def test_a_coupled_cell_is_the_plain_one_whose_input_gate_mirrors_the_forget_gate() -> None:
    """1 - sigmoid(x) = sigmoid(-x)."""
    coupled, plain = layer_of(CellKind.CIFG), layer_of(CellKind.LSTM)
    for name in ("weight_ih", "weight_hh", "bias"):
        f, o, g = coupled.get_parameter(name).chunk(3)
        plain.get_parameter(name).copy_(torch.cat([-f, f, g, o]))
    x, state = inputs_of(CellKind.CIFG)
    torch.testing.assert_close(coupled(x, state), plain(x, state), atol=1e-12, rtol=0)


@CELLS
@pytest.mark.parametrize("stepwise", [False, True], ids=["", "stepwise"])
def test_all_that_a_layer_reads_has_the_gradient_that_differences_show(cell: CellKind, stepwise: bool) -> None:
    layer = layer_of(cell, **(STEPWISE if stepwise else {}))
    x, state = leaves_of(*inputs_of(cell, rows=2, steps=4))
    names, values = zip(*layer.named_parameters(), strict=True)

    def run(x: Tensor, *rest: Tensor) -> Tensor:
        state, parameters = rest[: -len(names)], rest[-len(names) :]
        return loss_of(torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x, state)))

    assert torch.autograd.gradcheck(run, (x, *state, *(value.detach().requires_grad_() for value in values)))


@CELLS
def test_a_reset_inside_a_sequence_is_a_start_from_the_zero_state(cell: CellKind) -> None:
    """Row 0 is reset before steps 0 and 5, row 1 never, row 2 before step 11: like sequences run by themselves."""
    layer = layer_of(cell)
    x, state = inputs_of(cell)
    resets = torch.zeros(B, T, dtype=torch.bool)
    resets[0, 0] = resets[0, 5] = resets[2, 11] = True
    found = layer(x, state, resets)

    def alone(row: int, start: int, end: int, fresh: bool) -> Tensor:
        scale = 0.0 if fresh else 1.0
        outputs: Tensor = layer(x[row : row + 1, start:end], [scale * part[row : row + 1] for part in state]).outputs
        return outputs[0]

    torch.testing.assert_close(found.outputs[0], torch.cat([alone(0, 0, 5, True), alone(0, 5, T, True)]))
    torch.testing.assert_close(found.outputs[1], alone(1, 0, T, False))
    torch.testing.assert_close(found.outputs[2], torch.cat([alone(2, 0, 11, False), alone(2, 11, T, True)]))
    at_start = torch.zeros_like(resets)
    at_start[:, 0] = True  # the only case that leaves the plain cell in its fused kernel
    fresh = layer(x, [0 * part for part in state])
    torch.testing.assert_close(layer(x, state, at_start), fresh)


@CELLS
def test_zoneout_keeps_shares_in_training_and_mixes_them_in_evaluation(cell: CellKind) -> None:
    shares = (0.1, *[0.4] * len(ALL_CELLS[cell].arrays[1:]))
    layer = layer_of(cell, zoneout_hidden=0.1, **({"zoneout_cell": 0.4} if len(shares) > 1 else {}))
    x, state = inputs_of(cell, rows=4000, steps=1)
    plain, mixed = layer_of(cell)(x, state).state, layer(x, state).state
    trained = layer.train()(x, state).state
    assert layer.zoneout == shares
    for share, old, new, in_evaluation, in_training in zip(shares, state, plain, mixed, trained, strict=True):
        torch.testing.assert_close(in_evaluation, share * old + (1 - share) * new)
        assert float((in_training == old).float().mean()) == pytest.approx(share, abs=0.02)
        changed = in_training != old
        torch.testing.assert_close(in_training[changed], new[changed])


@CELLS
def test_weight_drop_drops_recurrent_weights_for_a_whole_sequence_and_only_in_training(cell: CellKind) -> None:
    layer, plain = layer_of(cell, weight_drop=0.5), layer_of(cell)
    x, state = inputs_of(cell)
    torch.testing.assert_close(layer(x, state).outputs, plain(x, state).outputs)
    layer.train()
    result = layer(x, state)
    gradient = torch.autograd.grad(loss_of(result), layer.weight_hh)[0]
    dropped = gradient == 0  # a weight that no step saw
    assert 0.3 < float(dropped.float().mean()) < 0.7
    plain.weight_hh.data = torch.where(dropped, 0, 2 * plain.weight_hh.data)
    torch.testing.assert_close(result.outputs, plain(x, state).outputs)
    no_h = (0 * state[0], *state[1:])
    torch.testing.assert_close(layer(0 * x, no_h).outputs[:, 0], plain(0 * x, no_h).outputs[:, 0])


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
    x, state = inputs_of(cell)
    x, state = x.float(), tuple(part.float() for part in state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = layer(x, state)
    loss_of(rounded).backward()
    exact = layer(x, state)
    assert {part.dtype for part in rounded.state} == {torch.float32}
    torch.testing.assert_close(rounded.outputs, exact.outputs, atol=0.05, rtol=0)
    assert not torch.equal(rounded.outputs, exact.outputs)
    assert layer.weight_hh.grad is not None
    assert layer.weight_hh.grad.dtype == torch.float32
