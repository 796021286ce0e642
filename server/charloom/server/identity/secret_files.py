"""Files that only their owner may read."""

from __future__ import annotations

import stat
from pathlib import Path


def require_secret(path: Path, refuse: type[ValueError]) -> None:
    """Check that a file with a secret exists, and that others on this machine can neither read nor write it.

    Its group may, because containers pass secrets to processes that way.

    Raises:
        refuse: it does not exist, or others have access; the message says what to do.
    """
    try:
        mode = path.stat().st_mode
    except OSError as problem:
        raise refuse(f"cannot read {path}: {problem.strerror}") from problem
    if not stat.S_ISREG(mode):
        raise refuse(f"{path} is no file")
    if mode & stat.S_IRWXO:
        raise refuse(f"everybody on this machine can read {path}, which holds secrets; run: chmod 600 {path}")
