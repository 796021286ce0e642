"""The figures of a run as event files for TensorBoard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from charloom.training.gates import Activations
from charloom.training.records import Advice, Evaluation, Progress
from charloom.training.watching.figures import bits, perplexity

DIRECTORY = "tensorboard"
"""In the run directory."""
EVERY = 10
"""Steps from one that is written to the next."""


class TensorBoard:
    """A watcher that writes scalars, histograms of the gates, samples and warnings.

    Args:
        run: the run directory
        step: where the run stands; what was written of later steps, by a run that was killed, no longer counts
    """

    def __init__(self, run: Path, step: int) -> None:
        self._writer = SummaryWriter(run / DIRECTORY, purge_step=step + 1 if step else None)

    def step(self, progress: Progress) -> None:
        """Write the scalars of every tenth step."""
        if progress.step % EVERY:
            return
        scalars = {"loss/step": progress.loss, "learning_rate": progress.learning_rate}
        scalars |= {"gradient_norm/all": progress.gradient_norm, "tokens_per_second": progress.tokens_per_second}
        scalars |= {f"gradient_norm/{_tag(part)}": norm for part, norm in progress.gradient_norms.items()}
        self._scalars(scalars, progress.step)

    def evaluation(self, evaluation: Evaluation) -> None:
        """Write everything of an evaluation."""
        loss, step = evaluation.validation_loss, evaluation.step
        scalars = {
            "loss/training": evaluation.train_loss,
            "loss/validation": loss,
            "bits/validation": bits(loss),
            "perplexity/validation": perplexity(loss),
            "clipped_share": evaluation.clipped_share,
            "memory_bytes": evaluation.memory_bytes,
            "epoch": evaluation.epoch,
        }
        for layer, kinds in evaluation.gates.items():
            for kind, found in kinds.items():
                self._histogram(f"{_tag(layer)}/{kind}", found, step)
                scalars[f"{_tag(layer)}_saturation/{kind}_low"] = found.near_low
                scalars[f"{_tag(layer)}_saturation/{kind}_high"] = found.near_high
        self._scalars(scalars, step)
        sample = "\n".join(f"    {line}" for line in evaluation.sample.split("\n"))  # Markdown, as it stands
        self._writer.add_text("sample", sample, step)
        self._writer.flush()

    def advice(self, advice: Advice) -> None:
        """Write the warning as text."""
        self._writer.add_text("warnings", f"{advice.cause}: {advice.text}", advice.step)

    def close(self) -> None:
        """Write what is left, and close the files."""
        self._writer.close()

    def _scalars(self, scalars: dict[str, float], step: int) -> None:
        for tag, value in scalars.items():
            self._writer.add_scalar(tag, value, step)

    def _histogram(self, tag: str, found: Activations, step: int) -> None:
        edges = np.linspace(found.low, 1.0, len(found.counts) + 1)
        middles, counts = (edges[:-1] + edges[1:]) / 2, np.array(found.counts)
        self._writer.add_histogram_raw(
            tag,
            min=found.low,
            max=1.0,
            num=int(counts.sum()),
            sum=float(counts @ middles),
            sum_squares=float(counts @ middles**2),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=found.counts,
            global_step=step,
        )


def _tag(name: str) -> str:
    return name.replace(" ", "_")
