from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charloom.engine.decoding.decoder import Shape, StatePool
from charloom.engine.decoding.device_decoder import DeviceStatePool
from charloom.engine.decoding.state_pool import HostStatePool
from tests.unit.devices import DEVICES

SHAPE = Shape(arrays=2, layers=2, hidden=3, vocabulary=5)
Make = Callable[[int], StatePool]


@pytest.fixture(params=["host", *DEVICES])
def make(request: pytest.FixtureRequest) -> Make:
    kind = request.param
    return lambda slots: HostStatePool(SHAPE, slots) if kind == "host" else DeviceStatePool(SHAPE, kind, slots)


def state(value: float) -> np.ndarray:
    """The first array is `value`, the second minus that."""
    return np.stack([np.full((2, 3), value, np.float32), np.full((2, 3), -value, np.float32)])


def held(pool: StatePool, slot: int) -> np.ndarray:
    return pool.to_host(pool.gather([slot])[:, :, 0])


def test_gather_and_scatter_touch_only_the_named_slots(make: Make) -> None:
    pool = make(4)
    slots = [pool.take(state(n)) for n in range(1, 4)]
    gathered = pool.gather([slots[2], slots[0]])
    assert pool.to_host(gathered[:, :, 0]).tolist() == state(3).tolist()
    assert pool.to_host(gathered[:, :, 1]).tolist() == state(1).tolist()
    pool.scatter([slots[1]], gathered[:, :, :1] * 3)
    assert held(pool, slots[1]).tolist() == state(9).tolist()
    assert held(pool, slots[2]).tolist() == state(3).tolist()
    assert held(pool, slots[0]).tolist() == state(1).tolist()


def test_what_was_gathered_is_a_copy(make: Make) -> None:
    pool = make(2)
    slot = pool.take(state(1))
    gathered = pool.gather([slot])
    kept = pool.to_host(gathered[:, :, 0])
    gathered[:] = 7
    assert held(pool, slot).tolist() == kept.tolist() == state(1).tolist()


@given(joins=st.lists(st.booleans(), max_size=60))
def test_a_slot_never_shows_the_state_of_another_owner(make: Make, joins: list[bool]) -> None:
    pool = make(2)
    owned: dict[int, float] = {}
    for number, join in enumerate(joins):
        if join or not owned:
            slot = pool.take(state(number))
            assert slot not in owned
            owned[slot] = number
        else:
            slot, value = owned.popitem()
            assert held(pool, slot).tolist() == state(value).tolist()
            pool.release(slot)
        assert pool.used == len(owned)
    for slot, value in owned.items():
        assert held(pool, slot).tolist() == state(value).tolist()
