"""Teachers: trained models from which another model learns.

Distillation (Hinton, Vinyals and Dean, 2015, "Distilling the Knowledge in a Neural Network"): the student learns the
teachers' whole distributions beside the text's own next tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from charloom.bundle import Mask, Vocabulary
from charloom.network.model import CharLSTM
from charloom.training.data.texts import digest_of
from charloom.training.files import CheckpointError
from charloom.training.initial import load_model, weights_file


@dataclass(frozen=True)
class Teachers:
    """Trained models of one vocabulary; together they predict the mean of their probabilities."""

    models: Sequence[CharLSTM]
    vocabulary: Vocabulary
    facts: list[dict[str, str]]
    """Of each, the sha256 of the file with its weights, which identifies it, and the name of its run or bundle"""
    mask: Mask = Mask.NONE
    """Which numbers were made alike in the text that they learnt"""


def load_teachers(paths: Sequence[Path]) -> Teachers:
    """The best models of some runs, or the models of bundles.

    Raises:
        BundleError: a bundle has no weights, or is damaged.
        CheckpointError: a run has no model, or the teachers have different vocabularies or masks.
    """
    trained = [load_model(path) for path in paths]
    vocabulary = trained[0].vocabulary
    masks = [one.mask for one in trained]
    for path, one in zip(paths, trained, strict=True):
        require_vocabulary(f"the teacher {path}", one.vocabulary, vocabulary, f"the teacher {paths[0]}")
    if len(set(masks)) > 1:
        told = ", ".join(f"{path} {mask.value}" for path, mask in zip(paths, masks, strict=True))
        raise CheckpointError(f"the teachers learnt with different --mask ({told}); give teachers of one")
    facts = [{"name": path.resolve().name, "sha256": digest_of([weights_file(path)])} for path in paths]
    return Teachers([one.model for one in trained], vocabulary, facts, masks[0])


def digests(teachers: list[dict[str, str]]) -> list[str]:
    """What identifies teachers, whatever their directories are called by now."""
    return [one["sha256"] for one in teachers]


def require_vocabulary(teacher: str, its: Vocabulary, wanted: Vocabulary, whose: str) -> None:
    """See that a teacher speaks of the same symbols.

    Raises:
        CheckpointError: it does not.
    """
    if its.to_json() != wanted.to_json():
        raise CheckpointError(
            f"{teacher} has another vocabulary ({its.size} symbols, unit {its.unit.value}) than {whose} "
            f"({wanted.size} symbols, unit {wanted.unit.value}); give teachers of one vocabulary "
            "(`charloom train --vocabulary` trains one with that of another run)"
        )
