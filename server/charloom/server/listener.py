"""The interface of a transport: it listens, and hands calls to the engine."""

from __future__ import annotations

from typing import Protocol


class PortInUse(OSError):
    """The address to listen on is taken."""


class Listener(Protocol):
    """Takes calls over one transport. It is given the runtime, shares nothing else, and knows no other listener."""

    @property
    def address(self) -> str:
        """Where it listens, as a client names it; empty before."""

    async def start(self) -> None:
        """Listen and take calls.

        Raises:
            PortInUse: the address is taken, or cannot be listened on.
        """

    async def announce_stop(self) -> None:
        """Report in health checks that the server will stop; calls are still answered."""

    async def close(self, seconds: float) -> None:
        """Take no more calls, and end those that are left after `seconds`."""
