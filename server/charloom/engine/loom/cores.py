"""Shares the CPU cores between models: limits the number of concurrent decoder calls, and gives turns by weight.

Each model has as many workers as there are cores, so that it can use all of them while the others have no work. Turns
are given by start-time fair queueing (Goyal, Vin and Cheng, 1996): the waiting model with the least time per weight is
next. A model that had no work starts at the current virtual time, so it cannot save up turns.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from charloom.engine.decoding.decoder import Decoder, Inputs, Outputs, StatePool


class Cores:
    """Gives turns to the decoders of several models. Thread-safe.

    Args:
        count: most concurrent decoder calls
    """

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._free = count
        """Unused turns; above 0 only while no model waits."""
        self._now = 0.0
        """The virtual time: `Flow.used` of the model that got the latest turn, when it got it."""
        self._flows: list[Flow] = []

    def flow(self, weight: float) -> Flow:
        """Register another model.

        Args:
            weight: above 0; of two models that always have work, the one with twice the weight gets twice the time
        """
        flow = Flow(self, weight)
        with self._lock:
            self._flows.append(flow)
        return flow

    def take(self, flow: Flow) -> None:
        """Wait for a turn; end it with `give_back`."""
        with self._lock:
            if self._free:
                self._free -= 1
                self._begin(flow)
                return
            turn = threading.Lock()
            turn.acquire()
            flow.waiting.append(turn)
        turn.acquire()

    def give_back(self, flow: Flow, seconds: float) -> None:
        """End a turn that took `seconds`, and give it to the next waiting model."""
        with self._lock:
            flow.used += seconds / flow.weight
            waiting = [one for one in self._flows if one.waiting]
            if not waiting:
                self._free += 1
                return
            first = min(waiting, key=lambda one: max(one.used, self._now))
            self._begin(first)
            first.waiting.popleft().release()

    def _begin(self, flow: Flow) -> None:
        self._now = flow.used = max(flow.used, self._now)


class Flow:
    """One model's account in `Cores`: the time it has used, and its waiting workers. Made by `Cores.flow`."""

    def __init__(self, cores: Cores, weight: float) -> None:
        self.cores = cores
        self.weight = weight
        self.used = 0.0
        """Seconds divided by the weight, in the virtual time of `Cores`."""
        self.waiting: deque[threading.Lock] = deque()


class InTurn:
    """A `Decoder` whose calls wait for a turn.

    Args:
        decoder: the decoder to call
        flow: the flow of its model
    """

    def __init__(self, decoder: Decoder, flow: Flow) -> None:
        self._decoder = decoder
        self._flow = flow
        self.kind, self.device, self.shape = decoder.kind, decoder.device, decoder.shape
        self.weights_sha256, self.lacks = decoder.weights_sha256, decoder.lacks

    def state_pool(self) -> StatePool:
        """The state pool of the wrapped decoder."""
        return self._decoder.state_pool()

    def run(self, inputs: Inputs) -> Outputs:
        """Call the decoder, in turn."""
        flow, cores = self._flow, self._flow.cores
        cores.take(flow)
        began = time.monotonic()
        try:
            return self._decoder.run(inputs)
        finally:
            cores.give_back(flow, time.monotonic() - began)
