"""The bundles that `charloom serve` takes from a folder of models."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from charloom.bundle import MANIFEST_FILE, BundleError
from charloom.cli import CommandError
from charloom.server.identity.signatures import SigningProblem
from charloom.server.open_runtime import model_folder
from charloom.server.settings import ServerSettings

log = logging.getLogger(__name__)


def bundles_of_folder(settings: ServerSettings, *, empty: bool) -> list[Path]:
    """The newest complete version of each model in the folder of models, if the settings name one.

    Args:
        settings: of the server
        empty: whether none may be there yet, because other bundles serve

    Raises:
        CommandError: there is none, or the folder or the file of trusted keys cannot be read.
    """
    folder = model_folder(settings)
    if folder is None:
        return []
    try:
        paths = folder.first()
    except (BundleError, SigningProblem) as problem:
        raise CommandError(str(problem)) from problem
    if not (paths or empty):
        raise CommandError(
            f"--model-folder {folder.path} has no complete version of any model, NAME/VERSION/, in it"
            f"{_misplaced(folder.path)}"
        )
    return paths


def _misplaced(folder: Path) -> str:
    """What to do about a bundle that is one level too high, or two."""
    if (folder / MANIFEST_FILE).is_file():
        return f": it is a bundle itself; serve it with `charloom serve {shlex.quote(str(folder))}`"
    for path in sorted(manifest.parent for manifest in folder.glob(f"*/{MANIFEST_FILE}")):
        serve = f"charloom serve {shlex.quote(str(path))}"
        return f": {path} is a bundle itself; move its files to {path / '1'}, or serve it with `{serve}`"
    return ""


def bundles_of_others(paths: Sequence[Path], settings: ServerSettings) -> list[Path]:
    """The bundles that the other processes of a server serve, for a process that replaces one.

    A version that is no longer in the folder of models, because it was renamed or removed while it serves, is replaced
    by the newest version of its model there.

    Raises:
        CommandError: the file of trusted keys cannot be read.
    """
    folder = model_folder(settings)
    found: list[Path] = []
    for path in paths:
        if folder is not None and folder.has(path) and not path.exists():
            try:
                newest = folder.newest(path.parent.name)
            except SigningProblem as problem:
                raise CommandError(str(problem)) from problem
            if newest is not None:
                log.warning("%s serves and is not there any more; this process serves %s instead", path, newest)
            path = newest or path
        found.append(path)
    return found
