"""Versions of models in a folder that a server looks at."""

from __future__ import annotations

import shutil
from pathlib import Path

from charloom.bundle import Bundle
from charloom.client import (
    Client,
    ModelState,
)
from tests.unit.bundle.bundle_files import change_manifest


class Folder:
    """A folder of models whose versions have the weights of one bundle, and a digest each."""

    def __init__(self, path: Path, bundle: Bundle) -> None:
        self.path = path
        self._bundle = bundle

    def beside(self, version: str, model: str = "small") -> Path:
        """A version that only a request loads: its name begins with a dot."""
        path = self.path / model / f".{version}"
        shutil.copytree(self._bundle.path, path)
        change_manifest(path, lambda manifest: manifest.update(name=model, training={"version": version}))
        return path

    def add(self, version: str, model: str = "small") -> Path:
        """Let a version appear."""
        return self.beside(version, model).rename(self.path / model / version)


def states(client: Client) -> list[tuple[str, str, ModelState]]:
    return [(one.name, one.version, one.state) for one in client.model_versions()]
