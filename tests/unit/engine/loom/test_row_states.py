"""The table of a row's states in docs/architecture.md: it is that of the code, and all that a loom does keeps to it."""

from __future__ import annotations

import ast
import re
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.errors import Overloaded
from charloom.engine.loom import loom as loom_module
from charloom.engine.loom.jobs import FinishReason, Job
from charloom.engine.loom.row import CHANGES, Row, RowState
from charloom.engine.shares import Share
from tests.unit.engine.looms import Harness, JobReader, Slow
from tests.waiting import eventually

PAGE = Path(__file__).resolve().parents[4] / "docs" / "architecture.md"
ENGINE = PAGE.parents[1] / "server/charloom/engine"
WITHOUT_LOCK = {"cancelled": "cancel", "taken": "took", "slowed": "Generation", "receiver": "Models"}
"""The fields that are set without the loom's lock, and the method or the class that does."""
UNDER_LOCK = {"loom/loom.py", "loom/live_rows.py", "loom/table.py"}
"""What sets fields of rows with the lock, besides the rows themselves."""


def rows_of_table(heading: str) -> list[list[str]]:
    """The cells of the table with this first heading."""
    lines = iter(PAGE.read_text("utf-8").splitlines())
    found = []
    for line in lines:
        if line.startswith(f"| {heading} |"):
            next(lines)
            for row in lines:
                if not row.startswith("|"):
                    return found
                found.append([cell.strip() for cell in row.strip("|").split("|")])
    raise AssertionError(f"there is no table of {heading}")


def test_the_table_of_states_is_that_of_the_code() -> None:
    told = {state: set(re.findall(r"(\w+) \(", after)) for state, _, after in rows_of_table("state")}
    assert told == {state.value: {one.value for one in after} for state, after in CHANGES.items()}


def test_the_table_of_fields_names_all_that_are_set_without_the_lock() -> None:
    told = {field.strip("`"): who for field, who, _ in rows_of_table("field of a row")}
    named = {field: who.split("`")[1] for field, who in told.items() if field != "all others"}
    assert named == WITHOUT_LOCK
    assert "all others" in told


def test_nothing_else_sets_a_field_of_a_row_outside_the_loom() -> None:
    found = {
        (path.stem, target.attr)
        for path in ENGINE.rglob("*.py")
        if path.relative_to(ENGINE).as_posix() not in UNDER_LOCK
        for statement in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(statement, (ast.Assign, ast.AugAssign))
        for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
        if isinstance(target, ast.Attribute) and ast.unparse(target.value).rpartition(".")[2] in ("row", "_row")
    }
    assert found == {("generation", "slowed"), ("models", "receiver")}


class Watched(Row):
    """Notes who sets what."""

    seen: ClassVar[set[tuple[RowState, RowState]]] = set()
    wrong: ClassVar[set[str]] = set()
    loom: ClassVar[loom_module.Loom]
    made = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.made = True

    def __setattr__(self, name: str, value: object) -> None:
        if name == "state" and self.made and value is not self.state:
            self.seen.add((self.state, value))  # type: ignore[arg-type]
        if self.made and name not in WITHOUT_LOCK and not self.loom._news._is_owned():  # type: ignore[attr-defined]
            self.wrong.add(name)
        super().__setattr__(name, value)


def test_whatever_happens_rows_change_as_the_table_says_and_under_the_lock(
    decoder: Decoder, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storm of jobs that end, are cancelled, paused, read again, displaced, stalled and drained."""
    Watched.seen, Watched.wrong = set(), set()
    monkeypatch.setattr(loom_module, "Row", Watched)
    slow = Slow(decoder, 0.001)
    harness = Harness(slow, bundle.manifest.start_token, workers=2, max_rows=2, max_waiting=4, unread_limit=20)
    Watched.loom = harness.loom

    def ended(readers: list[JobReader]) -> list[FinishReason]:
        return [reader.wait().reason for reader in readers]

    def paused(readers: list[JobReader]) -> bool:
        return all(reader.row is not None and reader.row.state is RowState.PAUSED for reader in readers)

    def cancel(readers: list[JobReader]) -> None:
        for reader in readers:
            assert reader.row is not None
            reader.row.cancel()

    # One row after another is paused; the fifth is too many, so the first ends.
    lazy = []
    for seed in range(5):
        lazy.append(harness.submit(seed=seed, max_tokens=5000, takes=False))
        assert lazy[-1].began.wait(60)
        if seed < 4:
            eventually(lambda: paused(lazy))
    assert ended(lazy[:1]) == [FinishReason.STALLED]
    eventually(lambda: paused(lazy[1:]))
    # Two are read again, and one of these and one that is paused are cancelled.
    for reader in lazy[1:3]:
        assert reader.row is not None
        reader.takes = True
        reader.row.took(len(reader.tokens))
    cancel(lazy[2:4])
    assert ended(lazy[2:4]) == [FinishReason.CANCELLED] * 2
    # With the decoder stopped, two jobs are in a tick, others are ready or wait, and one has to make room.
    slow.gate = threading.Event()
    others = [harness.submit(seed=seed, max_tokens=40) for seed in range(2)]
    eventually(lambda: harness.loom.waiting == 0)
    while True:
        try:
            others.append(harness.submit(seed=9, max_tokens=40))
        except Overloaded:
            break
    polite = harness.submit(seed=1, max_tokens=5, share=Share("polite"))
    cancel(others[::3])
    slow.gate.set()
    assert polite.wait().reason is FinishReason.LENGTH
    assert {FinishReason.CANCELLED, FinishReason.DISPLACED, FinishReason.LENGTH} <= set(ended(others))
    # The end finds a paused row, rows in ticks, ready ones and waiting ones.
    eventually(lambda: harness.loom.waiting == 0)
    last = [harness.submit(seed=seed, max_tokens=10**6) for seed in range(4)]
    eventually(lambda: harness.loom.waiting == 0)
    last += [harness.submit(seed=seed, max_tokens=10**6) for seed in range(4)]
    assert last[0].began.wait(60)
    harness.loom.drain(0)
    assert FinishReason.DRAINING in ended(last)
    assert Watched.wrong == set()
    assert Watched.seen <= {(state, after) for state, several in CHANGES.items() for after in several}
    assert {state for state, _ in Watched.seen} == set(RowState) - {RowState.LEFT}


@pytest.mark.parametrize("state", RowState)
def test_a_change_that_is_not_in_the_table_is_refused(state: RowState, harness: Harness) -> None:
    job = Job(harness.fresh(1), np.zeros(0, np.int64), 1, Sampling())
    row = Row(job, print, lambda: None, 1, np.array, harness.decoder.shape.vocabulary)
    for after in set(RowState) - set(CHANGES[state]):
        row.state = state
        with pytest.raises(AssertionError, match=f"a row that is {state.value} cannot be {after.value} next"):
            row.change(after)
