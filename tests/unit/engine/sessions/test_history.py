"""What a session keeps of its past: what it promises, and little more."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from charloom.bundle import CharacterVocabulary
from charloom.engine.decoding.decoder import Shape
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.sessions.session import History

SHAPE = Shape(arrays=2, layers=1, hidden=2, vocabulary=300)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_history_keeps_what_it_promises_and_little_more(data: st.DataObject) -> None:
    """Against a model that keeps everything: h is the position, so that a state says where it belongs."""
    keep = data.draw(st.sampled_from([0, 1, 256, 300, 1000]))
    vocabulary = CharacterVocabulary([chr(300 + n) for n in range(300)])
    history, everything = History.fresh(SHAPE, 0), list[int]()

    def state(position: int) -> Snapshot:
        state = np.full((2, 1, 2), position, np.float32)
        last = everything[position - 1] if position else 0
        return Snapshot(state, (last,), position, 5)

    for _ in range(data.draw(st.integers(1, 8))):
        if data.draw(st.booleans()) and everything:
            position = data.draw(st.integers(history.earliest, len(everything)))
            history = history.until(position)
            del everything[position:]
        start = len(everything)
        tokens = data.draw(st.lists(st.integers(0, 299), min_size=1, max_size=50)) * data.draw(st.integers(1, 30))
        everything += tokens
        cuts = sorted(data.draw(st.sets(st.integers(start + 1, len(everything)), max_size=6)))
        known = history.earliest
        history = history.grown(tokens, [state(start), *map(state, cuts)], keep)
        assert history.position == len(everything)
        assert history.earliest <= max(known, min(len(everything) - keep, start))
        assert len(history.checkpoints) <= 3 + (len(everything) - history.checkpoints[-1].position + keep) // 256
        for position in {history.earliest, start, len(everything), *data.draw(st.sets(st.integers(0, 100)))}:
            if not history.earliest <= position <= len(everything):
                continue
            found = history.until(position).present(7, vocabulary)
            read = int(found.state[0, 0, 0])
            assert (found.position, found.seed) == (position, 7)
            assert list(found.pending) == [everything[read - 1] if read else 0, *everything[read:position]]
