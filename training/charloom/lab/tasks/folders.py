"""Labelled texts: a folder with one sub-folder for each label, split into training, validation and test.

FOLDER/LABEL/*.txt                                  a seeded split, each label in the same proportions
FOLDER/train/LABEL/*.txt, FOLDER/test/LABEL/*.txt   the test is given, as in IMDb's aclImdb; validation is split off
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from charloom.lab.tasks.config import ClassificationConfig
from charloom.training.data.text_settings import PLAIN, TextSettings
from charloom.training.data.texts import CorpusError, included, read_text


class Text(NamedTuple):
    """One text and its label."""

    content: str
    label: int
    """Index of its label."""


@dataclass(frozen=True)
class Parts:
    """Labelled texts in three parts: training, validation and test."""

    labels: tuple[str, ...]
    """In alphabetical order."""
    train: list[Text]
    validation: list[Text]
    test: list[Text]
    left_out: int = 0
    """Files that were no text, where the settings leave such out."""


class Labelled(NamedTuple):
    """The texts of a folder of labels."""

    labels: tuple[str, ...]
    """In alphabetical order."""
    texts: list[Text]
    """By label, then by file name."""
    left_out: int
    """Files that were no text, where the settings leave such out."""


def read_parts(folder: Path, config: ClassificationConfig, labels: Sequence[str] | None = None) -> Parts:
    """Read a folder in either form, and split it; the same files and settings give the same parts.

    Args:
        folder: one sub-folder per label, or `train` and `test` with these
        config: `validation_share`, `test_share` and `seed` count
        labels: take these sub-folders alone

    Raises:
        CorpusError: fewer than two labels, a label with too few texts, or a file that is no text.
    """
    if not has_test(folder):
        found, texts, bad = read_labelled(folder, labels, config)
        rest, test = split(found, texts, config.test_share, config.seed)
    else:
        if "test_share" in config.model_fields_set:
            raise CorpusError(
                f"{folder} has a folder test/, which is the test; --test-share is for folders without one, leave it out"
            )
        found, rest, bad = read_labelled(folder / "train", labels, config)
        others, test, worse = read_labelled(folder / "test", labels, config)
        bad += worse
        if found != others:
            raise CorpusError(
                f"the labels of {folder / 'train'} ({', '.join(found)}) and of {folder / 'test'} ({', '.join(others)}) "
                "differ; name those that are meant, for example --labels neg,pos"
            )
    # of all texts that are not given as the test, the same share whichever form the folder has
    share = config.validation_share if has_test(folder) else config.validation_share / (1 - config.test_share)
    train, validation = split(found, rest, share, config.seed)
    return Parts(found, train, validation, test, bad)


def has_test(folder: Path) -> bool:
    """Whether a folder has the second form: `train` and `test`, with folders in both."""
    return all(
        (folder / name).is_dir() and any(part.is_dir() for part in (folder / name).iterdir())
        for name in ("train", "test")
    )


def read_labelled(folder: Path, labels: Sequence[str] | None = None, settings: TextSettings = PLAIN) -> Labelled:
    """The labels of a folder, and all its texts.

    Raises:
        CorpusError: fewer than two labels, a label without texts, or a file that is no text.
    """
    if not folder.is_dir():
        raise CorpusError(f"there is no folder {folder}; give one with a sub-folder of text files for each label")
    there = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    chosen = there if labels is None else sorted(set(labels))
    missing = [label for label in chosen if label not in there]
    if missing:
        raise CorpusError(f"{folder} has no sub-folder {missing[0]!r}; it has: {', '.join(there) or 'none'}")
    if len(chosen) < 2:
        raise CorpusError(
            f"{folder} has {len(chosen)} label(s) ({', '.join(chosen) or 'no sub-folders'}) and needs two; "
            "give a folder with a sub-folder of text files for each label"
        )
    texts: list[Text] = []
    left_out = 0
    for index, label in enumerate(chosen):
        files = sorted(path for path in (folder / label).iterdir() if included(path.name, settings.include))
        if not files:
            raise CorpusError(
                f"{folder / label} has no {settings.include} files; put texts there, or remove the folder, "
                "or give their pattern with --include"
            )
        read = [Text(content, index) for file in files if (content := _content(file, settings)) is not None]
        if not read:
            raise CorpusError(f"{folder / label}: no {settings.include} file there is text in {settings.encoding}")
        texts += read
        left_out += len(files) - len(read)
    return Labelled(tuple(chosen), texts, left_out)


def split(labels: Sequence[str], texts: Sequence[Text], share: float, seed: int) -> tuple[list[Text], list[Text]]:
    """Some texts of each label, and the others: `share` of them in the second part, at least one in either.

    Raises:
        CorpusError: a label has fewer than two texts.
    """
    first: list[Text] = []
    second: list[Text] = []
    for index, label in enumerate(labels):
        own = [text for text in texts if text.label == index]
        if len(own) < 2:
            raise CorpusError(
                f"label {label!r} has too few texts: training, validation and test take at least one each; give more"
            )
        order = np.random.default_rng([seed, index]).permutation(len(own))
        count = min(max(1, round(share * len(own))), len(own) - 1)
        second += [own[at] for at in sorted(order[:count])]
        first += [own[at] for at in sorted(order[count:])]
    return first, second


def _content(file: Path, settings: TextSettings) -> str | None:
    """The text of a file; None where it is none, and the settings leave such files out."""
    try:
        content = read_text(file, settings.encoding)
        if not content.strip():
            raise CorpusError(f"{file} has nothing but white space; give it a text, or remove it")
    except CorpusError:
        if settings.skip_bad:
            return None
        raise
    return content
