"""The training loop.

Knows: batches, optimisation, when to evaluate and to save. Does not know: terminals (it tells a `Reporter`), export.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import platform
import time
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from charloom.bundle import VOCABULARY_FILE, write_vocabulary
from charloom.training.checkpoint import (
    BEST_FILE,
    CONFIG_FILE,
    LAST_FILE,
    LOG_FILE,
    Checkpoint,
    CheckpointError,
    load_optimizer_tensors,
    load_weights,
    optimizer_tensors,
    read_checkpoint,
    replace_file,
    save_validation,
    write_checkpoint,
)
from charloom.training.config import TrainingConfig
from charloom.training.corpus import Batches, Corpus, CorpusError
from charloom.training.evaluate import tail_estimate
from charloom.training.generate import generate
from charloom.training.model import CharLSTM
from charloom.training.schedules import Plateau, learning_rate

SAMPLE_LENGTH, SAMPLE_TEMPERATURE = 200, 0.8


class TrainingDiverged(ArithmeticError):
    """The loss became NaN or infinite; the best checkpoint so far is kept."""


@dataclass(frozen=True)
class Progress:
    """One training step, as told to a reporter."""

    step: int
    total_steps: int
    loss: float
    """Training loss of this step, nats per token."""
    learning_rate: float
    gradient_norm: float
    """Global norm before clipping."""
    tokens_per_second: float


@dataclass(frozen=True)
class Evaluation:
    """One evaluation, as told to a reporter and written to `log.jsonl`."""

    step: int
    epoch: float
    train_loss: float
    """Mean since the last evaluation, nats per token, dropout on."""
    validation_loss: float
    """Estimate of the `tail` protocol, nats per token."""
    best: bool
    learning_rate: float
    tokens_per_second: float
    seconds: float
    """Training time so far, evaluations included."""
    sample: str


class Reporter(Protocol):
    """Where the loop tells what happens."""

    def step(self, progress: Progress) -> None:
        """A training step was made."""

    def evaluation(self, evaluation: Evaluation) -> None:
        """An evaluation was made."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    finished: bool
    """False when it was asked to stop before its last step."""
    step: int
    best_loss: float


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Trainer:
    """One run: a model, its optimiser and where they stand.

    Args:
        config: the settings
        corpus: what to train on
        run: the run directory; it is made, and must not hold a run unless `resume` is true
        resume: go on from `last.safetensors`; the result is the same as if the run had never stopped
        device: where to compute

    Raises:
        CheckpointError: the directory holds a run already, is in use, or the run there cannot be resumed with these
            settings and this text.
        CorpusError: the text is too short for one batch.
    """

    def __init__(
        self, config: TrainingConfig, corpus: Corpus, run: Path, *, resume: bool = False, device: str = "cpu"
    ) -> None:
        self.config, self.corpus, self.run = config, corpus, run
        self.device = torch.device(device)
        self.batches = Batches(corpus.train, config.batch_size, config.sequence_length, config.seed)
        self.total_steps = self.batches.per_epoch * config.epochs
        self.evaluate_every = max(1, self.batches.per_epoch // config.evaluations_per_epoch)
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and has_bf16(self.device))

        if len(corpus.validation) < 2:
            raise CorpusError(
                f"the validation part has {len(corpus.validation)} tokens, too few to measure a loss; "
                "give more text, or raise --validation-share"
            )
        self._release = weakref.finalize(self, os.close, _lock(run))
        torch.manual_seed(config.seed)
        self.model = CharLSTM(corpus.vocabulary.size, config).to(self.device)
        self.optimizer = self._make_optimizer()
        self.state = self.model.zero_state(config.batch_size)
        self.plateau = Plateau()
        self.step = 0
        self.best_loss = math.inf
        self.seconds = 0.0
        self._recent: list[float] = []
        self._stop = False
        try:
            if resume:
                self._resume()
            elif (run / LAST_FILE).exists():
                raise CheckpointError(f"{run} already holds a run; resume it with --resume, or choose another --run")
            elif (run / BEST_FILE).exists():
                raise CheckpointError(f"{run} holds the weights of another run; remove them, or choose another --run")
        except BaseException:
            self._release()
            raise

    def stop(self) -> None:
        """Ask `train` to save and return after the present step; safe in a signal handler."""
        self._stop = True

    def train(self, reporter: Reporter) -> Outcome:
        """Train until the last step or until asked to stop; the run can be resumed after either.

        Raises:
            TrainingDiverged: the loss is not finite.
        """
        with contextlib.ExitStack() as leaving:
            leaving.callback(self._release)
            leaving.enter_context(_denormals_flushed())
            write_vocabulary(self.run / VOCABULARY_FILE, self.corpus.vocabulary)
            save_validation(self.run, self.corpus.validation)
            replace_file(self.run / CONFIG_FILE, self.config.model_dump_json(indent=2).encode() + b"\n")
            self._keep_log_up_to_here()
            started, start_step = time.monotonic() - self.seconds, self.step
            clock, saved_step = time.monotonic(), -1
            while self.step < self.total_steps and not self._stop:
                loss, rate, norm = self._train_step()
                speed = (self.step - start_step) * self._tokens_per_step / max(1e-9, time.monotonic() - clock)
                reporter.step(Progress(self.step, self.total_steps, loss, rate, norm, speed))
                evaluate = self.step % self.evaluate_every == 0 or self.step == self.total_steps
                if evaluate:
                    reporter.evaluation(self._evaluate(started, rate, speed))
                if evaluate or self.step % self.config.checkpoint_every == 0:
                    self.seconds, saved_step = time.monotonic() - started, self.step
                    self._save()
            if saved_step != self.step:
                self.seconds = time.monotonic() - started
                self._save()
            return Outcome(self.step == self.total_steps, self.step, self.best_loss)

    @property
    def _tokens_per_step(self) -> int:
        return self.config.batch_size * self.config.sequence_length

    def _make_optimizer(self) -> torch.optim.AdamW:
        """AdamW; weight decay on matrices only, not on biases."""
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() == 1]
        groups = [
            {"params": matrices, "weight_decay": self.config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.config.learning_rate, fused=True)

    def _train_step(self) -> tuple[float, float, float]:
        """One step of truncated backpropagation through time; returns loss, learning rate, gradient norm."""
        self.model.train()
        if self.batches.starts_epoch(self.step):
            self.state = self.model.zero_state(self.config.batch_size)
        inputs, targets = (torch.from_numpy(part).to(self.device) for part in self.batches.batch(self.step))
        rate = learning_rate(self.step, self.total_steps, self.config, self.plateau)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            logits, state = self.model(inputs, self.state)
        loss = cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        if not torch.isfinite(loss):
            raise TrainingDiverged(
                f"the loss is {loss.item()} at step {self.step}; "
                f"what was saved in {self.run} until then is kept. "
                "Lower --learning-rate or --gradient-clip, or train with --precision fp32"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        self.state = state.detach()
        self.step += 1
        self._recent.append(loss.item())
        return loss.item(), rate, float(norm)

    def _evaluate(self, started: float, rate: float, speed: float) -> Evaluation:
        loss = tail_estimate(self.model, self.corpus.validation)
        best = loss < self.best_loss
        self.best_loss = min(self.best_loss, loss)
        self.plateau.observe(loss, self.config)
        evaluation = Evaluation(
            step=self.step,
            epoch=self.step / self.batches.per_epoch,
            train_loss=float(np.mean(self._recent)),
            validation_loss=loss,
            best=best,
            learning_rate=rate,
            tokens_per_second=speed,
            seconds=time.monotonic() - started,
            sample=self._sample(),
        )
        self._recent.clear()
        with (self.run / LOG_FILE).open("a", encoding="utf-8") as log:
            log.write(json.dumps(asdict(evaluation), ensure_ascii=False) + "\n")
        if best:
            tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
            write_checkpoint(self.run / BEST_FILE, Checkpoint(tensors, self._facts(loss)))
        return evaluation

    def _sample(self) -> str:
        uniforms = np.random.default_rng([self.config.seed, self.step]).random(SAMPLE_LENGTH, dtype=np.float32)
        vocabulary = self.corpus.vocabulary
        on_cpu = CharLSTM(vocabulary.size, self.config) if self.device.type != "cpu" else self.model
        if on_cpu is not self.model:
            on_cpu.load_state_dict(self.model.state_dict())
        tokens = generate(
            on_cpu, [], uniforms.tolist(), start_token=vocabulary.start_token, temperature=SAMPLE_TEMPERATURE
        )
        return vocabulary.decode(tokens)

    def _facts(self, validation_loss: float) -> dict[str, Any]:
        return {
            "config": self.config.model_dump(mode="json"),
            "step": self.step,
            "epoch": self.step / self.batches.per_epoch,
            "validation_loss": validation_loss,
            "corpus": {
                "name": self.corpus.name,
                "sha256": self.corpus.sha256,
                "characters": self.corpus.characters,
            },
            "parameters": self.model.parameter_count(),
            "precision": "bf16" if self.bf16 else "fp32",
            "torch": torch.__version__,
            "python": platform.python_version(),
        }

    def _save(self) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": t for name, t in optimizer_tensors(self.optimizer).items()}
        tensors |= {"state.h": self.state.h, "state.c": self.state.c, "rng.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        facts = self._facts(self.best_loss) | {
            "plateau": asdict(self.plateau),
            "seconds": self.seconds,
            "recent": self._recent,
        }
        write_checkpoint(self.run / LAST_FILE, Checkpoint(tensors, facts))

    def _resume(self) -> None:
        path = self.run / LAST_FILE
        checkpoint = read_checkpoint(path)
        facts = checkpoint.facts
        if facts["corpus"]["sha256"] != self.corpus.sha256:
            raise CheckpointError(f"{self.run} was trained on another text; resume it with the same file")
        changed = [
            f"{name} (run: {value!r}, given: {given!r})"
            for name, value in facts["config"].items()
            if (given := self.config.model_dump(mode="json")[name]) != value
        ]
        if changed:
            raise CheckpointError(f"a resumed run keeps its settings; these differ: {', '.join(changed)}")
        load_weights(self.model, checkpoint, path)
        load_optimizer_tensors(self.optimizer, checkpoint.group("optimizer"))
        state = checkpoint.group("state")
        self.state = type(self.state)(state["h"].to(self.device), state["c"].to(self.device))
        torch.set_rng_state(checkpoint.tensors["rng.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(checkpoint.tensors["rng.cuda"], self.device)
        self.plateau = Plateau(**facts["plateau"])
        self.step, self.best_loss, self.seconds = facts["step"], facts["validation_loss"], facts["seconds"]
        self._recent = list(facts["recent"])

    def _keep_log_up_to_here(self) -> None:
        """Drop the evaluations that a killed run made after its last checkpoint: they will be made again."""
        log = self.run / LOG_FILE
        lines = log.read_text("utf-8").splitlines(keepends=True) if log.is_file() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.step]
        replace_file(log, "".join(kept).encode())


def _lock(run: Path) -> int:
    """Hold a run directory, making it if it is not there; returns the file descriptor that holds it."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = os.open(run / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as problem:
        raise CheckpointError(f"{run} cannot be a run directory: {problem.strerror}; choose another --run") from problem
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        os.close(lock)
        raise CheckpointError(f"another process is training in {run}; choose another --run") from problem
    return lock


@contextlib.contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Denormal numbers, which make LSTM training slow, are taken as zero meanwhile."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
