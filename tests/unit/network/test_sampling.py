"""`choose` in torch (`charloom.network.sampling`) against the engine's in NumPy, which was written apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charloom.controls import Effect, controls
from charloom.engine.decoding.decoder import Floats
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.sampling import choose as choose_in_numpy
from charloom.engine.errors import InvalidRequest
from charloom.network.sampling import apply_filters, choose
from tests.unit.training.training_runs import HIGHEST_UNIFORM, plausible_tokens, random_uniforms, torch_parameters


def decimals(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers with three digits: `st.floats` refuses to work once a trainer has switched denormals off."""
    return st.integers(round(low * 1000), round(high * 1000)).map(lambda n: n / 1000)


LOGIT = st.one_of(decimals(-30, 30), st.sampled_from([-2.0, 0.0, 0.5, 3.0]))  # the latter make ties
UNIFORM = st.one_of(st.integers(0, 2**23 - 1).map(lambda n: n / 2**23), st.sampled_from([0.0, 0.5, HIGHEST_UNIFORM]))
SAMPLING = st.builds(
    Sampling,
    temperature=st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0]), decimals(0.05, 10)),
    top_k=st.one_of(st.just(0), st.integers(1, 30)),
    top_p=st.one_of(st.sampled_from([1.0, 0.5, 0.9]), decimals(0.01, 1)),
    min_p=st.one_of(st.sampled_from([0.0, 0.05, 1.0]), decimals(0, 1)),
)


@st.composite
def row_of(draw: st.DrawFn, size: int) -> tuple[Floats, float, Sampling, Floats]:
    """Logits, a uniform number, parameters and a bias that forbids some tokens, never all."""
    logits = np.array(draw(st.lists(LOGIT, min_size=size, max_size=size)), np.float32)
    bias = np.array(draw(st.lists(st.sampled_from([0.0, 0.0, 1.5, -np.inf]), min_size=size, max_size=size)), np.float32)
    bias[draw(st.integers(0, size - 1))] = 0
    return logits, draw(UNIFORM), draw(SAMPLING), bias


ROWS = st.integers(1, 40).flatmap(lambda size: st.lists(row_of(size), min_size=1, max_size=4))


def chosen(rows: list[tuple[Floats, float, Sampling, Floats]], *, filtered: bool | None = None) -> list[int]:
    logits, uniforms, samplings, biases = zip(*rows, strict=True)
    tokens = choose(
        torch.from_numpy(np.stack(logits)),
        torch.tensor(uniforms, dtype=torch.float32),
        bias=torch.from_numpy(np.stack(biases)),
        filtered=any(sampling.filters for sampling in samplings) if filtered is None else filtered,
        **torch_parameters(samplings),
    )
    return [int(token) for token in tokens]


@given(rows=ROWS)
@settings(max_examples=150)
def test_torch_and_numpy_choose_the_same_token(
    rows: list[tuple[Floats, float, Sampling, Floats]],
) -> None:
    """The same token, except where the uniform number or a filter's limit lies within 1e-5 of a boundary.

    There float32 sums in another order may fall on the other side; then the neighbour must be chosen, nothing else.
    """
    for token, row in zip(chosen(rows), rows, strict=True):
        assert token in plausible_tokens(*row)


@given(rows=ROWS)
def test_a_row_is_chosen_alone_as_in_a_batch(rows: list[tuple[Floats, float, Sampling, Floats]]) -> None:
    assert chosen(rows) == [chosen([row], filtered=True)[0] for row in rows]


@given(rows=ROWS)
def test_a_forbidden_token_is_never_chosen(rows: list[tuple[Floats, float, Sampling, Floats]]) -> None:
    for uniform in (0.0, HIGHEST_UNIFORM):
        moved = [(logits, uniform, sampling, bias) for logits, _, sampling, bias in rows]
        for token, (_, _, _, bias) in zip(chosen(moved), moved, strict=True):
            assert np.isfinite(bias[token])


@given(row=st.integers(1, 40).flatmap(row_of))
def test_filters_that_are_off_change_nothing(row: tuple[Floats, float, Sampling, Floats]) -> None:
    logits, uniform, sampling, bias = row
    off = [(logits, uniform, Sampling(sampling.temperature), bias)]
    assert chosen(off, filtered=True) == chosen(off, filtered=False)


@pytest.mark.parametrize("forbidden", [[0], [4], [0, 4], [0, 1, 2, 4], [1, 2, 3, 4]], ids=str)
@pytest.mark.parametrize("temperature", [0.0, 0.01, 1.0, 100.0])
def test_no_uniform_number_chooses_a_token_without_weight(forbidden: list[int], temperature: float) -> None:
    logits, bias = np.array([5, 1, 2, 3, 5], np.float32), np.zeros(5, np.float32)
    bias[forbidden] = -np.inf
    uniforms = [0.0, 2**-23, 0.5, 1 - 2**-22, HIGHEST_UNIFORM]
    tokens = chosen([(logits, uniform, Sampling(temperature), bias) for uniform in uniforms])
    assert not set(tokens) & set(forbidden)


def test_the_highest_uniform_number_stays_inside_a_vocabulary_whose_last_weights_vanish() -> None:
    logits = np.array([0.0] * 20 + [-200.0] * 20, np.float32)
    assert chosen([(logits, HIGHEST_UNIFORM, Sampling(), np.zeros(40, np.float32))]) == [19]


