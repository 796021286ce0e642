"""Looking inside the network while it reads a text.

Knows: states before a text, the inspector that reads it, how much of that may happen at once. Does not know: graphs,
the loom, which goes on beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from charloom.bundle import INSPECTOR_FILE
from charloom.engine.decoder import Floats, Ints
from charloom.engine.errors import InvalidRequest, ModelNotInspectable, Overloaded
from charloom.engine.inspector import Activations, Inspector
from charloom.engine.models import Model, Models
from charloom.engine.requests import MOST_ALTERNATIVES, Limits, ReadingRequest, check_text, within
from charloom.engine.session import Snapshot
from charloom.engine.sessions import Sessions

MOST_INSPECTED = 4096
"""Longest text, in characters: two layers of 512 make a hundred megabytes of it."""
MOST_RUNNING = 8
"""Inspections at a time; further ones are told to come back."""
CHUNK = 64
"""Tokens in one call of the inspector: what is in memory at a time, and how long other inspections wait."""


@dataclass(frozen=True)
class InspectionRequest(ReadingRequest):
    """A text to read with the network laid open."""

    layers: Sequence[int] = ()
    """Which ones to show; none stands for all."""
    top_next: int = 0
    """How many of the most probable tokens to tell after each token."""


class InspectedToken(NamedTuple):
    """What one token did; L are the layers that were asked for."""

    token: int
    logprob: float
    """Of the token, after what came before it."""
    position: int
    """After it."""
    gates: Floats
    """[L, 4, H]: i, f, g, o"""
    c: Floats
    """[L, H]"""
    h: Floats
    """[L, H]"""
    distribution: Floats
    """[V]: log-probabilities of what comes after it"""
    next: Sequence[tuple[int, float]]
    """The most probable tokens after it with their log-probabilities, the most probable first."""


@dataclass(frozen=True)
class Inspection:
    """A text that is being read with the network laid open."""

    model: Model
    layers: Sequence[int]
    """Those that are shown, ascending."""
    tokens: AsyncIterator[InspectedToken]
    """What each token does, as it is read. It may raise Overloaded first."""


class Inspections:
    """Inspects an engine's models, from the states of its sessions, which stay as they are."""

    def __init__(self, models: Models, sessions: Sessions, limits: Limits) -> None:
        self._models = models
        self._sessions = sessions
        self._limits = limits
        self._inspectors: dict[str, Inspector] = {}
        self.running = 0
        """Inspections that have begun to read and have not ended."""
        self._turn = asyncio.Lock()
        """One call of an inspector at a time, so that whoever generates keeps the other cores."""

    async def inspect(self, request: InspectionRequest) -> Inspection:
        """Begin to read a text; `top_logprobs` of the request does not apply.

        Raises:
            InvalidRequest, ModelNotFound, SessionNotFound, SessionOfAnotherModel, StoreUnavailable, Overloaded,
            Draining: as their names say.
            ModelNotInspectable: the bundle has no inspector.
        """
        if request.key.id:
            session = await self._sessions.get(request.key)
            model, start = self._models.of(session, request.model), session.snapshot
        else:
            model = self._models.named(request.model)
            start = model.fresh(0)
        if INSPECTOR_FILE not in model.bundle.manifest.files:
            raise ModelNotInspectable(model.name, INSPECTOR_FILE)
        if len(request.text) > MOST_INSPECTED:
            raise InvalidRequest(
                "text",
                f"it has {len(request.text)} characters, more than {MOST_INSPECTED}; inspect it in parts, each from a "
                "session that was fed the ones before",
            )
        text = check_text("text", request.text, request.skip_unknown, self._limits, model.vocabulary)
        count = model.decoder.shape.layers
        for place, layer in enumerate(request.layers):
            within(f"layers[{place}]", layer, 0, count - 1)
        within("top_next", request.top_next, 0, MOST_ALTERNATIVES)
        model.loom.admit()
        layers = sorted(set(request.layers)) or list(range(count))
        return Inspection(model, layers, self._read(model, text, start, layers, request.top_next))

    async def _read(
        self, model: Model, text: Ints, start: Snapshot, layers: Sequence[int], top: int
    ) -> AsyncIterator[InspectedToken]:
        if not len(text):
            return
        if self.running >= MOST_RUNNING:
            raise Overloaded(f"{self.running} inspections are running already", retry_after=1.0)
        tokens = np.concatenate([np.array(start.pending, np.int64), text])
        before = start.position - len(start.pending)
        state, expected = start.state, np.zeros(0, np.float32)
        self.running += 1
        try:
            for first in range(0, len(tokens), CHUNK):
                chunk = tokens[first : first + CHUNK]
                async with self._turn:
                    inspector = await self._inspector(model)
                    found, distributions = await asyncio.to_thread(_run, inspector, chunk, state)
                state = np.stack([found.h[-1], found.c[-1]])
                for place, token in enumerate(chunk.tolist()):
                    if first + place >= len(start.pending):
                        yield InspectedToken(
                            token,
                            float(expected[token]),
                            before + first + place + 1,
                            found.gates[place, layers],
                            found.c[place, layers],
                            found.h[place, layers],
                            distributions[place],
                            _most_probable(distributions[place], top),
                        )
                    expected = distributions[place]
        finally:
            self.running -= 1

    async def _inspector(self, model: Model) -> Inspector:
        """Opened when it is needed first: a server that nobody asks keeps no second copy of the weights."""
        if model.name not in self._inspectors:
            self._inspectors[model.name] = await asyncio.to_thread(Inspector, model.bundle)
        return self._inspectors[model.name]


def _run(inspector: Inspector, tokens: Ints, state: Floats) -> tuple[Activations, Floats]:
    """What the tokens [T] do, and the log-probabilities [T, V] of what comes after each."""
    found = inspector.run(tokens, state)
    logits = found.logits - found.logits.max(axis=1, keepdims=True)
    return found, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def _most_probable(distribution: Floats, count: int) -> list[tuple[int, float]]:
    tokens = np.argsort(-distribution, kind="stable")[:count].tolist() if count else []
    return [(token, float(distribution[token])) for token in tokens]
