"""The flags that say how text files are found and read, for commands without other settings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from charloom.cli import CommandError
from charloom.cli.flags import explain, given_settings
from charloom.training.data.text_settings import TextSettings
from charloom.training.data.texts import STDIN


def text_settings(arguments: argparse.Namespace) -> TextSettings:
    """What the flags of `TextSettings` say.

    Raises:
        CommandError: one of them cannot be.
    """
    try:
        return TextSettings.model_validate(given_settings(arguments, TextSettings))
    except ValidationError as problem:
        raise CommandError(explain(problem)) from problem


def refuse_unread(arguments: argparse.Namespace, source: str) -> None:
    """Refuse flags of `TextSettings` where the flag `source`, which names the files that they are about, is missing."""
    if getattr(arguments, source) is None and (given := given_settings(arguments, TextSettings)):
        flag = next(iter(given)).replace("_", "-")
        raise CommandError(f"--{flag} says how the files of --{source} are read; give those too, or leave it out")


def refuse_without_folder(arguments: argparse.Namespace, inputs: Sequence[Path]) -> None:
    """Refuse flags that choose among the files of folders, where all inputs are files."""
    for name in ("include", "skip_bad"):
        if vars(arguments).get(name) and all(path == STDIN or path.is_file() for path in inputs):
            raise CommandError(
                f"--{name.replace('_', '-')}: it chooses among the files of a folder, and none is given; "
                "give a folder, or leave it out"
            )
