from __future__ import annotations

from typing import get_args

import pytest
import torch

from charloom.lab.studies.networks import Kind, Network
from charloom.lab.studies.recall import made

KINDS = get_args(Kind)


def network(kind: Kind, hidden: int = 12, span: int = 50) -> Network:
    return made(lambda: Network(kind, 5, hidden, 3, span), seed=1)


def biases(net: Network) -> tuple[torch.Tensor, ...]:
    """Of i, f, g and o; torch has two of each, which are added."""
    one, other = net.layer.all_weights[0][2:]
    return (one + other).detach().chunk(4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_cell_takes_the_steps_of_the_layer(kind: Kind) -> None:
    net = network(kind)
    symbols = torch.randint(5, (4, 9))
    with torch.no_grad():
        for parameter in net.layer.parameters():  # biases too, which are zero at the start
            parameter += 0.3 * torch.randn_like(parameter)
        outputs, _ = net.layer(net.encoded(symbols))
        cell = net.cell()
        state = cell.zero_state(symbols)
        state = type(state)(*(part.float() for part in state))
        for step, x in enumerate(net.encoded(symbols).unbind(1)):
            state = cell(x, state)
            torch.testing.assert_close(state.h, outputs[:, step])


def test_a_network_starts_as_it_says() -> None:
    for kind in KINDS[1:]:
        for gate in network(kind).layer.all_weights[0][1].chunk(1 if kind.startswith("rnn") else 4):
            torch.testing.assert_close(gate @ gate.T, torch.eye(12), atol=1e-5, rtol=0)
    for kind, bias in (("lstm-0", 0.0), ("lstm-1", 1.0)):
        i, f, g, o = biases(network(kind))
        assert f.tolist() == [bias] * 12
        assert not torch.cat([i, g, o]).any()


def test_chrono_biases_cover_the_span() -> None:
    i, f, g, o = biases(network("lstm-chrono", hidden=500, span=50))
    assert torch.equal(i, -f)
    assert not torch.cat([g, o]).any()
    times = f.exp()
    assert 1 <= float(times.min()) < 1.5
    assert 48 < float(times.max()) <= 49
    assert float(times.mean()) == pytest.approx(25, abs=1.5)


def test_mixed_biases_are_half_chrono() -> None:
    i, f, g, o = biases(network("lstm-mixed", hidden=500, span=50))
    assert torch.equal(i[:250], -f[:250])
    assert 48 < float(f[:250].exp().max()) <= 49
    assert f[250:].unique().tolist() == [1]
    assert not torch.cat([i[250:], g, o]).any()


def test_parameters_are_counted() -> None:
    assert network("rnn").parameter_count() == 12 * (12 + 5 + 2) + 13 * 3
    assert network("lstm-1").parameter_count() == 4 * 12 * (12 + 5 + 2) + 13 * 3


def test_a_seed_repeats_a_network_and_leaves_torchs_own_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, two = network("lstm-1"), network("lstm-1")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert torch.equal(torch.rand(2), expected)
