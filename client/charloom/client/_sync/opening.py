"""Opening a blocking session on the server, at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from charloom.client._session_types import NOT_MADE, NewSession, Opened, SessionInfo

if TYPE_CHECKING:
    from typing_extensions import Self


Source = Opened | NewSession | Callable[[], Opened]
"""A session that is open, one that its first generation makes, or a function that asks the server for one."""


class Opening:
    """Opens the session on the server when this object is made."""

    def __init__(self, source: Source) -> None:
        self._new = source if isinstance(source, NewSession) else None
        self._known: SessionInfo | None = None
        self._restored_exactly: bool | None = None
        if not isinstance(source, NewSession):
            self._known, self._restored_exactly = source if isinstance(source, Opened) else source()

    @property
    def info(self) -> SessionInfo:
        """The session as the last call that describes it left it; `refresh` asks the server."""
        if self._known is None:
            raise RuntimeError(NOT_MADE)
        return self._known

    def __enter__(self) -> Self:
        return self