def test_greedy_takes_the_largest_biased_logit_and_the_lowest_id_among_equals() -> None:
    logits, bias = np.array([1, 3, 3, 2.5], np.float32), np.array([0, 0, 0, 1], np.float32)
    greedy = Sampling(temperature=0)
    for uniform in (0.0, HIGHEST_UNIFORM):
        assert chosen([(logits, uniform, greedy, np.zeros(4, np.float32)), (logits, uniform, greedy, bias)]) == [1, 3]


def filters(**asked: Any) -> dict[str, torch.Tensor]:
    """The filters of one row, by name."""
    values = {one.name: np.array([asked.get(one.option, one.neutral)], one.dtype) for one in controls(Effect.FILTERS)}
    return {name: torch.from_numpy(value) for name, value in values.items()}


def kept(logits: list[float], **asked: Any) -> list[int]:
    masked = apply_filters(torch.tensor([logits]), **filters(**asked))[0]
    here = [index for index, value in enumerate(masked.tolist()) if value > -np.inf]
    assert [masked[index].item() for index in here] == pytest.approx([logits[index] for index in here])
    return here


PROBABILITIES = [0.1, 0.4, 0.2, 0.3]
LOGITS = [float(value) for value in np.log(PROBABILITIES)]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"top_k": 1}, [1]),
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 9}, [0, 1, 2, 3]),
        ({"top_p": 0.39}, [1]),
        ({"top_p": 0.41}, [1, 3]),
        ({"top_p": 0.75}, [1, 2, 3]),
        ({"top_p": 1e-6}, [1]),
        ({"min_p": 0.51}, [1, 3]),
        ({"min_p": 0.26}, [1, 2, 3]),
        ({"min_p": 1.0}, [1]),
        ({"top_k": 2, "top_p": 0.56}, [1]),  # 4/7 of the mass that top_k leaves, which is renormalised
        ({"top_k": 2, "top_p": 0.58}, [1, 3]),
        ({"top_k": 3, "top_p": 0.9, "min_p": 0.6}, [1, 3]),
    ],
)
def test_each_filter_keeps_what_it_says(filters: dict[str, float], expected: list[int]) -> None:
    assert kept(LOGITS, **filters) == expected  # type: ignore[arg-type]


def test_among_equals_a_filter_keeps_the_lower_ids() -> None:
    assert kept([1.0, 2.0, 1.0, 1.0], top_k=3) == [0, 1, 2]


CHI_SQUARE_999 = 24.32
"""99.9 % of chi-square values with 7 degrees of freedom lie below this."""


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 8], ids=["unfiltered", "filtered"])
def test_tokens_are_distributed_as_softmax_of_logits_over_temperature(temperature: float, top_k: int) -> None:
    count = 20_000
    logits = np.array([0.3, -1.0, 1.2, 0.0, -0.5, 0.9, -0.2, 0.6], np.float32)
    tokens = choose(
        torch.from_numpy(logits).expand(count, 8),
        torch.from_numpy(random_uniforms(42, count)),
        bias=torch.zeros(count, 8),
        filtered=top_k > 0,
        **torch_parameters([Sampling(temperature=temperature, top_k=top_k)] * count),
    )
    expected = np.exp(logits.astype(np.float64) / temperature)
    expected *= count / expected.sum()
    seen = np.bincount(tokens.numpy(), minlength=8)
    assert float(((seen - expected) ** 2 / expected).sum()) < CHI_SQUARE_999


@pytest.mark.parametrize("temperature", [1e-30, 1e-20, 1e-6])
def test_the_smallest_temperatures_are_as_good_as_greedy(temperature: float) -> None:
    logits = np.array([-20, 35, 40], np.float32)
    bias = np.array([-np.inf, 0, 0], np.float32)
    for top_k in (0, 2):
        sampling = Sampling(temperature, top_k)
        assert chosen([(logits, 0.5, sampling, bias)]) == [choose_in_numpy(logits, 0.5, sampling, bias)[0]] == [2]


@pytest.mark.parametrize("top_p", [1e-30, 1e-20, 1e-7])
def test_the_smallest_top_p_still_keeps_the_most_probable_token(top_p: float) -> None:
    logits, bias = np.array([1, 5, 2], np.float32), np.zeros(3, np.float32)
    for top_k in (0, 2):
        sampling = Sampling(top_k=top_k, top_p=top_p)
        assert chosen([(logits, 0.99, sampling, bias)]) == [choose_in_numpy(logits, 0.99, sampling, bias)[0]] == [1]


def test_a_top_p_of_zero_keeps_the_most_probable_token_in_the_graph_too() -> None:
    """No request can ask for it, but nothing that a graph is given may leave it without a token."""
    logits = torch.tensor([[1.0, 5.0, 2.0]])
    kept = apply_filters(logits, **filters(top_k=2, top_p=0.0))
    assert torch.isfinite(kept).tolist() == [[False, True, False]]


@pytest.mark.parametrize("temperature", [1e-31, 1e-45, 1e-46])
def test_a_temperature_that_float32_cannot_divide_by_is_greedy(temperature: float) -> None:
    """One below 1e-45 arrives as 0, so that all of them have to be."""
    assert [(one.name, one.of_row(value, 3)) for one, value in Sampling(temperature).asked] == [("temperature", 0.0)]
    logits, bias = np.array([1, 5, 2], np.float32), np.zeros(3, np.float32)
    assert choose_in_numpy(logits, 0.99, Sampling(temperature), bias)[0] == 1


def test_a_negative_temperature_is_refused_however_small() -> None:
    with pytest.raises(InvalidRequest, match="-1e-30 is not allowed; give a number from 0 to 100"):
        Sampling(-1e-30)
