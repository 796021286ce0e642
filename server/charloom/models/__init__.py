"""The models that come with charloom."""

from os import PathLike
from pathlib import Path

BUNDLED_MODEL = Path(__file__).parent / "shakespeare"
"""The bundle that is served when none is named."""


def bundle_path(given: str | PathLike[str]) -> Path:
    """A bundle's directory; the bundled model can be given by its name.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(given)
    if path.exists():
        return path
    if str(path) == BUNDLED_MODEL.name:
        return BUNDLED_MODEL
    raise FileNotFoundError(
        f"there is no {path}; give the directory that `charloom export` wrote, or: {BUNDLED_MODEL.name}"
    )
