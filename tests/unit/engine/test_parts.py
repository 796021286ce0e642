from __future__ import annotations

from charloom.engine.parts import Parts
from charloom.engine.shares import Share

GREEDY, POLITE = Share("greedy"), Share("polite")


def taken(parts: Parts, share: Share) -> int:
    """How much a caller gets that takes all it can."""
    count = 0
    while parts.fits(share):
        parts.add(share)
        count += 1
    return count


def test_one_caller_may_have_everything() -> None:
    assert taken(Parts(10), GREEDY) == 10


def test_whoever_comes_later_gets_its_part_all_the_same() -> None:
    parts = Parts(10)
    taken(parts, GREEDY)
    assert (taken(parts, POLITE), parts.total) == (5, 15)
    assert not parts.fits(GREEDY)


def test_many_callers_have_no_more_than_twice_as_much() -> None:
    parts = Parts(16)
    for number in range(100):
        taken(parts, Share(f"caller-{number}"))
    assert 16 <= parts.total <= 32


def test_several_at_once_fit_or_none() -> None:
    parts = Parts(10)
    assert parts.fits(GREEDY, 10)
    assert not parts.fits(GREEDY, 11)
    parts.add(GREEDY, 10)
    assert parts.fits(POLITE, 5)
    assert not parts.fits(POLITE, 6)


def test_what_is_given_back_is_there_again_and_nothing_is_kept_of_who_has_none() -> None:
    parts = Parts(10)
    for _ in range(3):
        for share in (GREEDY, POLITE):
            parts.add(share, taken(Parts(3), share))
        for share in (GREEDY, POLITE):
            parts.remove(share, 3)
    assert parts.total == 0
    assert taken(parts, POLITE) == 10
    assert list(parts._of) == ["polite"]
