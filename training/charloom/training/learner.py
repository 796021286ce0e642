"""One step of truncated backpropagation through time.

Each step is a function of the weights, the carried state, (seed, step) and the learning rate: no other random number or
memory goes into it, so a resumed run is exact. A batch is computed in parts, by `accumulate` and by process; each part
has random numbers of its own, so that two processes take the same step as one process with two parts.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from charloom.network.dropout import keep_mask
from charloom.network.model import CharLSTM
from charloom.training.checkpoint import load_optimizer_tensors, load_weights, optimizer_tensors, require_form
from charloom.training.config import SettingsError, TrainingConfig
from charloom.training.data.batches import Batch
from charloom.training.files import typed
from charloom.training.precision import AUTOCAST, chosen_precision, full_precision
from charloom.training.ranks import Ranks


class TrainingDiverged(ArithmeticError):
    """The loss or the gradient became NaN or infinite; the checkpoints made until then are kept."""


class StepResult(NamedTuple):
    """Loss and gradient norms of one step."""

    loss: float
    """Mean over the batch, nats per token of the text, also where there are teachers"""
    norm: float
    """Global norm of the gradient, before clipping"""
    norms: dict[str, float]
    """By part of the model"""


@dataclass
class StepSums:
    """What the steps since the last evaluation add up to, saved with each checkpoint: of one size, however many.

    With fp16, a step whose gradient is not finite was left out, and is no trouble of the run: it counts only where
    there is no other.
    """

    steps: int = 0
    loss: float = 0.0
    norms: dict[str, float] = field(default_factory=dict)
    clipped: int = 0
    finite: bool = False
    """Whether these are steps whose gradient was finite"""

    @classmethod
    def of(cls, saved: dict[str, Any] | list[Any], gradient_clip: float) -> StepSums:
        """What `asdict` gave; or the steps themselves, which earlier versions saved.

        Raises:
            AttributeError, TypeError, ValueError: it is neither.
        """
        if isinstance(saved, dict):
            return typed(cls, saved)
        made = cls()
        for result in saved:
            made.add(StepResult(*result), gradient_clip)
        return made

    def add(self, result: StepResult, gradient_clip: float) -> None:
        """Count a step."""
        finite = math.isfinite(result.norm)
        if self.finite and not finite:
            return
        if finite and not self.finite:
            self.steps, self.loss, self.norms, self.clipped, self.finite = 0, 0.0, {}, 0, True
        self.steps += 1
        self.loss += result.loss
        self.norms = {name: self.norms.get(name, 0.0) + norm for name, norm in result.norms.items()}
        self.clipped += result.norm > gradient_clip


class Learner:
    """A model and all that a training step changes.

    Args:
        vocabulary_size: V
        config: the settings
        device: where to compute
        ranks: the processes among which the rows of a batch are divided

    Raises:
        SettingsError: the batch cannot be divided among these processes, or the device lacks the precision.
    """

    def __init__(
        self, vocabulary_size: int, config: TrainingConfig, device: torch.device, ranks: Ranks | None = None
    ) -> None:
        self.config, self.device, self.ranks = config, device, ranks or Ranks()
        self._parts = config.accumulate * self.ranks.count
        if config.batch_size % self._parts:
            raise SettingsError(
                f"batch_size {config.batch_size} cannot be divided among {self.ranks.count} processes "
                f"x {config.accumulate} parts; choose a multiple of {self._parts}"
            )
        full_precision()  # autocast says where there is to be less
        self.precision = chosen_precision(config, device)
        self._autocast = AUTOCAST[self.precision]
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        torch.manual_seed(config.seed)
        self.model = CharLSTM(vocabulary_size, config).to(device)
        self._forward: nn.Module = DistributedDataParallel(self.model) if self.ranks.count > 1 else self.model
        self._groups = _groups(self.model)
        self._optimizer = self._make_optimizer()
        self._average = _averaged(self.model, config.average_decay) if config.average_decay else None
        self.states: list[Tensor] = []
        self.reset_states()

    @property
    def evaluated(self) -> CharLSTM:
        """The weights to measure and to keep: the average, where there is one."""
        if self._average is None:
            return self.model
        averaged = self._average.module
        assert isinstance(averaged, CharLSTM)
        return averaged

    def reset_states(self) -> None:
        """Start all rows from the zero state."""
        rows = self.config.batch_size // self._parts
        self.states = [self.model.zero_state(rows) for _ in range(self.config.accumulate)]

    def step(self, index: int, batch: Batch, rate: float) -> StepResult:
        """Take one step on the whole batch, of which this process computes its rows.

        Raises:
            TrainingDiverged: loss or gradient are not finite; the weights are as they were.
        """
        self.model.train()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        for micro in range(self.config.accumulate):
            last = micro == self.config.accumulate - 1
            with self._without_exchange(not last):
                loss += self._backward(index, micro, batch) / self.config.accumulate
        if self.ranks.count > 1:
            loss = self.ranks.summed([loss])[0] / self.ranks.count
        if not math.isfinite(loss):
            raise TrainingDiverged(f"the loss is {loss} at step {index}")
        self._scaler.unscale_(self._optimizer)
        totals = [torch.nn.utils.get_total_norm(_gradients(group)) for group in self._groups.values()]
        norms = dict(zip(self._groups, torch.stack(totals).tolist(), strict=True))
        norm = math.hypot(*norms.values())
        if not math.isfinite(norm) and not self._scaler.is_enabled():
            raise TrainingDiverged(f"the gradient is not finite at step {index} (loss {loss:.4f})")
        torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.config.gradient_clip, torch.tensor(norm))
        self._scaler.step(self._optimizer)  # with fp16, a step whose gradient is not finite is left out
        self._scaler.update()
        if self._average is not None and math.isfinite(norm):
            self._average.update_parameters(self.model)
        return StepResult(loss, norm, norms)

    def _backward(self, index: int, micro: int, batch: Batch) -> float:
        """Add the gradient of one part; returns its mean loss on the text, whoever else teaches."""
        part = self.ranks.index * self.config.accumulate + micro
        rows = self.config.batch_size // self._parts
        inputs, targets, resets, soft = (
            None if array is None else torch.from_numpy(array).to(self.device)
            for array in batch.rows(slice(part * rows, (part + 1) * rows))
        )
        self._seed_masks(_seed(self.config.seed, index, part))
        state = self.states[micro]
        if self.config.cold_start:
            warm = keep_mask(torch.Size((rows, 1)), self.config.cold_start, self.device)
            state = state * warm
        with torch.autocast(self.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            logits, state = self._forward(inputs, state, resets)
        assert targets is not None
        logits = logits.float().flatten(0, 1)
        of_text = cross_entropy(logits, targets.flatten())
        loss = of_text if soft is None else self._mixed(of_text, logits, soft)
        self._scaler.scale(loss / self.config.accumulate).backward()  # type: ignore[no-untyped-call]
        self.states[micro] = state.detach()
        return of_text.item()

    def _seed_masks(self, seed: int) -> None:
        """Seed the device whose random numbers are used; `torch.manual_seed` formats the call stack for each other."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)

    def _mixed(self, of_text: Tensor, logits: Tensor, soft: Tensor) -> Tensor:
        """The loss with teachers (Hinton et al., 2015); the squared temperature keeps the size of the gradient."""
        share, temperature = self.config.teacher_share, self.config.teacher_temperature
        taught = (soft.float().flatten(0, 1) / temperature).softmax(-1)
        of_teachers = cross_entropy(logits / temperature, taught)
        return (1 - share) * of_text + share * temperature**2 * of_teachers

    @contextlib.contextmanager
    def _without_exchange(self, alone: bool) -> Iterator[None]:
        """Gradients are exchanged between processes once per step, with its last part."""
        if alone and isinstance(self._forward, DistributedDataParallel):
            with self._forward.no_sync():
                yield
        else:
            yield

    def _make_optimizer(self) -> torch.optim.AdamW:
        """AdamW; weight decay on matrices only, not on biases, gains and peepholes."""
        decayed = {parameter for name, parameter in self.model.named_parameters() if name.endswith("weight")}
        decayed |= {p for name, p in self.model.named_parameters() if name.endswith(("weight_ih", "weight_hh"))}
        groups = [
            {"params": [p for p in self.model.parameters() if p in decayed], "weight_decay": self.config.weight_decay},
            {"params": [p for p in self.model.parameters() if p not in decayed], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.config.learning_rate, fused=True)

    # What an exact resume needs.

    def tensors(self) -> dict[str, Tensor]:
        """Weights, optimiser, average and carried state of all rows, by name; every process has to ask."""
        found = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        found |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(self._optimizer).items()}
        if self._average is not None:
            found |= {f"average.{name}": tensor for name, tensor in self._average.state_dict().items()}
        whole = self.ranks.gathered(torch.cat(self.states, dim=2), dim=2)
        found |= {f"state.{name}": part for name, part in zip(self.model.cell.arrays, whole, strict=True)}
        return found

    def facts(self) -> dict[str, Any]:
        """The rest of what a resumed run needs, as JSON."""
        return {"scaler": self._scaler.state_dict()}

    def load(self, groups: dict[str, dict[str, Tensor]], facts: dict[str, Any]) -> None:
        """Go on from what `tensors`, by first part of the name, and `facts` gave; the weights are in place already.

        Raises:
            CheckpointError: the averaged weights are of another model.
            LookupError, TypeError, ValueError: anything else is missing, or of another type or size.
        """
        load_optimizer_tensors(self._optimizer, groups["optimizer"])
        if self._average is not None:
            load_weights(self._average, groups["average"], "the averaged weights of the checkpoint")
        zero = self.model.zero_state(self.config.batch_size)
        shapes = [array.shape for array in zero]
        require_form("state", groups["state"], dict(zip(self.model.cell.arrays, shapes, strict=True)))
        whole = torch.stack([groups["state"][name].to(self.device) for name in self.model.cell.arrays])
        first = self.ranks.index * self.config.accumulate
        self.states = list(whole.chunk(self._parts, dim=2)[first : first + self.config.accumulate])
        told, own = facts["scaler"], self._scaler.state_dict()
        if {name: type(value) for name, value in told.items()} != {name: type(value) for name, value in own.items()}:
            raise ValueError(f"learner.scaler is not that of a run in {self.precision}")
        self._scaler.load_state_dict(told)


def _seed(seed: int, step: int, part: int) -> int:
    """Of the random numbers of one part of one step."""
    return int(np.random.SeedSequence([seed, step, part]).generate_state(1, np.uint64)[0])


def _groups(model: CharLSTM) -> dict[str, list[nn.Parameter]]:
    """The parameters by part; a head that shares the embedding's weights counts them there."""
    layers = {f"layer {number}": list(layer.parameters()) for number, layer in enumerate(model.layers, start=1)}
    embedding = list(model.embedding.parameters())
    head = [parameter for parameter in model.head.parameters() if parameter is not embedding[0]]
    return {"embedding": embedding, **layers, "head": head}


def _gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _averaged(model: CharLSTM, decay: float) -> AveragedModel:
    """An exponential moving average of the weights, that follows faster while it is young."""

    def average(averaged: Any, current: Any, count: Any) -> None:
        young = (1 + float(count)) / (10 + float(count))
        torch._foreach_lerp_(list(averaged), list(current), 1 - min(decay, young))

    return AveragedModel(model, multi_avg_fn=average)
