"""Opening a bundle: every file is checked before it is used."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from charloom.bundle.errors import BundleError
from charloom.bundle.json_file import read_json
from charloom.bundle.manifest import (
    LARGEST_MANIFEST,
    MANIFEST_FILE,
    READ_SCHEMAS,
    VOCABULARY_FILE,
    DecoderKind,
    Manifest,
)
from charloom.bundle.vocabulary import Vocabulary
from charloom.bundle.vocabulary_file import read_vocabulary

_WEIGHTS_OF_RUNS = ("last.safetensors", "classifier.safetensors")


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: manifest, vocabulary, and where its files are."""

    path: Path
    manifest: Manifest
    vocabulary: Vocabulary

    def decoder_file(self, kind: DecoderKind) -> Path:
        """The file of one decoder.

        Raises:
            BundleError: the bundle leaves this decoder out.
        """
        if kind not in self.manifest.decoders:
            there = ", ".join(k.value for k in self.manifest.decoders) or "none"
            raise BundleError(
                self.path,
                f"it has no {kind.value} decoder (it has: {there})",
                f"export it with --decoders {kind.value}",
            )
        return self.path / kind.file


def sha256_of(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_bundle(path: Path | str) -> Bundle:
    """Open the bundle in directory `path` and check its manifest, every file's hash and its vocabulary.

    Raises:
        BundleError: something is missing, foreign or changed; the message names the file and the field.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    for name, entry in manifest.files.items():
        file = path / name
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
            raise BundleError(path, f"{MANIFEST_FILE}, field files: {name!r} is not a plain file name")
        if not file.is_file():
            raise BundleError(path, f"the file {name} is missing")
        if file.stat().st_size != entry.bytes or sha256_of(file) != entry.sha256:
            raise BundleError(path, f"the file {name} was changed: its sha256 is not the manifest's")
    if VOCABULARY_FILE not in manifest.files:
        raise BundleError(path, f"{MANIFEST_FILE}, field files: {VOCABULARY_FILE} is not listed")
    vocabulary = read_vocabulary(path / VOCABULARY_FILE)
    facts = {
        "unit": (manifest.unit, vocabulary.unit),
        "vocabulary_size": (manifest.vocabulary_size, vocabulary.size),
        "start_token": (manifest.start_token, vocabulary.start_token),
    }
    for field, (said, found) in facts.items():
        if said != found:
            raise BundleError(path, f"{MANIFEST_FILE}, field {field}: says {said!r}, the vocabulary has {found!r}")
    return Bundle(path, manifest, vocabulary)


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST_FILE
    if not file.is_file():
        advice = "give the directory that `charloom export` wrote"
        if any((path / name).is_file() for name in _WEIGHTS_OF_RUNS):
            advice = "it is a run; give the directory that `charloom export` makes of it"
        raise BundleError(path, f"there is no {MANIFEST_FILE}", advice)
    try:
        content = read_json(file, LARGEST_MANIFEST)
    except (OSError, ValueError) as problem:
        raise BundleError(path, f"{MANIFEST_FILE} cannot be read: {problem}") from problem
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version not in READ_SCHEMAS:
        raise BundleError(
            path,
            f"{MANIFEST_FILE}, field schema_version: {version!r} is not one that this version reads: {READ_SCHEMAS}",
            "export the model again with this version of charloom, or install the version that wrote it",
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as problem:
        first = problem.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BundleError(path, f"{MANIFEST_FILE}, field {field}: {first['msg']}") from problem
    if manifest.digest != manifest.computed_digest():
        raise BundleError(path, f"{MANIFEST_FILE}, field digest: it does not fit the other fields")
    return manifest
