"""Writing a bundle: the manifest comes last, so that a half-written bundle is never one."""

from __future__ import annotations

from pathlib import Path

from charloom.bundle.json_file import write_whole
from charloom.bundle.manifest import MANIFEST_FILE, FileEntry, Manifest
from charloom.bundle.reader import sha256_of


def file_entry(path: Path) -> FileEntry:
    """Size and hash of a file."""
    return FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))


def write_manifest(directory: Path, manifest: Manifest) -> Manifest:
    """Fill in the digest and put `manifest.json` into `directory` in one step."""
    manifest = manifest.with_digest()
    text = manifest.model_dump_json(indent=2, exclude=manifest.parts_left_out) + "\n"
    write_whole(directory / MANIFEST_FILE, text)
    return manifest
