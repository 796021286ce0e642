"""The name of a source in the id of its session."""

from __future__ import annotations

import hashlib
import re

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,24}")


def source_id(source: str) -> str:
    """The source's name if it can be part of a session's id, else a dot and a hash of it."""
    if _PLAIN.fullmatch(source):
        return source
    return "." + hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:20]
