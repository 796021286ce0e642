"""Changing a bundle on purpose, the manifest made to fit or not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def digest_of(manifest: dict[str, Any]) -> str:
    """The digest as the contract defines it: over the canonical JSON of all other fields."""
    rest = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def change_manifest(bundle: Path, change: Callable[[dict[str, Any]], object], *, fit_digest: bool = True) -> None:
    """Apply `change` to the fields of a bundle's manifest."""
    file = bundle / "manifest.json"
    manifest = json.loads(file.read_text("utf-8"))
    change(manifest)
    if fit_digest:
        manifest["digest"] = digest_of(manifest)
    file.write_text(json.dumps(manifest), "utf-8")


def replace_file(bundle: Path, name: str, content: bytes) -> None:
    """Put other content into a file of a bundle, its hash and the digest corrected."""
    (bundle / name).write_bytes(content)
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change_manifest(bundle, lambda manifest: manifest["files"].update({name: entry}))
