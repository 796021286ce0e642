"""The training loop: when to learn, evaluate, save and stop."""

from __future__ import annotations

import contextlib
import math
import operator
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from charloom.bundle import VOCABULARY_FILE, write_vocabulary
from charloom.network.generate import generate
from charloom.network.model import CharLSTM
from charloom.training.checkpoint import Checkpoint, load_weights, read_facts, read_last, write_checkpoint
from charloom.training.config import TrainingConfig
from charloom.training.data.batches import Batches
from charloom.training.data.corpus import Corpus
from charloom.training.data.texts import CorpusError
from charloom.training.evaluate import tail_estimate
from charloom.training.files import CheckpointError, append_record, drop_records_after, replace_file, typed, undamaged
from charloom.training.gates import gate_activations
from charloom.training.learner import Learner, StepResult, StepSums, TrainingDiverged
from charloom.training.ranks import Ranks
from charloom.training.records import Evaluation, Outcome, Progress, Reporter
from charloom.training.run_directory import BEST_FILE, CONFIG_FILE, LAST_FILE, LOG_FILE, WARNINGS_FILE, save_validation
from charloom.training.run_lock import RunLock, lock_new_run
from charloom.training.schedules import Plateau, learning_rate, warmup_steps
from charloom.training.soft_targets import SOFT_TARGETS_FILE, SoftTargets, read_soft_targets, write_soft_targets
from charloom.training.teachers import Teachers, digests, require_vocabulary

SAMPLE_LENGTH, SAMPLE_TEMPERATURE = 200, 0.8


