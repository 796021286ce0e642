from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charloom.engine.decoding.decoder import Shape, StatePool
from charloom.engine.decoding.device_decoder import DeviceStatePool
from charloom.engine.decoding.state_pool import HostStatePool

SHAPE = Shape(layers=2, hidden=3, vocabulary=5)
KINDS = pytest.mark.parametrize(
    "make",
    [lambda slots: HostStatePool(SHAPE, slots), lambda slots: DeviceStatePool(SHAPE, "cpu", slots)],
    ids=["host", "device"],
)
Make = Callable[[int], StatePool]


def state(value: float) -> np.ndarray:
    return np.full((2, 3), value, np.float32)


def held(pool: StatePool, slot: int) -> tuple[np.ndarray, np.ndarray]:
    h, c = pool.gather([slot])
    return pool.to_host(h[:, 0]), pool.to_host(c[:, 0])


@KINDS
def test_gather_and_scatter_touch_only_the_named_slots(make: Make) -> None:
    pool = make(4)
    slots = [pool.take(state(n), state(-n)) for n in range(3)]
    h, c = pool.gather([slots[2], slots[0]])
    assert pool.to_host(h[:, 0]).tolist() == state(2).tolist()
    assert pool.to_host(c[:, 1]).tolist() == state(0).tolist()
    pool.scatter([slots[1]], h[:, :1] + 7, c[:, :1] - 7)
    assert held(pool, slots[1])[0].tolist() == state(9).tolist()
    assert held(pool, slots[1])[1].tolist() == state(-9).tolist()
    assert held(pool, slots[2])[1].tolist() == state(-2).tolist()


@KINDS
def test_what_was_gathered_is_a_copy(make: Make) -> None:
    pool = make(2)
    slot = pool.take(state(1), state(1))
    h, _ = pool.gather([slot])
    kept = pool.to_host(h[:, 0])
    h[:] = 7
    assert held(pool, slot)[0].tolist() == kept.tolist() == state(1).tolist()


@KINDS
@given(joins=st.lists(st.booleans(), max_size=60))
def test_a_slot_never_shows_the_state_of_another_owner(make: Make, joins: list[bool]) -> None:
    pool = make(2)
    owned: dict[int, float] = {}
    for number, join in enumerate(joins):
        if join or not owned:
            slot = pool.take(state(number), state(number + 0.5))
            assert slot not in owned
            owned[slot] = number
        else:
            slot, value = owned.popitem()
            h, c = held(pool, slot)
            assert (h[0, 0], c[0, 0]) == (value, value + 0.5)
            pool.release(slot)
        assert pool.used == len(owned)
    for slot, value in owned.items():
        assert held(pool, slot)[0][0, 0] == value
