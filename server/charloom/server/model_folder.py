"""A folder of models, `NAME/VERSION/`, each version a bundle: which of them is to serve.

A version should appear complete, by a rename of its folder. One that is still being copied is logged and skipped until
it is complete; names that begin with a dot are ignored.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from charloom.bundle import Bundle, BundleError
from charloom.server.identity.signatures import SigningProblem

log = logging.getLogger(__name__)

Signature = str
"""Changes when a file of any version is written or replaced, or gets other permissions."""


class ModelFolder:
    """The newest complete version of each model; one thread at a time.

    Args:
        path: the folder
        read: reads and checks a bundle; raises SigningProblem if the trusted keys cannot be used

    Versions are ordered by their numbers: 9 before 10, 1.9 before 1.10.
    """

    def __init__(self, path: Path, read: Callable[[Path], Bundle]) -> None:
        self.path = path
        self._read = read
        self._seen: dict[str, Signature] = {}
        self.chosen: dict[str, Signature] = {}
        """By name, the signature of the versions at the last choice: they are not read again until it changes."""
        self._unreadable: set[Path] = set()
        """Unreadable folders that have been logged."""
        self._unchecked = ""
        """The problem with the trusted keys at the latest look, which has been logged."""

    def first(self) -> list[Path]:
        """The newest complete version of each model.

        Raises:
            BundleError: the folder cannot be read.
            SigningProblem: the file of trusted keys cannot be used.
        """
        if not self.path.is_dir():
            raise BundleError(self.path, "--model-folder is not a folder", "give one with NAME/VERSION/ in it")
        self._seen = {name: _signature(versions) for name, versions in self._models()}
        return [version for name, versions in self._models() if (version := self._choose(name, versions)) is not None]

    def changed(self) -> list[Path]:
        """The newest complete versions of the models that have changed, and then stayed the same from look to look.

        While the trusted keys cannot be read there are none, and they are looked at again.
        """
        found = []
        unchecked = ""
        for name, versions in self._models():
            signature = _signature(versions)
            before, self._seen[name] = self._seen.get(name), signature
            if signature == before and signature != self.chosen.get(name):
                try:
                    found.append(self._choose(name, versions))
                except SigningProblem as problem:
                    unchecked = str(problem)
        if unchecked and unchecked != self._unchecked:
            log.warning("what has changed in %s waits until signatures can be checked: %s", self.path, unchecked)
        self._unchecked = unchecked
        return [version for version in found if version is not None]

    def remember(self, serving: Sequence[Path], chosen: Mapping[str, Signature]) -> None:
        """Register versions that serve already; of the newest ones, none is read again until it changes.

        Args:
            serving: folders of the versions
            chosen: the choices of another process of the server, which are not repeated until they change either
        """
        for name, versions in self._models():
            self._seen[name] = signature = _signature(versions)
            if versions and versions[0] in serving:
                self.chosen[name] = signature
        self.chosen |= chosen

    def has(self, path: Path) -> bool:
        """Whether a path leads into the folder."""
        return path.resolve().is_relative_to(self.path.resolve())

    def newest(self, name: str) -> Path | None:
        """The newest complete version of a model.

        Raises:
            SigningProblem: the file of trusted keys cannot be used.
        """
        return self._choose(name, dict(self._models()).get(name, []))

    def _choose(self, name: str, versions: list[Path]) -> Path | None:
        signature = _signature(versions)
        chosen: Path | None = None
        for version in versions:
            try:
                bundle = self._read(version)
                if bundle.manifest.name != name:
                    problem = f"its name is {bundle.manifest.name!r}, and that of its folder {name!r}"
                    raise BundleError(version, problem, "export it with another --name")
            except (BundleError, OSError) as problem:
                log.warning(
                    "version %s of model %s is left alone until it is complete: %s", version.name, name, problem
                )
            else:
                chosen = version
                break
        self.chosen[name] = signature
        return chosen

    def _models(self) -> Iterator[tuple[str, list[Path]]]:
        """Each model with its versions, the newest first."""
        for model in self._folders(self.path):
            yield model.name, sorted(self._folders(model), key=_natural, reverse=True)

    def _folders(self, path: Path) -> list[Path]:
        try:
            found = sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))
        except OSError as problem:  # it is being removed, or its disk has gone
            if path not in self._unreadable:
                self._unreadable.add(path)
                log.warning("%s cannot be read, and what serves goes on: %s", path, problem)
            return []
        if path in self._unreadable:
            self._unreadable.remove(path)
            log.info("%s can be read again", path)
        return found


def _natural(path: Path) -> tuple[tuple[int, int, str], ...]:
    parts = re.findall(r"\d+|\D+", path.name)
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)


def _signature(versions: list[Path]) -> Signature:
    found: list[tuple[str, object]] = []
    for version in versions:
        try:
            with os.scandir(version) as entries:
                for entry in sorted(entries, key=lambda one: one.name):
                    status = entry.stat()
                    access = (status.st_mode, status.st_uid, status.st_gid)
                    file = (status.st_ino, status.st_size, status.st_mtime_ns, *access)
                    found.append((f"{version.name}/{entry.name}", file))
        except OSError as problem:
            found.append((version.name, problem.errno))
    return hashlib.sha256(repr(found).encode()).hexdigest()
