from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charloom.engine.decoding.decoder import Shape
from charloom.engine.decoding.device_decoder import DeviceArena
from charloom.engine.decoding.state_pool import Arena, HostArena

SHAPE = Shape(layers=2, hidden=3, vocabulary=5)
KINDS = pytest.mark.parametrize(
    "make",
    [lambda slots: HostArena(SHAPE, slots), lambda slots: DeviceArena(SHAPE, "cpu", slots)],
    ids=["host", "device"],
)
Make = Callable[[int], Arena]


def state(value: float) -> np.ndarray:
    return np.full((2, 3), value, np.float32)


def held(arena: Arena, slot: int) -> tuple[np.ndarray, np.ndarray]:
    h, c = arena.gather([slot])
    return arena.to_host(h[:, 0]), arena.to_host(c[:, 0])


@KINDS
def test_gather_and_scatter_touch_only_the_named_slots(make: Make) -> None:
    arena = make(4)
    slots = [arena.take(state(n), state(-n)) for n in range(3)]
    h, c = arena.gather([slots[2], slots[0]])
    assert arena.to_host(h[:, 0]).tolist() == state(2).tolist()
    assert arena.to_host(c[:, 1]).tolist() == state(0).tolist()
    arena.scatter([slots[1]], h[:, :1] + 7, c[:, :1] - 7)
    assert held(arena, slots[1])[0].tolist() == state(9).tolist()
    assert held(arena, slots[1])[1].tolist() == state(-9).tolist()
    assert held(arena, slots[2])[1].tolist() == state(-2).tolist()


@KINDS
def test_what_was_gathered_is_a_copy(make: Make) -> None:
    arena = make(2)
    slot = arena.take(state(1), state(1))
    h, _ = arena.gather([slot])
    kept = arena.to_host(h[:, 0])
    h[:] = 7
    assert held(arena, slot)[0].tolist() == kept.tolist() == state(1).tolist()


@KINDS
@given(joins=st.lists(st.booleans(), max_size=60))
def test_a_slot_never_shows_the_state_of_another_owner(make: Make, joins: list[bool]) -> None:
    arena = make(2)
    owned: dict[int, float] = {}
    for number, join in enumerate(joins):
        if join or not owned:
            slot = arena.take(state(number), state(number + 0.5))
            assert slot not in owned
            owned[slot] = number
        else:
            slot, value = owned.popitem()
            h, c = held(arena, slot)
            assert (h[0, 0], c[0, 0]) == (value, value + 0.5)
            arena.release(slot)
        assert arena.used == len(owned)
    for slot, value in owned.items():
        assert held(arena, slot)[0][0, 0] == value
