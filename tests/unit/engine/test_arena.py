from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from charloom.engine.arena import Arena
from charloom.engine.decoder import Shape

SHAPE = Shape(layers=2, hidden=3, vocabulary=5)


def state(value: float) -> np.ndarray:
    return np.full((2, 3), value, np.float32)


def test_gather_and_scatter_touch_only_the_named_slots() -> None:
    arena = Arena(SHAPE, slots=4)
    slots = [arena.take(state(n), state(-n)) for n in range(3)]
    h, c = arena.gather([slots[2], slots[0]])
    assert h[:, 0].tolist() == state(2).tolist()
    assert c[:, 1].tolist() == state(0).tolist()
    arena.scatter([slots[1]], np.full((2, 1, 3), 9, np.float32), np.full((2, 1, 3), 8, np.float32))
    assert arena.release(slots[1])[0].tolist() == state(9).tolist()
    assert arena.release(slots[2])[1].tolist() == state(-2).tolist()


def test_a_gathered_state_is_a_copy() -> None:
    arena = Arena(SHAPE)
    slot = arena.take(state(1), state(1))
    arena.gather([slot])[0][:] = 7
    assert arena.release(slot)[0].tolist() == state(1).tolist()


@given(st.lists(st.booleans(), max_size=60))
def test_a_slot_never_shows_the_state_of_another_owner(joins: list[bool]) -> None:
    arena = Arena(SHAPE, slots=2)
    owned: dict[int, float] = {}
    for number, join in enumerate(joins):
        if join or not owned:
            slot = arena.take(state(number), state(number + 0.5))
            assert slot not in owned
            owned[slot] = number
        else:
            slot, value = owned.popitem()
            h, c = arena.release(slot)
            assert (h[0, 0], c[0, 0]) == (value, value + 0.5)
        assert arena.used == len(owned)
    for slot, value in owned.items():
        assert arena.gather([slot])[0][0, 0, 0] == value
