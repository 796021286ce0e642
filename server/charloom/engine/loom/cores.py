"""The cores that all models share: so many decoder calls at a time, and models that wait take turns by their weights.

Each model has as many workers as there are cores, so that it can use all of them while the others have no work. Turns
are given as start-time fair queueing does (Goyal, Vin and Cheng, 1996): to the model that has had the least time so
far for its weight, where one that had no work begins at the present and not in the past.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from charloom.engine.decoding.decoder import Decoder, Inputs, Outputs, StatePool


class Cores:
    """Gives turns to the decoders of several models; on any thread.

    Args:
        count: decoder calls at a time
    """

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._free = count
        """Above 0 only where nobody waits."""
        self._now = 0.0
        """Where the model that was given a turn last stood: seconds for its weight."""
        self._flows: list[Flow] = []

    def flow(self, weight: float) -> Flow:
        """A further model's flow.

        Args:
            weight: above 0; of two models that always have work, one of twice the weight gets twice the time
        """
        flow = Flow(self, weight)
        with self._lock:
            self._flows.append(flow)
        return flow

    def take(self, flow: Flow) -> None:
        """Wait for a turn, which has to be given back."""
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
        """End a turn that took so long, and let another begin."""
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
    """What a model has had, and who waits for it; made by `Cores.flow`."""

    def __init__(self, cores: Cores, weight: float) -> None:
        self.cores = cores
        self.weight = weight
        self.used = 0.0
        """Seconds for its weight, on the clock of `Cores`."""
        self.waiting: deque[threading.Lock] = deque()


class InTurn:
    """A `Decoder` whose calls wait for a turn.

    Args:
        decoder: who computes
        flow: of its model
    """

    def __init__(self, decoder: Decoder, flow: Flow) -> None:
        self._decoder = decoder
        self._flow = flow
        self.kind, self.device, self.shape = decoder.kind, decoder.device, decoder.shape
        self.weights_sha256, self.lacks = decoder.weights_sha256, decoder.lacks

    def state_pool(self) -> StatePool:
        """That of the decoder."""
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
