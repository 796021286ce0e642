"""Inputs that fuzzing has found, read again."""

from __future__ import annotations

import random

import pytest

from benchmarks import parsers
from benchmarks.fuzz_parsers import CORPUS, NAMES, changed
from benchmarks.parsers import PARSERS, seeds


@pytest.mark.parametrize("name", NAMES)
def test_what_fuzzing_has_found_is_read_or_refused(name: str) -> None:
    kept = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    assert len(kept) > 10
    for data in (*seeds(name), *kept):
        PARSERS[name](data)


def test_the_parsers_are_those_that_are_fuzzed() -> None:
    assert tuple(PARSERS) == NAMES


def test_another_error_than_a_refusal_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise KeyError("symbols")

    monkeypatch.setattr(parsers, "read_bundle", fails)
    with pytest.raises(KeyError):
        PARSERS["bundle"](next(seeds("bundle")))
    monkeypatch.setattr(parsers, "check_whole", lambda _: None)
    _, elsewhere = seeds("graph")
    with pytest.raises(AssertionError, match="has its numbers elsewhere"):
        PARSERS["graph"](elsewhere)


def test_a_change_of_json_changes_a_copy() -> None:
    content = {"a": [1, {"b": 2}], "c": "x"}
    found = [changed(content, random.Random(seed)) for seed in range(200)]
    assert content == {"a": [1, {"b": 2}], "c": "x"}
    assert len({repr(one) for one in found}) > 50
    assert changed(1, random.Random(0)) != 1