class Trainer:
    """One run: a learner, and where it stands.

    Args:
        config: the settings
        corpus: what to train on
        run: the run directory; it is made, and must not hold a run unless `resume` is true
        resume: go on from `last.safetensors`; the result is the same as if the run had never stopped. It may be given
            more epochs than it was meant to have: a cosine is then the longer one, and early stopping counts anew
        device: where to compute
        ranks: the processes that share the work; all of them make a trainer of the same arguments
        weights: of another model, to start from
        teachers: models to learn from beside the text; a resumed run has its soft targets, and needs none
        lock: what holds the run directory already, a new run's by `lock_new_run`; by default the trainer does, until
            `train` returns

    Raises:
        CheckpointError: the directory holds a run already, is in use, or the run there cannot be resumed with these
            settings, this text and these teachers.
        CorpusError: the text is too short for one batch.
    """

    def __init__(
        self,
        config: TrainingConfig,
        corpus: Corpus,
        run: Path,
        *,
        resume: bool = False,
        device: str = "cpu",
        ranks: Ranks | None = None,
        weights: dict[str, Tensor] | None = None,
        teachers: Teachers | None = None,
        lock: RunLock | None = None,
    ) -> None:
        self.config, self.corpus, self.run = config, corpus, run
        self.ranks = ranks or Ranks()
        self.batches = Batches(corpus.train, config.batch_size, config.sequence_length, config.seed)
        self.total_steps = self.batches.per_epoch * config.epochs
        if len(corpus.validation) < 2:
            raise CorpusError(
                f"the validation part has {len(corpus.validation)} tokens, too few to measure a loss; "
                "give more text, or raise --validation-share"
            )
        if teachers is not None:
            require_vocabulary("the teacher", teachers.vocabulary, corpus.vocabulary, "the text")
            if teachers.mask is not config.mask:
                raise CheckpointError(
                    f"the teacher learnt with --mask {teachers.mask.value}, and this run has {config.mask.value}; "
                    "give both the same"
                )
        self._lock: RunLock | None = None
        if lock is None and self.ranks.first:
            self._lock = RunLock(run) if resume else lock_new_run(run)
        self.plateau = Plateau()
        self.step = 0
        self.best_loss = math.inf
        self.stale = 0
        self.seconds = 0.0
        self.former_epochs: int | None = None
        """Of a resumed run that is to be longer than it was meant to be."""
        self.former_precision: str | None = None
        """What a resumed run was trained in so far."""
        self.teachers = [] if teachers is None else teachers.facts
        """What identifies each model that this one learns from."""
        self._recent = StepSums()
        self._stop = False
        try:
            self.learner = Learner(corpus.vocabulary.size, config, torch.device(device), self.ranks)
            if resume:
                self._resume()
            if weights is not None:
                load_weights(self.learner.model, weights, "the initial weights")
            if self.teachers:
                self.batches = replace(self.batches, soft_targets=self._soft_targets(teachers))
        except BaseException:
            self._release()
            raise

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _soft_targets(self, teachers: Teachers | None) -> SoftTargets:
        """What the teachers predict of the training part; the first process lets them, where the run has it not yet."""
        if not self.ranks.first:
            self.ranks.wait()
        found = read_soft_targets(self.run, self.corpus.train, self.corpus.vocabulary, self.teachers)
        if self.ranks.first and found is None:
            if teachers is None:
                names = " ".join(one["name"] for one in self.teachers)
                raise CheckpointError(
                    f"{self.run / SOFT_TARGETS_FILE} is missing or damaged; "
                    f"give the run's teachers again, and it is computed anew: --teacher {names}"
                )
            found = write_soft_targets(self.run, self.corpus.train, teachers, self.learner.device)
        if self.ranks.first:
            self.ranks.wait()
        assert found is not None
        return found

    def stop(self) -> None:
        """Ask `train` to save and return after the present step; safe in a signal handler."""
        self._stop = True

    def train(self, reporter: Reporter) -> Outcome:
        """Train until the last step or until asked to stop; the run can be resumed after either.

        Raises:
            TrainingDiverged: loss or gradient are not finite.
        """
        with contextlib.ExitStack() as leaving:
            leaving.callback(self._release)
            leaving.enter_context(_denormals_flushed())
            if self.ranks.first:
                self._prepare_directory()
            if self.former_epochs is not None:
                self.stale = 0
            started, start_step = time.monotonic() - self.seconds, self.step
            clock, saved_step = time.monotonic(), -1
            while self.step < self.total_steps and not self._stopped_early and not self._asked_to_stop():
                result, rate = self._train_step()
                speed = (self.step - start_step) * self._tokens_per_step / max(1e-9, time.monotonic() - clock)
                reporter.step(self._progress(result, rate, speed))
                evaluate = self._evaluates_after(self.step)
                evaluation = self._evaluate(started, rate, speed) if evaluate else None
                if evaluate or self.step % self.config.checkpoint_every == 0:
                    self.seconds, saved_step = time.monotonic() - started, self.step
                    self._save()
                if evaluation is not None:
                    if evaluation.best:
                        self._keep_best()
                    reporter.evaluation(evaluation)
            if saved_step != self.step:
                self.seconds = time.monotonic() - started
                self._save()
            finished = self.step == self.total_steps or self._stopped_early
            return Outcome(finished, self.step, self.best_loss, self._stopped_early)

    def rate_with(self, epochs: int) -> float:
        """The learning rate of the next step, if the run were of so many epochs."""
        return learning_rate(self.step, self.batches.per_epoch * epochs, self.config, self.plateau)

    @property
    def _tokens_per_step(self) -> int:
        return self.config.batch_size * self.config.sequence_length

    @property
    def _stopped_early(self) -> bool:
        return bool(self.config.early_stopping) and self.stale >= self.config.early_stopping

    def _evaluates_after(self, step: int) -> bool:
        """So often in an epoch, evenly, and in the end."""
        before, now = ((s * self.config.evaluations_per_epoch) // self.batches.per_epoch for s in (step - 1, step))
        return now > before or step == self.total_steps

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked; all of them learn it before the same step."""
        return self.ranks.summed([self._stop])[0] > 0

    def _prepare_directory(self) -> None:
        write_vocabulary(self.run / VOCABULARY_FILE, self.corpus.vocabulary)
        save_validation(self.run, self.corpus.validation)
        replace_file(self.run / CONFIG_FILE, self.config.model_dump_json(indent=2).encode() + b"\n")
        if self._lacks_best():
            self._keep_best()
        for file in (LOG_FILE, WARNINGS_FILE):
            drop_records_after(self.run / file, self.step)  # a killed run wrote them, and they are made again

    def _train_step(self) -> tuple[StepResult, float]:
        if self.batches.starts_epoch(self.step):
            self.learner.reset_states()
        rate = learning_rate(self.step, self.total_steps, self.config, self.plateau)
        try:
            result = self.learner.step(self.step, self.batches.batch(self.step), rate)
        except TrainingDiverged as problem:
            raise self._diverged(str(problem)) from problem
        self.step += 1
        self._recent.add(result, self.config.gradient_clip)
        return result, rate

    def _diverged(self, what: str) -> TrainingDiverged:
        advice = "Lower --learning-rate or --gradient-clip, raise --warmup-steps, or train with --precision fp32"
        if not (self.run / BEST_FILE).exists():
            return TrainingDiverged(f"{what}, before any weights were kept. {advice}, in another --run")
        return TrainingDiverged(
            f"{what}; what was saved in {self.run} until then is kept, and its best weights can be exported. "
            f"{advice}, in another --run; --initial-weights starts it from those weights"
        )

    def _progress(self, result: StepResult, rate: float, speed: float) -> Progress:
        return Progress(
            step=self.step,
            total_steps=self.total_steps,
            epoch=self.step / self.batches.per_epoch,
            loss=result.loss,
            learning_rate=rate,
            gradient_norm=result.norm,
            gradient_norms=result.norms,
            clipped=result.norm > self.config.gradient_clip,
            tokens_per_second=speed,
        )

    def _evaluate(self, started: float, rate: float, speed: float) -> Evaluation | None:
        """Measure; the first process logs and returns what is found."""
        model = self.learner.evaluated
        loss = self.ranks.summed([tail_estimate(model, self.corpus.validation) if self.ranks.first else 0.0])[0]
        if not math.isfinite(loss):
            raise self._diverged(f"the validation loss is {loss} after step {self.step}")
        best = loss < self.best_loss
        self.best_loss = min(self.best_loss, loss)
        self.stale = 0 if best else self.stale + 1
        self.plateau.observe(loss, self.config)
        recent, self._recent = self._recent, StepSums()
        if not self.ranks.first:
            return None
        evaluation = Evaluation(
            step=self.step,
            epoch=self.step / self.batches.per_epoch,
            train_loss=recent.loss / recent.steps,
            validation_loss=loss,
            best=best,
            learning_rate=rate,
            gradient_norms={name: total / recent.steps for name, total in recent.norms.items()},
            clipped_share=recent.clipped / recent.steps,
            tokens_per_second=speed,
            seconds=time.monotonic() - started,
            memory_bytes=psutil.Process().memory_info().rss,
            sample=self._sample(model),
            gates=gate_activations(model, self.corpus.validation),
        )
        append_record(self.run / LOG_FILE, asdict(evaluation))
        return evaluation

    def _keep_best(self) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.learner.evaluated.state_dict().items()}
        write_checkpoint(self.run / BEST_FILE, Checkpoint(tensors, self._facts(self.best_loss)))

    def _lacks_best(self) -> bool:
        """Whether the run was killed after the checkpoint of its best weights, before these had a file of their own."""
        if self.stale or not math.isfinite(self.best_loss) or not self._evaluates_after(self.step):
            return False
        try:
            return bool(read_facts(self.run / BEST_FILE).get("validation_loss") != self.best_loss)
        except CheckpointError:
            return True

    def _sample(self, model: CharLSTM) -> str:
        uniforms = np.random.default_rng([self.config.seed, self.step]).random(SAMPLE_LENGTH, dtype=np.float32)
        vocabulary = self.corpus.vocabulary
        on_cpu = model
        if self.learner.device.type != "cpu":
            on_cpu = CharLSTM(vocabulary.size, self.config)
            on_cpu.load_state_dict(model.state_dict())
        tokens = generate(
            on_cpu,
            [],
            uniforms.tolist(),
            start_token=vocabulary.start_token,
            temperature=SAMPLE_TEMPERATURE,
            never=vocabulary.unknown,
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
            **({"teachers": self.teachers} if self.teachers else {}),
            "parameters": self.learner.model.parameter_count(),
            "precision": self.learner.precision,
            "processes": self.ranks.count,
            "device": str(self.learner.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }

    def _save(self) -> None:
        tensors = self.learner.tensors()
        facts = self._facts(self.best_loss) | {
            "learner": self.learner.facts(),
            "plateau": asdict(self.plateau),
            "stale": self.stale,
            "seconds": self.seconds,
            "recent": asdict(self._recent),
        }
        if self.ranks.first:
            write_checkpoint(self.run / LAST_FILE, Checkpoint(tensors, facts))

    def _resume(self) -> None:
        checkpoint, config = read_last(self.run)
        facts = checkpoint.facts
        if facts["corpus"]["sha256"] != self.corpus.sha256:
            raise CheckpointError(f"{self.run} was trained on another text; resume it with the same file")
        began, settings = (each.model_dump(mode="json") for each in (config, self.config))
        changed = [
            f"{name} (run: {value!r}, given: {settings[name]!r})"
            for name, value in began.items()
            if settings[name] != value and not (name == "epochs" and settings[name] > value)
        ]
        if settings["epochs"] > began["epochs"]:
            self.former_epochs = began["epochs"]
        if changed:
            raise CheckpointError(f"a resumed run keeps its settings; these differ: {', '.join(changed)}")
        with undamaged(self.run / LAST_FILE):
            self._restore(checkpoint)

    def _restore(self, checkpoint: Checkpoint) -> None:
        facts = checkpoint.facts
        began_with = [{name: str(one[name]) for name in ("name", "sha256")} for one in facts.get("teachers", [])]
        if self.teachers and digests(self.teachers) != digests(began_with):
            names = ", ".join(one["name"] for one in began_with) or "none"
            raise CheckpointError(
                f"these are not the teachers that {self.run} began with ({names}, in this order, with the weights of "
                "then); leave --teacher out: a run keeps what its teachers predicted"
            )
        self.teachers, self.former_precision = began_with, facts.get("precision")
        load_weights(self.learner.model, checkpoint.group("model"), f"the weights in {self.run / LAST_FILE}")
        groups = {name: checkpoint.group(name) for name in ("optimizer", "average", "state")}
        self.learner.load(groups, facts["learner"])
        self.plateau, self.stale = typed(Plateau, facts["plateau"]), operator.index(facts["stale"])
        if self.former_epochs is not None and self.plateau.warmup is None:
            self.plateau.warmup = warmup_steps(self.batches.per_epoch * self.former_epochs, self.config)
        self.step, self.best_loss = operator.index(facts["step"]), float(facts["validation_loss"])
        self.seconds = float(facts["seconds"])
        if not 0 <= self.step <= self.total_steps:
            raise ValueError(f"it is at step {self.step} of {self.total_steps}")
        self._recent = StepSums.of(facts["recent"], self.config.gradient_clip)


@contextlib.contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Denormal numbers, which make LSTM training slow, are taken as zero meanwhile."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
