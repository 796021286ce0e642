"""The engine: assembles its parts, and has the operations that need several of them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

from charloom.bundle import Bundle, DecoderKind, Task
from charloom.engine.calls.classification import Classifying
from charloom.engine.calls.conversation import Conversation
from charloom.engine.calls.generating import Generating
from charloom.engine.calls.inspection import Inspections
from charloom.engine.calls.moving import Moving
from charloom.engine.calls.reading import Reading
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.calls.starting import Starting
from charloom.engine.calls.suggesting import Suggesting
from charloom.engine.calls.watching import Watching
from charloom.engine.calls_in_progress import CallsInProgress
from charloom.engine.constraints.compiler import Compiler
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.limits import Limits
from charloom.engine.loom.model import Model, TriedModel, memory_of
from charloom.engine.loom.models import Models
from charloom.engine.memory_budget import MemoryBudget
from charloom.engine.rates import Ledger, Rates
from charloom.engine.sessions.sealed_states import SealedStates
from charloom.engine.sessions.sealing import Sealer, new_keys
from charloom.engine.sessions.sessions import Sessions
from charloom.engine.sessions.stores.memory import MemoryStore
from charloom.engine.sessions.stores.observed import ObservedStore
from charloom.engine.sessions.stores.store import Store
from charloom.engine.sessions.tenants import Tenants
from charloom.engine.telemetry import Totals


class Engine:
    """Serves models. Make it inside the event loop that will use it.

    Args:
        models: bundles with their opened decoders; the first is the default
        limits: what to accept
        store: keeps sessions; None: in memory
        sealer: seals states; None: one with a new key
        budget: the memory that calls may use; None: without limit
        ledger: shares the counts of tokens per second between servers; None: this server counts alone

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
        ledger: Ledger | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.draining = asyncio.Event()
        """Set when it takes no more work."""
        self._models = Models(models, self.limits)
        self._stuck: list[Model] = []
        """Removed models with a decoder call that does not return."""
        store = MemoryStore(self.limits.max_sessions) if store is None else store
        self._sealed = sealed = SealedStates(sealer or Sealer(new_keys()), self._models, self.limits)
        self.totals = Totals()
        """Counts the calls that transports report, and the operations of the session store."""
        observed = ObservedStore(store, self.totals)
        self.sessions = Sessions(observed, self._models, self.limits, sealed)
        self.tenants = Tenants(observed, self.sessions, sealed, self.limits)
        self.rates = Rates(ledger)
        """The token rates of callers."""
        self._calls = CallsInProgress(self.rates)
        compiler = Compiler()
        self._starting = Starting(self._models, self.sessions, sealed, self.limits, self._calls, compiler)
        self.budget = budget or MemoryBudget()
        self.reading = Reading(self._starting, self.sessions, self.limits, self.budget, self.rates, self._calls)
        self.suggesting = Suggesting(self._starting, self.reading, compiler, self.budget, self.limits)
        self.classifying = Classifying(self._models, self.reading, self._calls, self.totals)
        self.watching = Watching(self._models, self.sessions, self.reading, self._calls, self.totals)
        self.moving = Moving(self._models, self.sessions, self.reading, self._calls)
        self.inspections = Inspections(self._starting, self.reading, self.rates)
        self.generating = Generating(self._starting, self.reading, sealed, self.budget, self.limits, self.rates)

    @property
    def models(self) -> list[Model]:
        """The serving models, the default one first."""
        return list(self._models)

    @property
    def order(self) -> list[str]:
        """Names of models in their order; see `Models.order`."""
        return self._models.order

    def put_first(self, names: Sequence[str]) -> None:
        """Move these names to the front of the order; see `Models.put_first`."""
        self._models.put_first(names)

    @property
    def draining_models(self) -> list[Model]:
        """The models that were replaced or unloaded, and not removed yet."""
        return list(self._models.draining)

    @property
    def largest_state(self) -> int:
        """Bytes of one state of the loaded model with the largest states."""
        return max(4 * math.prod(model.decoder.shape[:3]) for model in self._models.everything)

    def model(self, name: str, task: Task | None = None) -> Model:
        """The model of this name, to describe it; empty for the default one. Raises as `Models.find`."""
        return self._models.find(name, task)

    def model_of_state(self, state: bytes, tenant: str) -> Model:
        """The model that a sealed state belongs to; raises as `SealedStates.unseal`."""
        return self._sealed.unseal(state, tenant).model

    async def converse(self, request: GenerationRequest) -> Conversation:
        """Begin a text that is steered while it is generated; see `Conversation.begin`."""
        return await Conversation.begin(request, self._starting, self.generating, self.reading, self.limits)

    @property
    def usage(self) -> float:
        """The used fraction, from 0 to 1, of the places of a model or of the memory for calls, whichever is largest."""
        parts = [model.loom.taken_places / model.loom.places for model in self.models]
        if self.budget.most:
            parts.append(self.budget.held / self.budget.most)
        return min(1.0, max(parts))

    @property
    def more_model_memory(self) -> int:
        """Growth of its models' memory since the start, in bytes; see `Models.more_memory`."""
        return self._models.more_memory

    def require_room(self, bundle: Bundle, kind: DecoderKind) -> None:
        """Check that there is memory for a further model.

        Raises:
            ModelTooLarge: there is not.
        """
        self.budget.require_room(bundle.manifest.name, memory_of(bundle, kind, self.limits))

    def serve(self, tried: TriedModel, grace: float) -> Model:
        """Send new calls to a model; see `Models.serve`."""
        return self._models.serve(tried, grace)

    def serve_again(self, digest: str, grace: float) -> Model | None:
        """Send new calls to a draining model again; see `Models.serve_again`."""
        return self._models.serve_again(digest, grace)

    def drains(self, digest: str) -> bool:
        """Whether a model of this digest is draining, so that it can serve again."""
        return any(model.digest == digest for model in self._models.draining)

    def require_another(self, name: str) -> None:
        """Check that a model can be unloaded; see `Models.require_another`."""
        self._models.require_another(name)

    def unload(self, name: str, grace: float) -> Model:
        """Let a model drain without replacing it; see `Models.unload`."""
        return self._models.unload(name, grace)

    async def let_go_of_models(self) -> list[Model]:
        """Remove the models whose grace has ended and that no call uses, and end their looms, to free their memory.

        Returns:
            The removed models.
        """
        over = list(self._models.let_go())
        for model in over:
            self.inspections.forget(model)
            if not await asyncio.to_thread(model.loom.drain, 0.0):
                self._stuck.append(model)
        return over

    @property
    def working(self) -> bool:
        """Whether all workers of all looms are alive, and no decoder call is stuck."""
        return not self._stuck and all(model.loom.working for model in self._models.everything)

    def end_now(self) -> None:
        """End running calls at once; for use while draining."""
        self._calls.end_now()
        for model in self._models.everything:
            model.loom.end_now()
        self.inspections.end_now()

    async def drain(self, seconds: float) -> list[Model]:
        """Refuse new calls, let running ones end for up to `seconds`, then end them as DRAINING.

        Returns:
            The models with a stuck decoder call, which cannot be ended; nor are the calls that wait for it.
        """
        self.draining.set()
        end = time.monotonic() + seconds
        await self._calls.drain(seconds)
        left = max(0.0, end - time.monotonic())
        models = self._models.everything
        looms = (asyncio.to_thread(model.loom.drain, left) for model in models)
        ended, _ = await asyncio.gather(asyncio.gather(*looms), self.inspections.drain(left))
        await asyncio.sleep(0)  # the last deliveries were scheduled before the worker ended
        return self._stuck + [model for model, done in zip(models, ended, strict=True) if not done]
