"""Opening an asyncio session on the server, when it is entered or awaited."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from charloom.client._session_types import NOT_MADE, NewSession, Opened, SessionInfo

if TYPE_CHECKING:
    from typing_extensions import Self


AsyncSource = Opened | Callable[[], Coroutine[Any, Any, Opened]] | NewSession
"""A session that is open, a function that asks the server for one, or one that its first generation makes."""


class AsyncOpening:
    """Opens the session on the server when it is first entered or awaited; later times do nothing."""

    def __init__(self, source: AsyncSource) -> None:
        self._source = source
        self._new = source if isinstance(source, NewSession) else None
        self._known: SessionInfo | None = None
        self._restored_exactly: bool | None = None
        if isinstance(source, Opened):
            self._known, self._restored_exactly = source

    @property
    def info(self) -> SessionInfo:
        """The session as the last call that describes it left it; `refresh` asks the server."""
        if self._known is None:
            not_open = "this session is not open yet; use `async with session:` or `await session`"
            raise RuntimeError(not_open if self._new is None else NOT_MADE)
        return self._known

    async def _open(self) -> Self:
        if self._known is None and not isinstance(self._source, Opened | NewSession):
            self._known, self._restored_exactly = await self._source()
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._open().__await__()

    async def __aenter__(self) -> Self:
        return await self._open()
