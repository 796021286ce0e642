"""A loom whose jobs are read by the test, and a decoder that can be slow, stopped or broken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from charloom.engine.decoding.decoder import Decoder, Inputs, Outputs, StatePool
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.decoding.step_cost import StepCost
from charloom.engine.loom.jobs import Chunk, Finish, Job
from charloom.engine.loom.loom import Loom
from charloom.engine.loom.row import Delivery, Row
from charloom.engine.shares import ONLY, Share


class JobReader:
    """Collects what the loom delivers for one job."""

    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes
        self.chunks: list[Chunk] = []
        self.finish: Finish | None = None
        self.ended = threading.Event()
        self.began = threading.Event()
        self.row: Row | None = None
        self._early = 0
        """Tokens that came before it was known which row it reads."""
        self._lock = threading.Lock()

    def begin(self, row: Row) -> None:
        with self._lock:
            self.row = row
        row.took(self._early)

    def __call__(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.began.set()
        if self.takes:
            with self._lock:
                row = self.row
                self._early += len(chunk.tokens) if row is None else 0
            if row is not None:
                row.took(len(chunk.tokens))
        if chunk.finish is not None:
            self.finish = chunk.finish
            self.ended.set()

    @property
    def tokens(self) -> list[int]:
        return [token for chunk in self.chunks for token in chunk.tokens]

    def wait(self) -> Finish:
        assert self.ended.wait(60), "the loom did not finish the job"
        assert self.finish is not None
        return self.finish


def hand_out(deliveries: Sequence[Delivery]) -> None:
    for row, chunk in deliveries:
        row.receiver(chunk)


class Harness:
    def __init__(
        self,
        decoder: Decoder,
        start_token: int,
        deliver: Callable[[Sequence[Delivery]], None] = hand_out,
        **settings: float,
    ) -> None:
        self.decoder = decoder
        self.start_token = start_token
        self.loom = Loom(decoder, deliver, cost=StepCost([1, 64], [0.0001, 0.0004]), **settings)  # type: ignore[arg-type]

    def fresh(self, seed: int) -> Snapshot:
        return Snapshot.fresh(self.decoder.shape, self.start_token, seed)

    def submit(
        self,
        *,
        start: Snapshot | None = None,
        seed: int = 1,
        prompt: Sequence[int] = (),
        max_tokens: int = 50,
        sampling: Sampling | None = None,
        takes: bool = True,
        share: Share = ONLY,
        ahead: int | None = None,
        **more: Any,
    ) -> JobReader:
        reader = JobReader(takes=takes)
        job = Job(start or self.fresh(seed), np.array(prompt, np.int64), max_tokens, sampling or Sampling(), **more)
        reader.begin(self.loom.submit(job, reader, share, ahead))
        return reader

    def submit_together(self, prompts: Sequence[Sequence[int]], share: Share = ONLY) -> list[JobReader]:
        """Texts to read, as one caller's."""
        readers = [JobReader(takes=True) for _ in prompts]
        jobs = [Job(self.fresh(1), np.array(prompt, np.int64), 0, Sampling()) for prompt in prompts]
        rows = self.loom.submit_together(list(zip(jobs, readers, strict=True)), share)
        for reader, row in zip(readers, rows, strict=True):
            reader.begin(row)
        return readers


class Slow:
    """A decoder that takes its time, and counts."""

    def __init__(self, decoder: Decoder, seconds: float = 0.0) -> None:
        self._decoder = decoder
        self.seconds = seconds
        self.shape, self.kind, self.device = decoder.shape, decoder.kind, decoder.device
        self.weights_sha256 = decoder.weights_sha256
        self.lacks = decoder.lacks
        self.rows: list[int] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.fails = False
        self.gate: threading.Event | None = None
        self.entered = threading.Event()

    def state_pool(self) -> StatePool:
        return self._decoder.state_pool()

    def run(self, inputs: Inputs) -> Outputs:
        self.rows.append(len(inputs.token))
        self.entered.set()
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            if self.gate is not None:
                assert self.gate.wait(60)
            if self.fails:
                raise RuntimeError("out of luck")
            time.sleep(self.seconds)
            return self._decoder.run(inputs)
        finally:
            with self.lock:
                self.at_once -= 1
