"""The processes of a data-parallel run, as `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

LONGEST_WAIT = timedelta(days=14)
"""Of processes for the first one, which alone reads texts, lets teachers predict, and measures: hours, of a large text.
A process that died is not waited for: torchrun ends the others."""


class Ranks:
    """One process alone, or one of several that `torchrun` started; rank 0 speaks and writes for all."""

    def __init__(self, index: int = 0, count: int = 1) -> None:
        self.index, self.count = index, count

    @property
    def first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.index == 0

    def summed(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all processes."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=_device())
        dist.all_reduce(total)
        return [float(value) for value in total]

    def gathered(self, part: Tensor, dim: int) -> Tensor:
        """Equal parts of all processes, joined in their order along `dim`."""
        if self.count == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.count)]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts, dim)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()


def join_ranks(device: str) -> Ranks:
    """Join the other processes where `torchrun` started this one; NCCL between GPUs, Gloo between CPUs."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Ranks()
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=LONGEST_WAIT)
    return Ranks(dist.get_rank(), dist.get_world_size())


def leave_ranks() -> bool:
    """Part from the other processes, if that is not done; returns whether `torchrun` started this one."""
    if dist.is_initialized():
        dist.destroy_process_group()
    return "TORCHELASTIC_RUN_ID" in os.environ


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
