"""Programs that no Python package brings.

What `scripts/debian-packages` installs is there where `CI` is set: a test that lacks it fails. Elsewhere it is skipped
and says what to install. What some machines cannot have is skipped there always: root and its mounts, npm, a network.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def needed(name: str, package: str | None = None) -> str:
    """The path of a program of a Debian package, which has its name unless told; ends the test where there is none."""
    # Debian puts servers where only root's PATH looks.
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
    if path is None:
        lacking(f"{name} is missing: install the Debian package {package or name}")
    return path


def lacking(reason: str) -> NoReturn:
    """End a test that lacks what `scripts/debian-packages` installs."""
    if "CI" in os.environ:
        pytest.fail(reason)
    pytest.skip(reason)
