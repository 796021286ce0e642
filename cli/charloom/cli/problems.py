"""Messages about failures of the system for people at the terminal: what is wrong, and what to do."""

from __future__ import annotations

import errno
import warnings

_SAID = {
    errno.ENOENT: "there is no {path}; check the path",
    errno.EISDIR: "{path} is a directory; give a file",
    errno.ENOTDIR: "there can be no {path}, because a part of it is a file and not a directory; check the path",
    errno.EACCES: "{path} may not be read or written by this user; change its permissions, or give another path",
    errno.EEXIST: "{path} exists already; give another path, or remove it first",
    errno.ENOSPC: "there is no room for {path}; make some, or give a path on another disk",
    errno.EROFS: "{path} is on a disk that is read-only; give another path",
    errno.ENAMETOOLONG: "{path} is too long for a path; give a shorter one",
}


def silence_torchscript() -> None:
    """Silence torch's warning that TorchScript is deprecated: users of the command cannot change anything about it.

    torch warns at each use: up to 2.13 with a `DeprecationWarning`, from 2.14 on with a `FutureWarning`.
    """
    warnings.filterwarnings("ignore", message=".*torch.jit.*")


def words_of(problem: Exception) -> str:
    """The message of an error, that of an `OSError` without its number."""
    if not isinstance(problem, OSError) or problem.errno is None:
        return str(problem)
    words = problem.strerror or str(problem)
    if problem.filename is None:
        return words
    path = problem.filename.decode(errors="replace") if isinstance(problem.filename, bytes) else problem.filename
    said = _SAID.get(problem.errno)
    return f"{path}: {words}" if said is None else said.format(path=path)
