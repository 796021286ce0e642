"""A trained model and the text that a study has it read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from charloom.bundle import Tokens, Unit
from charloom.lab.studies.study import StudyError
from charloom.lab.studies.trace import Trace, trace
from charloom.network.model import CharLSTM
from charloom.training.checkpoint import load_trained
from charloom.training.data.texts import read_text
from charloom.training.run_directory import load_validation


@dataclass(frozen=True)
class Reading:
    """A model, and a text as its tokens."""

    model: CharLSTM
    tokens: Tokens
    """[T]"""
    text: str
    """one character for each token; of a byte beyond ASCII, U+FFFD"""

    @property
    def network(self) -> str:
        """What the model is, in some words."""
        config = self.model.config
        return f"{config.cell.value}, {config.layers} x {config.hidden_size}"

    def read(self, characters: int) -> tuple[str, Trace]:
        """The first characters of the text, and what happened inside the model."""
        return self.text[:characters], trace(self.model, self.tokens[:characters])


def reading(run: Path | None, text: Path | None) -> Reading:
    """The best weights of a run, and a text: a file's, or else the part of its own that the run did not train on.

    Numbers of a file are masked as in the text that the run learnt.

    Raises:
        StudyError: no run is named, or one of words.
        CheckpointError: the run cannot be read.
        CorpusError, UnknownSymbolsError: the text cannot be read.
    """
    if run is None:
        raise StudyError(
            "this study looks into a trained model: give its directory with --run; "
            "`charloom train TEXT --run DIRECTORY --hidden-size 128 --epochs 5` makes a small one in minutes"
        )
    trained = load_trained(run)
    vocabulary = trained.vocabulary
    if vocabulary.unit is Unit.WORD:
        raise StudyError(f"{run} is a model of words; the studies show characters: give a run with another --unit")
    if text is None:
        tokens = load_validation(run, vocabulary.size)[:]
    else:
        tokens = vocabulary.encode(trained.mask.apply(read_text(text)))
    symbols = [vocabulary.symbol(token).decode("utf-8", "replace") for token in range(vocabulary.size)]
    return Reading(trained.model, tokens, "".join(symbols[token] for token in tokens))
