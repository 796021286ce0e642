"""CUDA's streams and graphs on the CPU, as far as the device decoder uses them: a graph records operators.

A replay does them again, with the arguments that they had, and writes into the results that they had, so at the same
addresses, as a CUDA graph does. What Python chose while it was recorded stays as it was. Results are there only after
a replay.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from charloom.engine.decoding import device_decoder

Operation = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]


class RecordedGraph:
    """In place of `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def replay(self) -> None:
        for operator, arguments, named, results in self.operations:
            again = operator(*arguments, **named)
            for before, now in zip(tensors(results), tensors(again), strict=True):
                if now.data_ptr() != before.data_ptr():  # views and operators in place are where they were
                    before.copy_(now)


class Stream:
    """In place of `torch.cuda.Stream`: work is done at once."""

    def wait_stream(self, _: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: RecordedGraph) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph = graph

    def __torch_dispatch__(self, operator: Any, _: Any, arguments: Any = (), named: Any = None) -> Any:
        results = operator(*arguments, **(named or {}))
        self._graph.operations.append((operator, arguments, named or {}, results))
        return results


_capturing = threading.Lock()


@contextmanager
def capture(graph: RecordedGraph, stream: Stream, capture_error_mode: str) -> Iterator[None]:
    """In place of `torch.cuda.graph`; like that, it does not bear another capture at the same time."""
    assert _capturing.acquire(blocking=False), "two captures at a time"
    try:
        with _Recorder(graph):
            yield
        for _, arguments, named, results in graph.operations:
            places = {one.untyped_storage().data_ptr() for one in tensors([*arguments, *named.values()])}
            for one in tensors(results):
                if one.untyped_storage().data_ptr() not in places:
                    one.fill_(float("nan") if one.is_floating_point() else 0)
    finally:
        _capturing.release()


def tensors(values: Any) -> list[Tensor]:
    """Those among some values, and in lists of them."""
    if isinstance(values, Tensor):
        return [values]
    return [one for value in values for one in tensors(value)] if isinstance(values, list | tuple) else []


def record_graphs(patch: pytest.MonkeyPatch) -> None:
    """Let decoders on the CPU do what they do on a CUDA device."""
    patch.setattr(device_decoder, "_new_stream", lambda device: Stream())
    patch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    patch.setattr(torch.cuda, "graph", capture)
    patch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    patch.setattr(torch.cuda, "default_stream", lambda: None)
