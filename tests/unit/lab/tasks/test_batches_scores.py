from __future__ import annotations

import numpy as np
import pytest

from charloom.lab.tasks.batches import buckets, padding_share
from charloom.lab.tasks.scores import Scores, confusion_of

LENGTHS = np.random.default_rng(0).integers(20, 2000, 1000).tolist()


def test_each_text_is_in_one_batch_and_batches_have_the_asked_size() -> None:
    for random in (None, np.random.default_rng(1)):
        batches = buckets(LENGTHS, 32, random)
        assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
        assert sorted(map(len, batches)) == [8, *[32] * 31]


def test_texts_have_other_neighbours_and_batches_another_order_each_epoch() -> None:
    one, two = (buckets(LENGTHS, 32, np.random.default_rng(seed)) for seed in (1, 2))
    assert {frozenset(batch.tolist()) for batch in one} != {frozenset(batch.tolist()) for batch in two}
    longest = [max(LENGTHS[at] for at in batch) for batch in one]
    assert abs(np.corrcoef(longest, range(len(longest)))[0, 1]) < 0.6  # not the short ones first


def test_little_of_a_bucketed_batch_is_padding() -> None:
    plain = [np.arange(start, min(start + 32, 1000)) for start in range(0, 1000, 32)]
    assert padding_share(LENGTHS, plain) > 0.4
    assert padding_share(LENGTHS, buckets(LENGTHS, 32, np.random.default_rng(1))) < 0.08
    assert padding_share(LENGTHS, buckets(LENGTHS, 32)) < 0.03


def test_padding_is_counted() -> None:
    assert padding_share([4, 1, 2], [np.array([0, 1]), np.array([2])]) == pytest.approx(3 / 10)


def test_scores_by_hand() -> None:
    confusion = confusion_of([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 1], 3)
    assert confusion.tolist() == [[2, 1, 0], [1, 1, 0], [0, 1, 0]]
    scores = Scores(confusion, 0.5, 0.1)
    assert (scores.texts, scores.accuracy, scores.majority) == (6, 0.5, 0.5)
    assert scores.precision == pytest.approx([2 / 3, 1 / 3, 0])  # the third label was never given
    assert scores.recall == pytest.approx([2 / 3, 1 / 2, 0])
    assert scores.f1 == pytest.approx([2 / 3, 2 / 5, 0])
    assert scores.macro_f1 == pytest.approx((2 / 3 + 2 / 5) / 3)


def test_a_label_that_no_text_has_counts_as_zero() -> None:
    assert Scores(confusion_of([0, 1], [0, 1], 3), 0, 0).macro_f1 == pytest.approx(2 / 3)
