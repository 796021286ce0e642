"""Files that only their owner may read."""

from __future__ import annotations

import stat
from pathlib import Path


def require_secret(path: Path, refuse: type[ValueError]) -> None:
    """See that a file with a secret is there, and that not everybody on this machine can read or write it.

    Its group may: that is how a secret is handed to a process in a container.

    Raises:
        refuse: it is not so; the message says what to do.
    """
    try:
        mode = path.stat().st_mode
    except OSError as problem:
        raise refuse(f"cannot read {path}: {problem.strerror}") from problem
    if not stat.S_ISREG(mode):
        raise refuse(f"{path} is no file")
    if mode & stat.S_IRWXO:
        raise refuse(f"everybody on this machine can read {path}, which holds secrets; run: chmod 600 {path}")
