"""The engine: its parts put together, and the calls that need several of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from charloom.bundle import Bundle
from charloom.engine.calls.conversation import Conversation
from charloom.engine.calls.generating import Generating
from charloom.engine.calls.generation import Generation
from charloom.engine.calls.inspection import Inspections
from charloom.engine.calls.reading import Reading
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.calls.starting import Starting
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.limits import Limits
from charloom.engine.loom.models import Model, Models
from charloom.engine.memory_budget import MemoryBudget
from charloom.engine.sessions.sealed_states import SealedStates
from charloom.engine.sessions.sealing import Sealer, new_keys
from charloom.engine.sessions.sessions import Sessions
from charloom.engine.sessions.stores.memory import MemoryStore
from charloom.engine.sessions.stores.observed import ObservedStore
from charloom.engine.sessions.stores.store import Store
from charloom.engine.telemetry import Totals


class Engine:
    """Serves some models; make it inside the event loop that will use it.

    Args:
        models: bundles with their opened decoders; the first is the default
        limits: what to accept
        store: where sessions are; in memory if not given
        sealer: makes tokens of states; with a key of its own if not given
        budget: the memory that calls may use; any if not given

    Raises:
        ValueError: there is no model, or two have the same name.
    """

    def __init__(
        self,
        models: Sequence[tuple[Bundle, Decoder]],
        limits: Limits | None = None,
        store: Store | None = None,
        sealer: Sealer | None = None,
        budget: MemoryBudget | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.draining = asyncio.Event()
        """Set once it takes no more work."""
        self._models = Models(models, self.limits)
        store = MemoryStore(self.limits.max_sessions) if store is None else store
        sealed = SealedStates(sealer or Sealer(new_keys()), self._models, self.limits)
        self.totals = Totals()
        """Of its calls, as far as a transport tells of them, and of its session store."""
        self.sessions = Sessions(ObservedStore(store, self.totals), self._models, self.limits, sealed)
        self._starting = Starting(self._models, self.sessions, sealed, self.limits)
        self.budget = budget or MemoryBudget()
        self.reading = Reading(self._starting, self.sessions, self.limits, self.budget)
        self.inspections = Inspections(self._starting, self.limits)
        self._generating = Generating(self._starting, self.reading, sealed, self.budget, self.limits)

    @property
    def models(self) -> list[Model]:
        """All models, the default one first."""
        return list(self._models)

    def model(self, name: str) -> Model:
        """The model of this name; empty for the default one.

        Raises:
            ModelNotFound: there is none.
        """
        return self._models.named(name)

    async def generate(self, request: GenerationRequest) -> Generation:
        """Start generating one continuation, with which its session goes on; see `Generating.generate`."""
        return await self._generating.generate(request)

    async def continuations(self, request: GenerationRequest) -> list[Generation]:
        """Start generating several continuations of one state; see `Generating.continuations`."""
        return await self._generating.continuations(request)

    async def peek(self, request: GenerationRequest, top: int) -> Generation:
        """Start generating with the distribution at each position; nothing changes; see `Generating.peek`."""
        return await self._generating.peek(request, top)

    async def converse(self, request: GenerationRequest) -> Conversation:
        """Begin a text that is steered while it is generated; see `Conversation.begin`."""
        return await Conversation.begin(request, self._starting, self._generating, self.reading, self.limits)

    @property
    def working(self) -> bool:
        """Whether all looms have their workers, and none is stuck."""
        return all(model.loom.working for model in self.models)

    def end_now(self) -> None:
        """Do not wait any longer for what is running; for use while draining."""
        for model in self.models:
            model.loom.end_now()
        self.inspections.end_now()

    async def drain(self, seconds: float) -> list[Model]:
        """Refuse new work, let running work end for up to `seconds`, then end it as DRAINING.

        Returns:
            The models whose decoder is stuck in a call, which nothing can end; their calls are not ended.
        """
        self.draining.set()
        looms = (asyncio.to_thread(model.loom.drain, seconds) for model in self.models)
        ended, _ = await asyncio.gather(asyncio.gather(*looms), self.inspections.drain(seconds))
        await asyncio.sleep(0)  # the last deliveries were scheduled before the worker ended
        return [model for model, done in zip(self.models, ended, strict=True) if not done]
