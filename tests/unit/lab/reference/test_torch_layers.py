"""The torch cells and layers against `torch.nn.LSTM`: outputs, last states and all gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from charloom.lab.reference import numpy_batched
from charloom.lab.reference.torch_cells import Cell, CombinedCell, LayerNormCell, PeepholeCell, SeparateCell, State
from charloom.lab.reference.torch_layers import Bidirectional, Layer, Stacked

B, T, X, H = 3, 7, 5, 6
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["float32", "float64"]
)
PLAIN = pytest.mark.parametrize("make", [SeparateCell, CombinedCell])


def values(parameter: Tensor) -> Tensor:
    return parameter.detach()


def gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def as_named(cell: Cell, lstm: nn.LSTM, suffix: str, of: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The parameters of one layer and direction of `lstm`, or their gradients, under the names of the cell's."""
    inputs, recurrent, bias, other = (
        of(getattr(lstm, f"{name}_{suffix}")) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    # torch has two biases that are only ever added: their sum is our one, and both have its gradient
    stacked = {"weight": torch.cat([recurrent, inputs], dim=1), "bias": bias + other if of is values else bias}
    if isinstance(cell, SeparateCell):
        gates = {"w": stacked["weight"].chunk(4), "b": stacked["bias"].chunk(4)}
        return {f"{kind}_{gate}": gates[kind][index] for kind in "wb" for index, gate in enumerate("ifgo")}
    return stacked


@torch.no_grad()
def copy(cell: Cell, lstm: nn.LSTM, suffix: str) -> None:
    for name, value in as_named(cell, lstm, suffix, values).items():
        cell.get_parameter(name).copy_(value)


def suffixes(lstm: nn.LSTM) -> list[str]:
    ends = ("", "_reverse") if lstm.bidirectional else ("",)
    return [f"l{layer}{end}" for layer in range(lstm.num_layers) for end in ends]


def cells_of(module: nn.Module) -> list[Cell]:
    """In the order of torch's states: layer by layer, forwards before backwards."""
    return [part for part in module.modules() if isinstance(part, Cell)]


def random_tensor(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_equal_to_torch(ours: nn.Module, lstm: nn.LSTM, close: float, *, given_state: bool = True) -> None:
    """The same outputs, states, and gradients into parameters, inputs and start states, from all that comes out."""
    dtype, cells = lstm.weight_ih_l0.dtype, cells_of(ours)
    for cell, suffix in zip(cells, suffixes(lstm), strict=True):
        copy(cell, lstm, suffix)
    shape = (B, T, X) if lstm.batch_first else (T, B, X)
    found: list[list[Tensor]] = []
    for module in (ours, lstm):
        inputs = random_tensor(*shape, dtype=dtype).requires_grad_()
        h, c = (random_tensor(len(cells), B, H, dtype=dtype, seed=seed).requires_grad_() for seed in (1, 2))
        start = State(h[0], c[0]) if isinstance(module, Layer) else (h, c) if module is lstm else State(h, c)
        outputs, (hn, cn) = module(inputs, start if given_state else None)
        hn, cn = hn.reshape(len(cells), B, H), cn.reshape(len(cells), B, H)
        made = [outputs, hn, cn]
        total = sum((part * random_tensor(*part.shape, dtype=dtype, seed=5)).sum() for part in made)
        assert isinstance(total, Tensor)
        total.backward()
        found.append([*made, gradient(inputs), *([gradient(h), gradient(c)] if given_state else [])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=close, rtol=close)
    for cell, suffix in zip(cells, suffixes(lstm), strict=True):
        for name, expected in as_named(cell, lstm, suffix, gradient).items():
            torch.testing.assert_close(gradient(cell.get_parameter(name)), expected, atol=close, rtol=close)


@PRECISIONS
@PLAIN
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("given_state", [True, False])
def test_a_layer_is_torch_s(
    make: type[SeparateCell | CombinedCell], batch_first: bool, given_state: bool, dtype: torch.dtype, close: float
) -> None:
    torch.manual_seed(0)
    ours = Layer(make(X, H), batch_first=batch_first).to(dtype)
    assert_equal_to_torch(ours, nn.LSTM(X, H, batch_first=batch_first, dtype=dtype), close, given_state=given_state)


@PRECISIONS
@PLAIN
def test_both_directions_are_torch_s(make: type[SeparateCell | CombinedCell], dtype: torch.dtype, close: float) -> None:
    torch.manual_seed(0)
    ours = Bidirectional(make(X, H), make(X, H)).to(dtype)
    assert_equal_to_torch(ours, nn.LSTM(X, H, batch_first=True, bidirectional=True, dtype=dtype), close)


@PRECISIONS
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_stacked_layers_are_torch_s(
    layers: int, batch_first: bool, bidirectional: bool, dtype: torch.dtype, close: float
) -> None:
    torch.manual_seed(0)
    ours = Stacked(X, H, layers, bidirectional=bidirectional, batch_first=batch_first).to(dtype)
    lstm = nn.LSTM(X, H, layers, batch_first=batch_first, bidirectional=bidirectional, dtype=dtype)
    assert_equal_to_torch(ours, lstm, close)
    assert_equal_to_torch(
        Stacked(X, H, layers, bidirectional=bidirectional, batch_first=batch_first).to(dtype),
        nn.LSTM(X, H, layers, batch_first=batch_first, bidirectional=bidirectional, dtype=dtype),
        close,
        given_state=False,
    )


def test_a_bidirectional_layer_s_last_states_are_at_opposite_ends() -> None:
    torch.manual_seed(0)
    outputs, (h, _) = Bidirectional(CombinedCell(X, H), CombinedCell(X, H))(random_tensor(B, T, X, dtype=torch.float32))
    torch.testing.assert_close(outputs[:, -1, :H], h[0], atol=0, rtol=0)
    torch.testing.assert_close(outputs[:, 0, H:], h[1], atol=0, rtol=0)


@pytest.mark.parametrize("make", [SeparateCell, CombinedCell, PeepholeCell, LayerNormCell])
def test_a_sequence_in_two_parts_is_the_whole(make: type[Cell]) -> None:
    torch.manual_seed(0)
    layer, inputs = Layer(make(X, H)).double(), random_tensor(B, T, X, dtype=torch.float64)
    whole, end = layer(inputs)
    first, state = layer(inputs[:, :3])
    second, last = layer(inputs[:, 3:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, atol=1e-14, rtol=0)
    torch.testing.assert_close(last, end, atol=1e-14, rtol=0)


def test_dropout_is_on_outputs_alone_and_off_in_evaluation() -> None:
    torch.manual_seed(0)
    layer, inputs = Layer(CombinedCell(X, H), dropout=0.4), random_tensor(200, T, X, dtype=torch.float32)
    noisy, noisy_end = layer(inputs)
    quiet, quiet_end = layer.eval()(inputs)
    torch.testing.assert_close(noisy_end, quiet_end, atol=0, rtol=0)
    kept = noisy != 0
    torch.testing.assert_close(noisy[kept], quiet[kept] / 0.6)
    assert float(kept.float().mean()) == pytest.approx(0.6, abs=0.02)
    assert bool((quiet != 0).all())


def test_stacked_layers_drop_out_between_layers_and_not_after_the_last() -> None:
    torch.manual_seed(0)
    layers, inputs = Stacked(X, H, 2, dropout=0.5), random_tensor(B, T, X, dtype=torch.float32)
    noisy, noisy_end = layers(inputs)
    quiet, quiet_end = layers.eval()(inputs)
    torch.testing.assert_close(noisy_end.h[0], quiet_end.h[0], atol=0, rtol=0)
    assert not torch.allclose(noisy_end.h[1], quiet_end.h[1], atol=1e-3)
    torch.testing.assert_close(noisy[:, -1], noisy_end.h[1], atol=0, rtol=0)
    assert not torch.equal(noisy, quiet)


@pytest.mark.parametrize("make", [SeparateCell, CombinedCell, PeepholeCell, LayerNormCell])
def test_the_forget_bias_starts_at_one_and_all_other_biases_at_zero(make: type[Cell]) -> None:
    named = dict(make(X, H).named_parameters())
    biases = named["bias"].tolist() if "bias" in named else [v for g in "ifgo" for v in named[f"b_{g}"].tolist()]
    assert biases == [0.0] * H + [1.0] * H + [0.0] * 2 * H


def test_recurrent_weights_start_orthogonal_gate_by_gate() -> None:
    cells = CombinedCell(X, H), LayerNormCell(X, H)
    for recurrent in (cells[0].weight.detach()[:, :H], cells[1].weight_hh.detach()):
        for gate in recurrent.chunk(4):
            torch.testing.assert_close(gate @ gate.T, torch.eye(H), atol=1e-5, rtol=0)


def test_numpy_s_batched_layer_is_torch_s() -> None:
    """The two oracles, which share no line, against each other: values and gradients."""
    torch.manual_seed(0)
    layer, inputs = Layer(CombinedCell(X, H), batch_first=False).double(), random_tensor(T, B, X, dtype=torch.float64)
    outputs, end = layer(inputs)
    outputs.square().sum().backward()
    assert isinstance(layer.cell, CombinedCell)

    def columns(weight: Tensor, bias: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        recurrent, from_inputs = weight.split([H, X], dim=1)
        rows = torch.cat([bias[None], from_inputs.T, recurrent.T])
        i, f, g, o = rows.chunk(4, dim=1)
        return torch.cat([i, f, o, g], dim=1).numpy()

    made = numpy_batched.forward(inputs.numpy(), columns(layer.cell.weight.detach(), layer.cell.bias.detach()))
    np.testing.assert_allclose(made.h, outputs.detach().numpy(), atol=1e-13)
    np.testing.assert_allclose(made.cn, end.c.detach().numpy(), atol=1e-13)
    found = numpy_batched.backward(made.trace, 2 * made.h).weights
    expected = columns(gradient(layer.cell.weight), gradient(layer.cell.bias))
    np.testing.assert_allclose(found, expected, atol=1e-12)
