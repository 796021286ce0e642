"""The bundles that `charloom serve` takes from a folder of models."""

from __future__ import annotations

from pathlib import Path

from charloom.bundle import BundleError
from charloom.cli import CommandError
from charloom.server.runtime import model_folder
from charloom.server.settings import ServerSettings


def bundles_of_folder(settings: ServerSettings, *, empty: bool) -> list[Path]:
    """The newest complete version of each model in the folder of models, if the settings name one.

    Args:
        settings: of the server
        empty: whether none may be there yet, because other bundles serve

    Raises:
        CommandError: there is none, or the folder cannot be read.
    """
    folder = model_folder(settings)
    if folder is None:
        return []
    try:
        paths = folder.first()
    except BundleError as problem:
        raise CommandError(str(problem)) from problem
    if not (paths or empty):
        raise CommandError(f"--model-folder {folder.path} has no complete version of any model, NAME/VERSION/, in it")
    return paths
