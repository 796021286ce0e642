"""Makes automata of constraints, each in a process of its own, and remembers them.

A process ends when it has used its time or its memory, and when nobody waits for it any more. Where several callers
wait, the one that has fewest processes gets the next.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import signal
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from weakref import WeakValueDictionary

import numpy as np

from charloom.bundle import Unit, Vocabulary
from charloom.engine.constraints.constraint import BadConstraint, Constraint
from charloom.engine.decoding.automaton import Automaton
from charloom.engine.fair_queue import FairQueue
from charloom.engine.python_process import python_running
from charloom.engine.shares import Share, current_share

log = logging.getLogger(__name__)

SECONDS = 5
"""Of a processor, for one constraint."""
LONGEST = 60.0
"""Seconds on the clock: a busy machine gives a process little of its processors."""
MEMORY = 2**30
"""Bytes of address space of a process; its libraries take a third."""
AT_ONCE = 2
"""Processes; further constraints wait."""
_ENVIRONMENT = ("PATH", "PYTHON", "LD_LIBRARY_PATH", "DYLD_", "LANG", "LC_", "OPENBLAS", "OMP_", "MKL_", "TMPDIR")
"""With what the names begin of what a process gets of the environment: the rest, as passwords, it does not need."""
_SHORTEN = "shorten it, or its repetitions"
REMEMBERED = 2**26
"""Bytes of the automata, and refusals, that are kept for later calls."""
REFUSED_SECONDS = 60.0
"""How long a refusal is kept: with more time or memory to itself, a process may come further."""


@dataclass(eq=False)
class _Job:
    """An automaton that is to be made."""

    share: Share = field(default_factory=current_share)
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it has a place."""


@dataclass(frozen=True)
class _Refusal:
    problem: str
    until: float

    @property
    def nbytes(self) -> int:
        return 256 + len(self.problem)


class Compiler:
    """Makes automata, for one event loop.

    Args:
        seconds: time of a processor for one constraint
    """

    def __init__(self, seconds: int = SECONDS) -> None:
        self._seconds = seconds
        self._waiting: FairQueue[_Job] = FairQueue(sys.maxsize)  # each is a call, and calls are limited before
        self._running = 0
        self._made: OrderedDict[bytes, Automaton | _Refusal] = OrderedDict()
        """Those that were used last at the end."""
        self._bytes = 0
        self._locks: WeakValueDictionary[tuple[bytes, str], asyncio.Lock] = WeakValueDictionary()
        """Of those that are being made, for a caller: nobody waits where another one does."""

    async def automaton(self, constraint: Constraint, vocabulary: Vocabulary, never: tuple[int, ...]) -> Automaton:
        """The automaton of a constraint over a model's symbols.

        Args:
            constraint: what is allowed
            vocabulary: of the model
            never: tokens that are not to be written

        Raises:
            BadConstraint: it cannot be kept.
        """
        key = _key(constraint, vocabulary, never)
        if (known := self._known(key)) is not None:
            return known
        # One call makes it where several of a caller ask for it; if that one is cancelled, the next does.
        lock = self._locks.setdefault((key, current_share().name), asyncio.Lock())
        async with lock, self._place():
            if (known := self._known(key)) is not None:
                return known
            content = await asyncio.to_thread(_written, constraint, vocabulary, never)
            try:
                made = await self._make(content, vocabulary.size)
            except BadConstraint as problem:
                self._remember(key, _Refusal(str(problem), monotonic() + REFUSED_SECONDS))
                raise
            self._remember(key, made)
            return made

    def _known(self, key: bytes) -> Automaton | None:
        """What was made of a constraint; raises what was said of one that was refused."""
        known = self._made.get(key)
        if isinstance(known, _Refusal):
            if monotonic() < known.until:
                raise BadConstraint(known.problem)
            return None
        if known is not None:
            self._made.move_to_end(key)
        return known

    def _remember(self, key: bytes, made: Automaton | _Refusal) -> None:
        if (before := self._made.pop(key, None)) is not None:  # a refusal of long ago, or another caller was as fast
            self._bytes -= before.nbytes
        self._made[key] = made
        self._bytes += made.nbytes
        while self._bytes > REMEMBERED:
            _, forgotten = self._made.popitem(last=False)
            self._bytes -= forgotten.nbytes

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Wait for a place, and have it."""
        job = _Job()
        self._waiting.put(job)
        self._give_places()
        try:
            await job.turn.wait()
            yield
        finally:
            if job.turn.is_set():
                self._running -= 1
                self._waiting.leave(job)
            else:
                self._waiting.remove(job)
            self._give_places()

    def _give_places(self) -> None:
        while (free := AT_ONCE - self._running) > 0 and (job := self._waiting.take(AT_ONCE, free)) is not None:
            self._running += 1
            job.turn.set()

    async def _make(self, asked: bytes, symbols: int) -> Automaton:
        process = await asyncio.create_subprocess_exec(
            *python_running("charloom.engine.constraints.child"),
            str(self._seconds),
            str(MEMORY),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=_environment(),
        )
        try:
            told, _ = await asyncio.wait_for(process.communicate(asked), LONGEST)
        except asyncio.TimeoutError:
            told = b""
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            raise BadConstraint(f"it takes more than {self._seconds} s to work out what it allows; {_SHORTEN}")
        head, _, arrays = told.partition(b"\n")
        if process.returncode:
            raise RuntimeError(f"the process that makes automata ended with {process.returncode}")
        answer = json.loads(head)
        if "fault" in answer:
            log.error("a constraint cannot be kept because of a fault: %s", answer["fault"])
        if "problem" in answer:
            raise BadConstraint(answer["problem"])
        numbers, states = np.frombuffer(arrays, np.int32), answer["states"]
        return Automaton(numbers[states:].reshape(states, symbols), numbers[:states])


def _environment() -> dict[str, str]:
    needed = {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)}
    return needed | {"OPENBLAS_NUM_THREADS": "1"}  # each thread would take address space


def _key(constraint: Constraint, vocabulary: Vocabulary, never: tuple[int, ...]) -> bytes:
    """The same for constraints of which the same is made."""
    asked = json.dumps([constraint.kind.value, constraint.content, vocabulary.unit.value]).encode()
    tokens = np.array(never, np.int64).tobytes()
    return hashlib.sha256(vocabulary.symbols_digest + hashlib.sha256(tokens).digest() + asked).digest()


def _written(constraint: Constraint, vocabulary: Vocabulary, never: tuple[int, ...]) -> bytes:
    """What the process is asked. Of hundreds of thousands of symbols it takes a tenth of a second."""
    symbols = [vocabulary.symbol(token).decode("latin-1") for token in range(vocabulary.size)]
    for token in never:
        symbols[token] = ""
    asked = {"kind": constraint.kind.value, "content": constraint.content, "symbols": symbols}
    return json.dumps(asked | {"bytewise": vocabulary.unit is Unit.BYTE}).encode()
