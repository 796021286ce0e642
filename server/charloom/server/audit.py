"""The audit log: who did what as an administrator, when, on what, and how it ended. JSON, one object a line.

Each act of a server is inside one context:

    async with audit.act_of_call("erase-tenant", "tenant shop") as more:
        ...                 # does not begin if the log cannot be written
        more["sessions"] = 3

No secret, and nothing that users wrote, may be among what it is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import pwd
import secrets
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias

from charloom.engine.errors import EngineError, ErrorKind
from charloom.engine.telemetry import current_call
from charloom.server.caller import current_caller
from charloom.server.identity.secret_files import require_secret

log = logging.getLogger(__name__)

More: TypeAlias = "dict[str, str | int]"
"""Further fields of an act's line."""


class AuditLogUnavailable(EngineError):
    """The audit log cannot be written, so nothing is done that has to be in it."""

    kind = ErrorKind.UNAVAILABLE
    reason = "AUDIT_LOG_UNAVAILABLE"

    def __init__(self, problem: str) -> None:
        super().__init__(f"nothing was done, because the audit log cannot be written: {problem}")


class AuditLog:
    """Writes lines that are on the disk before an act begins, and after it has ended; any thread may.

    Args:
        path: the file, which is made if it is missing, for its owner alone to read; None: they go to the process's log

    Raises:
        AuditLogUnavailable: the file cannot be written, or others can read it.

    Several processes may write to one file. One that was renamed or removed, as log rotation does, is made anew.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._file = -1 if path is None else _opened(path)
        except ValueError as problem:
            raise AuditLogUnavailable(str(problem)) from problem

    @contextlib.contextmanager
    def act(self, act: str, on: str, **more: str | int) -> Iterator[More]:
        """Around an act of whoever runs this process; it is not begun where that cannot be written.

        Args:
            act: what is done, such as "revoke-key"
            on: on what, such as "key 0a1b2c3d"
            more: what else to say before; what is put into the value of the context is said after

        Raises:
            AuditLogUnavailable: nothing was done.
        """
        line = _Line(act, on, _user())
        self._write(line.begun(more))
        said: More = {}
        try:
            yield said
        except BaseException as problem:
            self._write_end(line.failed(problem, said))
            raise
        self._write_end(line.done(said))

    def act_of_call(self, act: str, on: str, **more: str | int) -> contextlib.AbstractAsyncContextManager[More]:
        """As `act`, of whoever makes the call that runs in this task; it does not block the event loop."""
        return self._act(_Line(act, on, current_caller().name, request=current_call().request_id), more)

    def act_of_server(
        self, act: str, on: str, by: str, **more: str | int
    ) -> contextlib.AbstractAsyncContextManager[More]:
        """As `act_of_call`, of the server by itself.

        Args:
            act, on, more: as of `act`
            by: what the operator has set or sent that lets it do so, such as "SIGHUP"
        """
        return self._act(_Line(act, on, by), more)

    @contextlib.asynccontextmanager
    async def _act(self, line: _Line, more: More) -> AsyncIterator[More]:
        begun = asyncio.ensure_future(asyncio.to_thread(self._write, line.begun(more)))
        said: More = {}
        try:
            await asyncio.shield(begun)
            yield said
        except BaseException as problem:
            await _whole(self._failed(begun, line.failed(problem, said)))
            raise
        await _whole(asyncio.to_thread(self._write_end, line.done(said)))

    async def _failed(self, begun: asyncio.Future[None], line: str) -> None:
        """Write that an act failed, if its beginning was written."""
        await asyncio.wait([begun])
        if begun.cancelled() or begun.exception() is None:
            await asyncio.to_thread(self._write_end, line)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _write_end(self, line: str) -> None:
        """Tell how an act ended. It has been done: where that cannot be told here, the log of this process has it."""
        try:
            self._write(line)
        except AuditLogUnavailable as problem:
            log.error("%s; the line that is missing there: %s", problem, line)

    def _write(self, line: str) -> None:
        if self._path is None:
            log.info("audit: %s", line)
            return
        with self._lock:
            try:
                self._reopen_if_moved(self._path)
                _append(self._file, line.encode() + b"\n")
            except OSError as problem:
                raise AuditLogUnavailable(f"{self._path}: {problem.strerror}") from problem
            except ValueError as problem:
                raise AuditLogUnavailable(str(problem)) from problem

    def _reopen_if_moved(self, path: Path) -> None:
        if self._file >= 0:
            try:
                if os.path.samestat(os.stat(path), os.fstat(self._file)):
                    return
            except FileNotFoundError:
                pass
            os.close(self._file)
            self._file = -1
        self._file = _opened(path)


class _Line:
    """The lines of one act, which have the same id."""

    def __init__(self, act: str, on: str, by: str, **call: str) -> None:
        self._of_all = {"act": act, "on": on, "by": by, **call, "id": secrets.token_hex(8)}

    def begun(self, more: More) -> str:
        return self._text("begun", more)

    def done(self, more: More) -> str:
        return self._text("done", more)

    def failed(self, problem: BaseException, more: More) -> str:
        # The message of an error may name what a user wrote.
        if isinstance(problem, (asyncio.CancelledError, GeneratorExit)):  # whoever asked has gone away
            reason = "CANCELLED"
        else:
            reason = problem.reason if isinstance(problem, EngineError) else type(problem).__name__
        return self._text("failed", {**more, "reason": reason})

    def _text(self, result: str, more: More) -> str:
        now = datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return json.dumps({"time": now, **self._of_all, "result": result, **more})


def require_log(path: Path) -> None:
    """Find out whether an audit log could be opened, and change nothing.

    Raises:
        ValueError: it cannot be written, or everybody can read it.
    """
    if path.exists():
        os.close(_opened(path))
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(f"cannot make {path}: its folder is missing, or may not be written")


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to completion even if the awaiting task is cancelled."""
    doing = asyncio.ensure_future(work)
    try:
        await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait([doing])
        raise


def _opened(path: Path) -> int:
    """A file to append to.

    Raises:
        ValueError: it cannot be written, or everybody can read it.
    """
    try:
        made = not path.exists()
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            require_secret(path, ValueError)
            if made:
                _sync_folder(path.parent)
        except BaseException:
            os.close(file)
            raise
    except OSError as problem:
        raise ValueError(f"cannot write {path}: {problem.strerror}") from problem
    return file


def _sync_folder(path: Path) -> None:
    """Sync a folder, so that a new file name in it survives a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _append(file: int, line: bytes) -> None:
    """Write a whole line, and wait until it is on the disk; if that fails, restore the file as it was.

    Raises:
        OSError: it failed.
    """
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        size = os.fstat(file).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        except OSError:
            os.ftruncate(file, size)
            raise
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _user() -> str:
    """Name of the user who runs this process, from the system and not from the environment."""
    number = os.getuid()
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"
