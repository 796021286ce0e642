from __future__ import annotations

import threading

import pytest

from charloom.bundle import Bundle, Vocabulary
from charloom.engine.calls import suggesting
from charloom.engine.calls.beam_search import BeamSearch, Boundary, boundary_automaton
from charloom.engine.calls.requests import ReadingRequest
from charloom.engine.calls.suggesting import SuggestionRequest
from charloom.engine.constraints.constraint import Constraint, Kind
from charloom.engine.decoding.automaton import Automaton
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.engine import Engine
from charloom.engine.sessions.session import Key


@pytest.mark.parametrize("large", [True, False])
async def test_a_search_over_a_large_vocabulary_keeps_no_other_call_waiting(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch, *, large: bool
) -> None:
    if large:  # for what is small enough otherwise
        monkeypatch.setattr(suggesting, "FEW", 0)
    threads, grow = set(), BeamSearch.grow

    def seen(self: BeamSearch, *given: object) -> None:
        threads.add(threading.current_thread())
        grow(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(BeamSearch, "grow", seen)
    engine = Engine([(bundle, decoder)])
    found = await engine.suggesting.suggest(SuggestionRequest(ReadingRequest(Key("", ""), text="The ")))
    await engine.drain(0)
    assert len(found.texts) == 5
    assert threads
    assert (threading.main_thread() not in threads) is large


@pytest.mark.parametrize("constraint", [None, Constraint(Kind.CHOICES, ("a", "the"))])
async def test_all_symbols_are_looked_at_in_a_thread_and_only_where_a_boundary_is_kept(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch, constraint: Constraint | None
) -> None:
    threads, make = [], boundary_automaton

    def seen(boundary: Boundary, vocabulary: Vocabulary) -> Automaton:
        threads.append(threading.current_thread())
        return make(boundary, vocabulary)

    monkeypatch.setattr(suggesting, "boundary_automaton", seen)
    engine = Engine([(bundle, decoder)])
    start = ReadingRequest(Key("", ""), text="The ")
    assert (await engine.suggesting.suggest(SuggestionRequest(start, constraint=constraint))).texts
    await engine.drain(0)
    assert threading.main_thread() not in threads
    assert len(threads) == (constraint is None)
