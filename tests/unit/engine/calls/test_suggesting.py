from __future__ import annotations

import threading

import pytest

from charloom.bundle import Bundle
from charloom.engine.calls import suggesting
from charloom.engine.calls.beam_search import BeamSearch
from charloom.engine.calls.requests import ReadingRequest
from charloom.engine.calls.suggesting import SuggestionRequest
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
