"""Shows the gates and states of the network while it reads a text, in a thread beside the loom."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from charloom.bundle import INSPECTOR_FILE, BundleError
from charloom.engine.calls.price import of_inspecting
from charloom.engine.calls.reading import Reading
from charloom.engine.calls.requests import ReadingRequest, check_text, within
from charloom.engine.calls.starting import Starting
from charloom.engine.decoding.decoder import Floats, Ints
from charloom.engine.decoding.inspector import Inspector
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import (
    Draining,
    EngineError,
    InvalidRequest,
    ModelNotInspectable,
    Overloaded,
    ReaderStalled,
)
from charloom.engine.limits import MOST_ALTERNATIVES, MOST_INSPECTED, MOST_INSPECTIONS
from charloom.engine.loom.model import Model
from charloom.engine.rates import Rates
from charloom.engine.shares import current_share

log = logging.getLogger(__name__)

CHUNK = 64
"""Most tokens in one call of the inspector: bounds the memory, and the time that other inspections wait."""
CHUNK_LOGITS = 2**20
"""Most logits in one call of the inspector: with a large vocabulary it has fewer tokens."""
PATIENCE = 5.0
"""Seconds after which an inspection whose reader does not take the next token may lose its place to another."""


@dataclass(frozen=True)
class InspectionRequest(ReadingRequest):
    """A text to read, and what to show of the network."""

    layers: Sequence[int] = ()
    """The layers to show; empty: all."""
    top_next: int = 0
    """Number of most probable next tokens to return after each token."""
    distribution: bool = False
    """Whether to return the log-probabilities of all next tokens after each token."""


class InspectedToken(NamedTuple):
    """The network at one token; L counts only the layers that were asked for."""

    token: int
    logprob: float
    """Of the token, given the text before it."""
    position: int
    """Position after it."""
    gates: Floats
    """[L, G, H], after their sigmoid or tanh, in the manifest's order of gates"""
    state: Floats
    """[A, L, H], after the token"""
    distribution: Floats | None
    """[V]: log-probabilities of the next token; None if they were not asked for"""
    next: Sequence[tuple[int, float]]
    """The most probable next tokens with their log-probabilities, most probable first."""


@dataclass(frozen=True)
class Inspection:
    """A running inspection."""

    model: Model
    layers: Sequence[int]
    """The layers that are shown, ascending."""
    length: int
    """Number of tokens of the text."""
    tokens: AsyncIterator[InspectedToken]
    """The tokens as they are read. Reading, and counting tokens, starts when the first is awaited. That may raise as
    `Reading.read`, TooMuchMemory or ModelNotInspectable; any may raise ReaderStalled or Draining."""


