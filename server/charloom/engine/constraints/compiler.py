"""Compiles constraints to automata, each in a separate process, and caches them.

A process is ended when it has used its time or its memory, or when its call is cancelled. If several callers wait, the
one that has fewest processes gets the next.
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
"""Processor time, in seconds, for one constraint."""
LONGEST = 60.0
"""Elapsed time, in seconds, for one constraint: on a busy machine a process may get little processor time."""
MEMORY = 2**30
"""Bytes of address space of a process; its libraries take a third."""
AT_ONCE = 2
"""Most processes at a time; further constraints wait."""
_ENVIRONMENT = ("PATH", "PYTHON", "LD_LIBRARY_PATH", "DYLD_", "LANG", "LC_", "OPENBLAS", "OMP_", "MKL_", "TMPDIR")
"""Prefixes of the environment variables that a process gets. It needs no others, and they may be secrets."""
_SHORTEN = "shorten it, or its repetitions"
REMEMBERED = 2**26
"""Most bytes of cached automata and refusals."""
REFUSED_SECONDS = 60.0
"""Seconds for which a refusal is cached; on a less busy machine, a later process may succeed."""


@dataclass(eq=False)
class _Job:
    """A constraint that waits for a process, or has one."""

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
    """Compiles constraints, for one event loop.

    Args:
        seconds: processor time for one constraint
    """

    def __init__(self, seconds: int = SECONDS) -> None:
        self._seconds = seconds
        self._waiting: FairQueue[_Job] = FairQueue(sys.maxsize)  # unlimited: the number of calls is limited elsewhere
        self._running = 0
        self._made: OrderedDict[bytes, Automaton | _Refusal] = OrderedDict()
        """The cache, least recently used first."""
        self._bytes = 0
        self._locks: WeakValueDictionary[tuple[bytes, str], asyncio.Lock] = WeakValueDictionary()
        """Locks of constraints in work, for each caller: no caller waits for another caller's turn."""

    async def automaton(self, constraint: Constraint, vocabulary: Vocabulary, never: tuple[int, ...]) -> Automaton:
        """Compile a constraint to an automaton over a model's symbols, or get it from the cache.

        Args:
            constraint: what is allowed
            vocabulary: of the model
            never: forbidden tokens

        Raises:
            BadConstraint: the constraint is not supported, or cannot be met.
        """
        key = _key(constraint, vocabulary, never)
        if (known := self._known(key)) is not None:
            return known
        # If several calls of a caller ask for the same one, the first compiles it; if it is cancelled, the next does.
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
        """The cached automaton of a constraint, or None; raises BadConstraint for a cached refusal."""
        known = self._made.get(key)
        if isinstance(known, _Refusal):
            if monotonic() < known.until:
                raise BadConstraint(known.problem)
            return None
        if known is not None:
            self._made.move_to_end(key)
        return known

    def _remember(self, key: bytes, made: Automaton | _Refusal) -> None:
        if (before := self._made.pop(key, None)) is not None:  # an outdated refusal, or made for another caller too
            self._bytes -= before.nbytes
        self._made[key] = made
        self._bytes += made.nbytes
        while self._bytes > REMEMBERED:
            _, forgotten = self._made.popitem(last=False)
            self._bytes -= forgotten.nbytes

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Wait for a place among the processes, and hold it."""
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
    """The key in the cache; equal for constraints that give the same automaton."""
    asked = json.dumps([constraint.kind.value, constraint.content, vocabulary.unit.value]).encode()
    tokens = np.array(never, np.int64).tobytes()
    return hashlib.sha256(vocabulary.symbols_digest + hashlib.sha256(tokens).digest() + asked).digest()


def _written(constraint: Constraint, vocabulary: Vocabulary, never: tuple[int, ...]) -> bytes:
    """The input of the process. With hundreds of thousands of symbols, making it takes a tenth of a second."""
    symbols = [vocabulary.symbol(token).decode("latin-1") for token in range(vocabulary.size)]
    for token in never:
        symbols[token] = ""
    asked = {"kind": constraint.kind.value, "content": constraint.content, "symbols": symbols}
    return json.dumps(asked | {"bytewise": vocabulary.unit is Unit.BYTE}).encode()
