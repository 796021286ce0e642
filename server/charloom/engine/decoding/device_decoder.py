"""The decoder on TorchScript with everything on one device: state, sampling, and on CUDA a graph per block of steps.

Every call is padded to the same number of rows. Libraries choose their kernels by size, so that rows are independent
of each other on a GPU too, bit for bit; and there is one set of graphs to capture. Nothing here needs CUDA but streams
and the capture: on the CPU the same steps run one by one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from charloom.controls import ADAPTATION_INPUTS, CONSTRAINT_INPUTS, ENDED, Effect, controls
from charloom.engine.decoding.automaton import unconstrained
from charloom.engine.decoding.decoder import (
    OUTPUT_ROW_AXIS,
    Adaptation,
    Constraints,
    Floats,
    Inputs,
    Outputs,
    Shape,
    has_constraints,
    has_filters,
    has_penalties,
    neutral,
    nobody_learns,
)
from charloom.engine.decoding.torch_decoder import load_module

ROWS = 256
"""Of every call: on a GPU, as many cost little more than one."""
BLOCKS = (16, 1)
"""Steps per graph; a call is made of as few of them as will do."""
WARM_UPS = 3
"""Runs before a capture, in which libraries choose their kernels and take their memory."""
LANES = 4
"""How many parts of a call may be on the device at a time."""
_PER_STEP = ("forced", "uniform")
_CAPTURING = threading.Lock()
"""One capture at a time in a process: each begins by waiting for the whole device, an error while another goes on."""


class DeviceStatePool:
    """State by slot on a device; it grows by doubling and never shrinks.

    Axis letters: A arrays of the cell's state, L layers, S slots, B rows, H hidden.
    """

    def __init__(self, shape: Shape, device: str, slots: int = 16) -> None:
        self._state = torch.zeros((shape.arrays, shape.layers, slots, shape.hidden), device=device)
        self._free = list(range(slots))

    def take(self, state: Floats) -> int:
        """Put a state [A, L, H] into a free slot and return the slot."""
        if not self._free:
            slots = self._state.size(2)
            self._state = torch.cat([self._state, torch.zeros_like(self._state)], dim=2)
            self._free = list(range(slots, 2 * slots))
        slot = self._free.pop()
        self._state[:, :, slot] = torch.tensor(state, device=self._state.device)
        return slot

    def release(self, slot: int) -> None:
        """Free a slot."""
        self._free.append(slot)

    def gather(self, slots: Sequence[int]) -> Tensor:
        """A copy of the state of these slots, [A, L, B, H]."""
        return self._state.index_select(2, self._index(slots))

    def scatter(self, slots: Sequence[int], state: Tensor) -> None:
        """Put a state [A, L, B, H] back."""
        self._state.index_copy_(2, self._index(slots), state)

    def to_host(self, part: Tensor) -> Floats:
        """A copy of a part of a gathered or computed state."""
        return part.cpu().numpy().copy()

    @property
    def used(self) -> int:
        """Slots that are taken."""
        return self._state.size(2) - len(self._free)

    def _index(self, slots: Sequence[int]) -> Tensor:
        return torch.tensor(slots, device=self._state.device)


class DeviceDecoder:
    """`decoder.ts` of a bundle, its work and its state on one device.

    A call is made in parts of `rows` rows. Each part takes a lane, which has buffers, graphs and a CUDA stream of its
    own, so that parts overlap, of one call and of calls from several threads.

    Args:
        path: the file
        device: "cuda", or "cpu" for tests
        rows: of every part
        lanes: how many parts of a call may be on the device at a time
        graphs: whether CUDA graphs are captured; without them the same kernels are launched one by one
    """

    kind = "torchscript"

    def __init__(
        self, path: Path, device: str = "cuda", rows: int = ROWS, *, lanes: int = LANES, graphs: bool = True
    ) -> None:
        torch.set_float32_matmul_precision("highest")  # some installations have TF32 as their default
        self._module, self.shape, self.weights_sha256, self.lacks = load_module(path, device)
        self.device = device
        self._rows, self._most_lanes, self._graphs = rows, lanes, graphs
        self._free: deque[_Lane] = deque()

    def run(self, inputs: Inputs) -> Outputs:
        """Run the decoder contract on one batch."""
        firsts = range(0, len(inputs.token), self._rows)
        full = _takes_full_steps(inputs)
        with self._taken(min(len(firsts), self._most_lanes)) as lanes, torch.inference_mode():
            parts = [lanes[number % len(lanes)].begin(inputs, first, full) for number, first in enumerate(firsts)]
            for lane in lanes:
                lane.wait()
        found: dict[str, Any] = {
            name: torch.cat([part[name] for part in parts], dim=axis) for name, axis in OUTPUT_ROW_AXIS.items()
        }
        stays = () if type(inputs.state) is np.ndarray else ("state",)
        return Outputs(**{name: part if name in stays else part.cpu().numpy() for name, part in found.items()})

    @contextmanager
    def _taken(self, count: int) -> Iterator[list[_Lane]]:
        """Lanes that nobody else has meanwhile; there are as many as were ever needed at once."""
        lanes: list[_Lane] = []
        try:
            while len(lanes) < count:
                try:
                    lanes.append(self._free.pop())
                except IndexError:
                    lanes.append(_Lane(self._module, self.shape, self.lacks, self.device, self._rows, self._graphs))
            yield lanes
        finally:
            self._free.extend(lanes)

    def state_pool(self) -> DeviceStatePool:
        """On the device."""
        return DeviceStatePool(self.shape, self.device)


def _takes_full_steps(inputs: Inputs) -> bool:
    """Whether any row asks for more than a temperature."""
    sampling = inputs.sampling
    return bool(
        has_filters(inputs)
        or has_penalties(inputs)
        or sampling["bias"].any()
        or sampling["top"][0]
        or (sampling["temperature"] == 0).any()
        or has_constraints(inputs)
        or inputs.adaptation is not None
    )


def _new_stream(device: str) -> torch.cuda.Stream | None:
    """What work on a CUDA device is queued on."""
    return torch.cuda.Stream() if device == "cuda" else None  # type: ignore[no-untyped-call]


class _Lane:
    """Buffers at fixed addresses, and what computes in them."""

    def __init__(self, module: Any, shape: Shape, lacks: frozenset[str], device: str, rows: int, graphs: bool) -> None:
        self._module, self._device, self._rows, self._graphs = module, device, rows, graphs
        self._stream = _new_stream(device)
        self._blocks: dict[tuple[int, bool], Callable[[], Sequence[Tensor]]] = {}
        self._alternatives = shape.vocabulary
        floats = {
            "state": (shape.arrays, shape.layers, rows, shape.hidden),
            "uniform": (max(BLOCKS), rows),
        }
        whole = {"token": (rows,), "forced": (max(BLOCKS), rows), "steps": (rows,)}
        self._buffers = {name: torch.ones(size, device=device) for name, size in floats.items()}
        self._buffers |= {name: torch.zeros(size, dtype=torch.int64, device=device) for name, size in whole.items()}
        self._constrains = lacks.isdisjoint(CONSTRAINT_INPUTS)
        absent = {*lacks, "top"}  # that one is a size, not a buffer
        sampling = {name: array for name, array in neutral(rows, shape.vocabulary).items() if name not in absent}
        self._sampling = sampling.keys()
        self._buffers |= {name: torch.from_numpy(array).to(device) for name, array in sampling.items()}
        if self._constrains:
            free = unconstrained(rows, shape.vocabulary).by_name()
            self._buffers |= {name: torch.from_numpy(array).to(device, copy=True) for name, array in free.items()}
        self._learns = lacks.isdisjoint(ADAPTATION_INPUTS)
        if self._learns:
            nobody = nobody_learns(shape.vocabulary)
            self._buffers |= {name: torch.from_numpy(array).to(device, copy=True) for name, array in nobody.items()}

    def begin(self, inputs: Inputs, first: int, full: bool) -> dict[str, Tensor]:
        """Take the steps of the rows from `first` on, as many as there is room for.

        Returns:
            `Outputs` on the device, which are there after `wait`
        """
        sampling, top = inputs.sampling, int(inputs.sampling["top"][0])
        needed = self._sampling if full else [one.name for one in controls(Effect.SCALES) if one.name in self._sampling]
        rows = slice(first, first + self._rows)
        count = len(inputs.token[rows])
        # Captured graphs read those of the lane: what this call has in place of some is its own.
        buffers = dict(self._buffers)
        with self._on_stream():
            buffers["token"][:count].copy_(self._moved(inputs.token[rows]))
            for name in needed:
                buffers[name][:count].copy_(self._moved(sampling[name][rows]))
            buffers["state"][:, :, :count].copy_(self._moved(inputs.state[:, :, rows]))
            per_step = {name: self._moved(getattr(inputs, name)[:, rows]) for name in _PER_STEP}
            # Rows that only fill up the batch take no steps.
            buffers["steps"].zero_()
            buffers["steps"][:count].copy_(self._moved(inputs.steps[rows]))
            if constrained := inputs.constraints if full and has_constraints(inputs) else None:
                buffers |= self._of_constraints(constrained, rows)
            learning = inputs.adaptation if self._learns else None
            if learning is not None:
                learning = Adaptation(learning.learns[rows], learning.state[rows])
                buffers |= {name: self._moved(array) for name, array in learning.by_name().items()}
            found: list[list[Tensor]] = []
            done = 0
            ends = buffers["steps"].clone()
            while done < len(inputs.forced):
                size = next(size for size in BLOCKS if size <= len(inputs.forced) - done)
                for name, values in per_step.items():
                    buffers[name][:size, :count].copy_(values[done : done + size])
                if constrained is None and learning is None:
                    *results, _ = self._block(size, full)()
                elif constrained is None:
                    # Not captured: another number of rows learn in every call.
                    *results, _ = self._steps(buffers, size, full, adaptive=True)()
                else:
                    was = buffers["automaton"].clone()
                    # Not captured: the table has another size, and another place, in every call.
                    run = self._steps(buffers, size, full, constrained=True, adaptive=learning is not None)
                    *results, taken = run()
                    now_ended = (was != ENDED) & (buffers["automaton"] == ENDED)
                    ends = torch.where(now_ended, taken + done, ends)
                    buffers["left"].sub_(size)
                found.append([part[:, :count].clone() for part in results])
                buffers["steps"].sub_(size)
                done += size
            tokens, logprob, top_tokens, top_logprob, allowed = (torch.cat(parts) for parts in zip(*found, strict=True))
            state = buffers["state"][:, :, :count].clone()
            automaton = buffers["automaton"] if self._constrains else torch.zeros_like(ends)
            automaton = automaton[:count].clone()
            adaptation = torch.zeros(count, 0)
            if learning is not None:
                adaptation = self._moved(np.zeros_like(learning.state))
                adaptation[buffers["adaptive_rows"]] = buffers["adaptation"]
        outputs = (tokens, logprob, state, top_tokens[:, :, :top], top_logprob[:, :, :top])
        return dict(zip(Outputs._fields, (*outputs, ends[:count], automaton, allowed, adaptation), strict=True))

    def _of_constraints(self, constraints: Constraints, rows: slice) -> dict[str, Tensor]:
        """Buffers of the constraints of some rows; rows that fill up the batch are free."""
        taken = {name: self._moved(array) for name, array in constraints.by_name().items()}
        for name in ("automaton", "left"):
            own = taken[name][rows]
            taken[name] = self._buffers[name].clone()
            taken[name][: len(own)].copy_(own)
        return taken

    def wait(self) -> None:
        """Until all that was begun is done."""
        if self._stream is not None:
            self._stream.synchronize()

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        """All work goes to this lane's stream, after what the caller has queued."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.default_stream())
        with torch.cuda.stream(self._stream):
            yield

    def _moved(self, values: Any) -> Tensor:
        return (
            values
            if isinstance(values, Tensor)
            else torch.from_numpy(np.require(values, requirements=["C", "W"])).to(self._device)
        )

    def _block(self, size: int, full: bool) -> Callable[[], Sequence[Tensor]]:
        """What takes `size` steps in the buffers; see `_steps`."""
        key = (size, full)
        if key not in self._blocks:
            run = self._steps(self._buffers, size, full)
            captured = self._graphs and self._stream is not None
            self._blocks[key] = self._captured(run) if captured else run
        return self._blocks[key]

    def _steps(
        self, buffers: dict[str, Tensor], size: int, full: bool, *, constrained: bool = False, adaptive: bool = False
    ) -> Callable[[], Sequence[Tensor]]:
        """The same, one kernel after another; returns tokens, logprob, top_tokens, top_logprob, allowed and taken."""
        alternatives = self._alternatives if full else 0
        inputs = buffers if full else buffers | {"bias": torch.zeros_like(buffers["bias"])}
        views = {name: array[:size] if name in _PER_STEP else array for name, array in inputs.items()}
        asked = {"filtered": full, "penalised": full}
        if self._constrains:
            asked["constrained"] = constrained
        if self._learns:
            asked["adaptive"] = adaptive

        def run() -> Sequence[Tensor]:
            # Without the optimizing executor, which would go on compiling kernels while they are captured.
            with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                found = self._module(**views, top=alternatives, **asked)
            tokens, logprob, state, top_tokens, top_logprob, *others, counts = found
            buffers["token"].copy_(tokens[-1])
            buffers["state"].copy_(state)
            buffers["counts"].copy_(counts)
            if not others:
                return tokens, logprob, top_tokens, top_logprob, torch.zeros_like(logprob), buffers["steps"]
            taken, automaton, allowed, *learnt = others
            if adaptive:
                (buffers["adaptation"],) = learnt
            if constrained:
                buffers["automaton"].copy_(automaton)
            return tokens, logprob, top_tokens, top_logprob, allowed, taken

        return run

    def _captured(self, run: Callable[[], Sequence[Tensor]]) -> Callable[[], Sequence[Tensor]]:
        """A CUDA graph of `run`. The warm-ups advance the state in the buffers, so it is put back."""
        with _CAPTURING:
            kept = {name: self._buffers[name].clone() for name in ("token", "state", "counts")}
            for _ in range(WARM_UPS):
                run()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                results = run()
            for name, value in kept.items():
                self._buffers[name].copy_(value)

        def replay() -> Sequence[Tensor]:
            graph.replay()
            return results

        return replay
