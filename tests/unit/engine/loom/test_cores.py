"""Models take turns on the cores that they share."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from charloom.engine.decoding.decoder import Decoder
from charloom.engine.loom.cores import Cores, Flow, InTurn
from tests.waiting import eventually

WAITING = 20


def order_of(cores: Cores, held: Flow, flows: dict[str, Flow]) -> list[str]:
    """Whose turns follow, of `WAITING` threads of each flow, each with a turn of a second, while one turn is held."""
    order: list[str] = []

    def call(name: str) -> None:
        cores.take(flows[name])
        order.append(name)
        cores.give_back(flows[name], 1.0)

    threads = [threading.Thread(target=call, args=(name,)) for name in flows for _ in range(WAITING)]
    for thread in threads:
        thread.start()
    eventually(lambda: all(len(flow.waiting) == WAITING for flow in flows.values()))
    cores.give_back(held, 1.0)
    for thread in threads:
        thread.join()
    return order


@pytest.mark.parametrize(("weight", "turns"), [(1.0, 9), (2.0, 12), (0.5, 6)])
def test_models_that_wait_have_turns_by_their_weights(weight: float, turns: int) -> None:
    cores = Cores(1)
    flows = {"a": cores.flow(weight), "b": cores.flow(1.0)}
    first = cores.flow(1.0)
    cores.take(first)
    order = order_of(cores, first, flows)
    assert len(order) == 2 * WAITING
    assert order[:18].count("a") == turns


def test_who_had_no_work_has_saved_nothing_for_later() -> None:
    cores = Cores(1)
    flows = {"busy": cores.flow(1.0), "idle": cores.flow(1.0)}
    for _ in range(100):
        cores.take(flows["busy"])
        cores.give_back(flows["busy"], 1.0)
    cores.take(flows["busy"])
    order = order_of(cores, flows["busy"], flows)
    assert 9 <= order[:20].count("busy") <= 11


def test_turns_that_are_free_are_given_at_once() -> None:
    cores = Cores(3)
    flow, other = cores.flow(1.0), cores.flow(1.0)
    for _ in range(2):
        cores.take(flow)
    cores.take(other)
    for one in (flow, flow, other):
        cores.give_back(one, 1.0)
    for _ in range(3):
        cores.take(flow)


def test_no_more_calls_than_cores_and_all_of_them_are_made(decoder: Decoder) -> None:
    cores, lock = Cores(2), threading.Lock()
    running, most, done = 0, 0, 0

    class Counted:
        kind, device, shape, weights_sha256, lacks = "naive", "cpu", decoder.shape, "", frozenset[str]()

        def state_pool(self) -> Any:
            return decoder.state_pool()

        def run(self, inputs: Any) -> Any:
            nonlocal running, most, done
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.0005)  # so that calls meet
            with lock:
                running -= 1
                done += 1

    decoders = [InTurn(Counted(), cores.flow(weight)) for weight in (1.0, 3.0)]
    inputs: Any = None

    def calls(one: InTurn) -> None:
        for _ in range(20):
            one.run(inputs)

    threads = [threading.Thread(target=calls, args=(one,)) for one in decoders for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (done, running) == (120, 0)
    assert most == 2


def test_a_call_that_fails_gives_its_turn_back(decoder: Decoder) -> None:
    cores = Cores(1)
    one, nothing = InTurn(decoder, cores.flow(1.0)), None
    for _ in range(3):
        with pytest.raises(AttributeError):
            one.run(nothing)  # type: ignore[arg-type]
