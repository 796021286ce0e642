"""Makes automata of constraints, each in a process of its own, and remembers them.

A process ends when it has used its time or its memory, and when nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections import OrderedDict
from weakref import WeakValueDictionary

import numpy as np

from charloom.bundle import Unit, Vocabulary
from charloom.engine.constraints.constraint import BadConstraint, Constraint
from charloom.engine.decoding.automaton import Automaton

SECONDS = 5
"""Of a processor, for one constraint."""
LONGEST = 60.0
"""Seconds on the clock: a busy machine gives a process little of its processors."""
MEMORY = 2**30
"""Bytes of address space of a process; its libraries take a third."""
AT_ONCE = 2
"""Processes; further constraints wait."""
_SHORTEN = "shorten it, or its repetitions"
REMEMBERED = 2**26
"""Bytes of the automata that are kept for later calls."""


class Compiler:
    """Makes automata, for one event loop.

    Args:
        seconds: time of a processor for one constraint
    """

    def __init__(self, seconds: int = SECONDS) -> None:
        self._seconds = seconds
        self._places = asyncio.Semaphore(AT_ONCE)
        self._made: OrderedDict[bytes, Automaton] = OrderedDict()
        """Those that were used last at the end."""
        self._bytes = 0
        self._locks: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        """Of those that are being made."""

    async def automaton(self, constraint: Constraint, vocabulary: Vocabulary, never: tuple[int, ...]) -> Automaton:
        """The automaton of a constraint over a model's symbols.

        Args:
            constraint: what is allowed
            vocabulary: of the model
            never: tokens that are not to be written

        Raises:
            BadConstraint: it cannot be kept.
        """
        symbols = [vocabulary.symbol(token).decode("latin-1") for token in range(vocabulary.size)]
        for token in never:
            symbols[token] = ""
        bytewise = vocabulary.unit is Unit.BYTE
        asked = {"kind": constraint.kind.value, "content": constraint.content, "symbols": symbols, "bytewise": bytewise}
        key = hashlib.sha256(json.dumps(asked).encode()).digest()
        if (known := self._known(key)) is not None:
            return known
        # One call makes it where several ask for it; if that one is cancelled, the next does.
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            if (known := self._known(key)) is not None:
                return known
            content = json.dumps(asked | {"seconds": self._seconds, "bytes": MEMORY}).encode()
            async with self._places:
                made = await self._make(content, len(symbols))
            self._made[key] = made
        self._bytes += made.nbytes
        while self._bytes > REMEMBERED:
            _, forgotten = self._made.popitem(last=False)
            self._bytes -= forgotten.nbytes
        return made

    def _known(self, key: bytes) -> Automaton | None:
        if key in self._made:
            self._made.move_to_end(key)
        return self._made.get(key)

    async def _make(self, asked: bytes, symbols: int) -> Automaton:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "charloom.engine.constraints.child",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # each thread would take address space
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
        if "problem" in answer:
            raise BadConstraint(answer["problem"])
        numbers, states = np.frombuffer(arrays, np.int32), answer["states"]
        return Automaton(numbers[states:].reshape(states, symbols), numbers[:states])
