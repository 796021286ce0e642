"""What keeps a bundle from being written."""

from __future__ import annotations


class ExportError(Exception):
    """A bundle was not written; the message says why and what to do."""
