"""The flags that say how text files are found and read, for commands without other settings."""

from __future__ import annotations

import argparse

from pydantic import ValidationError

from charloom.cli import CommandError
from charloom.cli.flags import explain, given_settings
from charloom.training.data.text_settings import TextSettings


def text_settings(arguments: argparse.Namespace) -> TextSettings:
    """What the flags of `TextSettings` say.

    Raises:
        CommandError: one of them cannot be.
    """
    try:
        return TextSettings.model_validate(given_settings(arguments, TextSettings))
    except ValidationError as problem:
        raise CommandError(explain(problem)) from problem
