"""What an adaptive session learns, by its definition: a function of the text, and what it is worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charloom.controls.adaptation import BUCKETS, LARGEST_STATE, LEVELS, ORDERS, TRUSTS, layout, state_size
from charloom.engine.decoding.adaptation import fresh, learn, predict
from charloom.engine.decoding.decoder import Floats

VOCABULARY = 11
TEXTS = st.lists(st.integers(0, VOCABULARY - 1), max_size=40)


def logits_after(text: list[int]) -> Floats:
    """[1, V]: those of a network that looks at the last two tokens."""
    seed = [0, *[token + 1 for token in text[-2:]]]
    return np.random.default_rng(seed).normal(0, 2, (1, VOCABULARY)).astype(np.float32)


def read(text: list[int], state: Floats | None = None, before: tuple[int, ...] = ()) -> tuple[Floats, list[float]]:
    """The state after a text, and the log-probability of each of its tokens."""
    state, past, found = fresh(1, VOCABULARY) if state is None else state, list(before), []
    for token in text:
        prediction = predict(logits_after(past), state)
        logits = prediction.logits[0].astype(np.float64)
        found.append(float(logits[token] - np.log(np.exp(logits).sum())))
        state = learn(state, prediction, np.array([token]))
        past.append(token)
    return state, found


@given(TEXTS, TEXTS)
@settings(deadline=None)
def test_a_state_is_a_function_of_the_text_wherever_it_was_kept(first: list[int], second: list[int]) -> None:
    whole, logprobs = read(first + second)
    kept, before = read(first)
    copy = kept.copy()
    after, rest = read(second, kept, tuple(first))
    assert np.array_equal(after, whole)
    assert before + rest == logprobs
    assert np.array_equal(kept, copy), "a state that was learnt from was changed"


@given(st.lists(TEXTS, min_size=2, max_size=4))
@settings(deadline=None)
def test_rows_do_not_know_of_each_other(texts: list[list[int]]) -> None:
    length = min(map(len, texts))
    state, alone = fresh(len(texts), VOCABULARY), [read(text[:length])[0] for text in texts]
    for step in range(length):
        logits = np.concatenate([logits_after(text[:step]) for text in texts])
        state = learn(state, predict(logits, state), np.array([text[step] for text in texts]))
    assert np.array_equal(state, np.concatenate(alone))


@given(TEXTS)
@settings(deadline=None)
def test_all_that_it_holds_is_what_its_layout_says(text: list[int]) -> None:
    state, _ = read(text)
    seen, _, bias, history = np.split(state[0], np.cumsum(layout(VOCABULARY))[:-1])
    assert (seen == np.round(seen)).all()
    assert 0 <= seen.min() <= seen.max() <= TRUSTS * VOCABULARY
    assert (np.count_nonzero(seen.reshape(len(ORDERS), BUCKETS), axis=1) <= len(text)).all()
    assert abs(bias.sum()) < 1e-4, "probabilities sum to 1, and so nothing is added in all"
    latest = [token + 1 for token in reversed(text)][: len(history)]
    assert history.tolist() == latest + [0] * (len(history) - len(latest))


def test_before_any_text_it_predicts_what_the_network_predicts() -> None:
    logits = logits_after([])
    assert np.array_equal(predict(logits, fresh(1, VOCABULARY)).logits, logits)


def test_a_text_that_comes_again_is_expected() -> None:
    text = np.random.default_rng(1).integers(VOCABULARY, size=60).tolist()
    _, logprobs = read(text * 6)
    first, last = np.mean(logprobs[:60]), np.mean(logprobs[-60:])
    assert last > first + 1.0


def test_chance_costs_little() -> None:
    """A network that is right about its uncertainty loses some hundredths of a nat by looking for what is not there."""
    random, text, lost = np.random.default_rng(2), list[int](), 0.0
    state = fresh(1, VOCABULARY)
    for _ in range(3000):
        logits = logits_after(text)
        probability = np.exp(logits[0] - logits.max()).astype(np.float64)
        token = int(random.choice(VOCABULARY, p=probability / probability.sum()))
        prediction = predict(logits, state)
        adapted = np.exp(prediction.logits[0] - prediction.logits.max()).astype(np.float64)
        lost += np.log(probability[token] / probability.sum()) - np.log(adapted[token] / adapted.sum())
        state = learn(state, prediction, np.array([token]))
        text.append(token)
    assert lost / len(text) < 0.05


@pytest.mark.parametrize("vocabulary", [1, 65, 10_000, 10_175, 2**20])
def test_a_state_is_never_larger_than_it_may_be(vocabulary: int) -> None:
    assert len(ORDERS) * (BUCKETS + TRUSTS * LEVELS) < state_size(vocabulary) <= LARGEST_STATE
