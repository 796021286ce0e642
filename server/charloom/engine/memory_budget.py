"""The memory that all calls may use together: a call reserves what it may need, and releases it at its end.

The prices of calls are elsewhere (`calls/price.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from charloom.engine.call_end import end_of_call
from charloom.engine.errors import EngineError, ErrorKind, Overloaded
from charloom.engine.model_errors import ModelTooLarge
from charloom.engine.parts import Parts
from charloom.engine.retry_after import RetryAfter
from charloom.engine.shares import Share, current_share

SPARED = 0.2
"""The fraction of the budget that only callers with less than their part of it may use."""


class TooMuchMemory(EngineError):
    """The call may need more memory than any call may use here, so retrying is useless."""

    kind = ErrorKind.EXHAUSTED
    reason = "TOO_MUCH_MEMORY"

    def __init__(self, needed: int, most: int) -> None:
        self.needed = needed
        self.most = most
        super().__init__(
            f"the call may need {needed / 2**20:,.1f} MiB of memory, and a call may use {most / 2**20:,.1f} here; "
            "ask for fewer continuations, tokens or alternatives, or give the server more (--memory-bytes)"
        )

    @property
    def facts(self) -> dict[str, str]:
        return {"needed": str(self.needed), "most": str(self.most)}


class MemoryBudget:
    """Reserves memory for calls, divided between callers as `Parts` says.

    Args:
        most: bytes that all calls may use together; None: any number
        others: returns how many of these are used otherwise: by sessions in memory, and by further models
    """

    def __init__(self, most: int | None = None, others: Callable[[], int] = lambda: 0) -> None:
        self.most = most
        self._others = others
        self._held = Parts(0 if most is None else int(most * (1 - SPARED)), most or 0)
        self._retry_after = RetryAfter()

    @property
    def held(self) -> int:
        """Bytes that running calls have reserved."""
        return self._held.total

    def hold(self, needed: int) -> None:
        """Reserve bytes until the end of the call that runs in this task; reserves nothing if that end is not known.

        Raises:
            TooMuchMemory: no call may use so much.
            Overloaded: not so much is free now.
        """
        at_end, share = end_of_call(), current_share()
        if self.most is not None and at_end is not None:
            self._take(share, needed)
            at_end(lambda: self._give_back(share, needed))

    def require_possible(self, needed: int) -> None:
        """Check that one call may ever reserve so many bytes.

        Raises:
            TooMuchMemory: it may not.
        """
        if self.most is not None and needed > (allowed := int(self.most * (1 - SPARED))):
            raise TooMuchMemory(needed, allowed)

    def require_room(self, model: str, needed: int) -> None:
        """Check that there is memory for a further model.

        Raises:
            ModelTooLarge: there is not.
        """
        if self.most is not None and not self.has_room(needed):
            raise ModelTooLarge(model, needed, max(0, self.most - self.held - self._others()), self.most)

    def has_room(self, needed: int) -> bool:
        """Whether so many bytes are free."""
        return self.most is None or needed <= self.most - self.held - self._others()

    @contextlib.contextmanager
    def held_for(self, needed: int) -> Iterator[None]:
        """Reserve bytes for a part of a call; raises as `hold`."""
        if self.most is None:
            yield
            return
        share = current_share()
        self._take(share, needed)
        try:
            yield
        finally:
            self._give_back(share, needed)

    def _take(self, share: Share, needed: int) -> None:
        assert self.most is not None
        self.require_possible(needed)
        if not self._held.fits(share, needed) or self.held + needed > self.most - self._others():
            raise Overloaded(
                f"the call may need {_shown(needed)} of memory, and other calls and sessions may need "
                f"{_shown(self.held + self._others())} of the {_shown(self.most)} that there are",
                self._retry_after.refuse(0),
            )
        self._held.add(share, needed)

    def _give_back(self, share: Share, needed: int) -> None:
        self._held.remove(share, needed)
        self._retry_after.served(1)


def _shown(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