class Inspections:
    """Inspects an engine's models, from the states of its sessions, which do not change.

    One thread computes all inspections, so that generation keeps the other cores.

    Args:
        starting: decides where each call starts
        reading: reads the pending tokens of a state first
        rates: the token rates of callers
    """

    def __init__(self, starting: Starting, reading: Reading, rates: Rates) -> None:
        self._starting = starting
        self._reading = reading
        self._rates = rates
        self._inspectors: dict[Model, Inspector] = {}
        """Opened by the thread when first needed: a server without inspections keeps no second copy of the weights"""
        self._reported: set[Model] = set()
        """Models whose inspector could not be opened. The reason is logged; callers do not see the paths of bundles"""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inspection")
        self._thread.submit(bool)  # starts the thread now, not when the system may have none left
        self._places: list[_Place] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopped = False

    @property
    def running(self) -> int:
        """Number of inspections that have begun to read and have not ended."""
        return len(self._places)

    async def inspect(self, request: InspectionRequest) -> Inspection:
        """Prepare to read a text; `top_logprobs` of the request does not apply.

        Raises:
            InvalidRequest, ModelNotFound, SessionNotFound, SessionOfAnotherModel, StoreUnavailable, Draining: as their
            names say.
            ModelNotInspectable: the bundle has no inspector.
            Overloaded: too many calls are waiting.
        """
        start = await self._starting.reading(request)
        model = start.model
        if INSPECTOR_FILE not in model.bundle.manifest.files:
            raise ModelNotInspectable(
                model.name,
                f"its bundle has no {INSPECTOR_FILE}; export the model again, without --no-inspector, and serve that",
            )
        text = check_text("text", request.text, request.skip_unknown, self._reading.limits, model.vocabulary)
        if len(text) > MOST_INSPECTED:
            raise InvalidRequest(
                "text",
                f"it has {len(text)} tokens, more than {MOST_INSPECTED}; inspect it in parts, each from a session that "
                "was fed the ones before",
            )
        count = model.decoder.shape.layers
        if len(request.layers) > count:
            raise InvalidRequest("layers", f"it has {len(request.layers)} layers, the model {count}; give each once")
        for place, layer in enumerate(request.layers):
            within(f"layers[{place}]", layer, 0, count - 1)
        within("top_next", request.top_next, 0, MOST_ALTERNATIVES)
        model.loom.admit(current_share())
        layers = sorted(set(request.layers)) or list(range(count))
        tokens = self._read(model, text, start.snapshot, replace(request, layers=layers))
        return Inspection(model, layers, len(text), tokens)

    def forget(self, model: Model) -> None:
        """Close the inspector of a model that no call uses any more."""
        self._inspectors.pop(model, None)
        self._reported.discard(model)

    async def drain(self, seconds: float) -> None:
        """Wait up to `seconds` for running inspections, then end them as Draining, and refuse new ones."""
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):  # before Python 3.11 they are two
            await asyncio.wait_for(self._idle.wait(), seconds)
        self.end_now()
        self._stopped = True
        self._thread.shutdown(wait=False)

    def end_now(self) -> None:
        """End running inspections as Draining."""
        for place in list(self._places):
            self._end(place, Draining())

    async def _read(
        self, model: Model, text: Ints, start: Snapshot, request: InspectionRequest
    ) -> AsyncIterator[InspectedToken]:
        if not len(text):
            return
        start = await self._reading.caught_up(model, start)
        tokens = np.concatenate([np.array(start.pending, np.int64), text])
        unread = _Unread(tokens, start.position - len(start.pending), start.state)
        shape, gates = model.decoder.shape, len(model.bundle.manifest.cell.gates)
        place = self._place(of_inspecting(shape, gates, len(text), _chunk(shape.vocabulary)))
        try:
            self._rates.spend(current_share(), len(text))  # after `caught_up`, which waits until nothing is owed
            while len(unread.tokens):
                running = asyncio.get_running_loop().run_in_executor(self._thread, self._run, model, unread, request)
                found, unread = await running
                place.found.extend(token for token in found if token.position > start.position)
                del found  # so that `place.found` alone keeps the tokens, and frees them if the place is lost
                while place.problem is None and place.found:
                    place.waits_since = time.monotonic()
                    yield place.found.popleft()
                    place.waits_since = None
                if place.problem is not None:
                    raise place.problem
        finally:
            self._end(place, None)

    def _place(self, needed: int) -> _Place:
        """Take a place among the running inspections, and reserve memory; if all are taken, that of a stalled reader.

        Raises:
            TooMuchMemory, Overloaded, Draining: as their names say.
        """
        if self._stopped:
            raise Draining()
        self._reading.budget.require_possible(needed)
        if self.running >= MOST_INSPECTIONS:
            waiting = [place for place in self._places if place.waits_since is not None]
            longest = min(waiting, key=lambda place: place.waits_since or 0.0, default=None)
            if longest is None or time.monotonic() - (longest.waits_since or 0.0) < PATIENCE:
                raise Overloaded(f"{self.running} inspections are running already", retry_after=1.0)
            self._end(longest, ReaderStalled())
        place = _Place()
        place.memory.enter_context(self._reading.budget.held_for(needed))
        self._places.append(place)
        self._idle.clear()
        return place

    def _end(self, place: _Place, problem: EngineError | None) -> None:
        """Free a place; `problem` is raised to its reader at the next token."""
        if place in self._places:
            self._places.remove(place)
            place.problem = problem
            place.found.clear()
            place.memory.close()
        if not self._places:
            self._idle.set()

    def _run(self, model: Model, unread: _Unread, request: InspectionRequest) -> tuple[list[InspectedToken], _Unread]:
        """Read the next chunk of tokens; runs in the thread."""
        if model not in self._inspectors:
            try:
                self._inspectors[model] = Inspector(model.bundle)
            except BundleError as problem:
                if model not in self._reported:
                    self._reported.add(model)
                    log.error("model %s cannot be inspected: %s", model.name, problem)
                raise ModelNotInspectable(
                    model.name,
                    "its bundle was changed or moved while the server runs; reload the model, or load it from where it "
                    "is now",
                ) from problem
        size, layers = _chunk(model.decoder.shape.vocabulary), request.layers
        chunk = unread.tokens[:size]
        found = self._inspectors[model].run(chunk, unread.state)
        logits = found.logits - found.logits.max(axis=1, keepdims=True)
        distributions = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        befores = [unread.distribution, *distributions[:-1]]
        inspected = [
            InspectedToken(
                token,
                0.0 if before is None else float(before[token]),
                unread.position + number + 1,
                found.gates[number, layers],
                found.state[number][:, layers],
                distributions[number] if request.distribution else None,
                _most_probable(distributions[number], request.top_next),
            )
            for number, (token, before) in enumerate(zip(chunk.tolist(), befores, strict=True))
        ]
        position = unread.position + len(chunk)
        # Copies, so that the arrays of the whole chunk can be freed.
        return inspected, _Unread(unread.tokens[size:], position, found.state[-1].copy(), distributions[-1].copy())


class _Unread(NamedTuple):
    """The unread rest of a text, and the state before it."""

    tokens: Ints
    position: int
    """Position before the tokens"""
    state: Floats
    """[A, L, H], before the tokens"""
    distribution: Floats | None = None
    """[V]: log-probabilities of the first of the tokens; None before a pending token, which is not reported"""


class _Place:
    """A running inspection, as `Inspections` counts it."""

    def __init__(self) -> None:
        self.found: deque[InspectedToken] = deque()
        """Computed tokens that were not taken yet"""
        self.waits_since: float | None = None
        """When the last token was handed out; None while the reader waits for one"""
        self.problem: EngineError | None = None
        """The error with which it lost its place"""
        self.memory = contextlib.ExitStack()
        """Holds its reserved memory"""


def _chunk(vocabulary: int) -> int:
    """Most tokens in one call of the inspector."""
    return max(1, min(CHUNK, CHUNK_LOGITS // vocabulary))


def _most_probable(distribution: Floats, count: int) -> list[tuple[int, float]]:
    tokens = np.argsort(-distribution, kind="stable")[:count].tolist() if count else []
    return [(token, float(distribution[token])) for token in tokens]
