"""A session as a value: its state, and the states that it can go back to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from charloom.bundle import Vocabulary
from charloom.engine.decoding.decoder import Ints, Shape
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import PositionNotKept


@dataclass(frozen=True, slots=True)
class History:
    """Some earlier states, and all tokens since the first of them: any position in between can be had again.

    A state between two checkpoints is that of the earlier one, with the tokens since then still to be read: the network
    reads them again at the next call, which gives the same bits.
    """

    checkpoints: tuple[Snapshot, ...]
    """Oldest first, at least one."""
    tokens: bytes
    """From the first checkpoint up to the present."""
    kind: str
    """NumPy's name of the type of `tokens`: the smallest that holds the vocabulary, little-endian."""

    @classmethod
    def fresh(cls, shape: Shape, start_token: int, *, adaptive: bool = False) -> History:
        """Of the zero state: nothing to go back to."""
        return cls.starting(Snapshot.fresh(shape, start_token, seed=0, adaptive=adaptive), shape)

    @classmethod
    def starting(cls, snapshot: Snapshot, shape: Shape) -> History:
        """Nothing to go back to yet."""
        bits = (shape.vocabulary - 1).bit_length()
        return cls((snapshot,), b"", "<u1" if bits <= 8 else "<u2" if bits <= 16 else "<u4")

    @property
    def earliest(self) -> int:
        """The first position that can be had again."""
        return self.checkpoints[0].position

    @property
    def position(self) -> int:
        """The present one."""
        return self.earliest + len(self.tokens) // self.token_bytes

    @property
    def token_bytes(self) -> int:
        """What each of `tokens` takes."""
        return int(self.kind[-1])

    def between(self, start: int, end: int) -> Ints:
        """The tokens from one kept position to another."""
        return np.frombuffer(self._token_bytes(start, end), self.kind).astype(np.int64)

    def _token_bytes(self, start: int, end: int) -> bytes:
        width, first = self.token_bytes, self.earliest
        return self.tokens[(start - first) * width : (end - first) * width]

    def until(self, position: int) -> History:
        """The history as it was at an earlier position.

        Raises:
            PositionNotKept: it is not kept any more, or in the future.
        """
        if not self.earliest <= position <= self.position:
            raise PositionNotKept(position, self.earliest, self.position)
        kept = tuple(checkpoint for checkpoint in self.checkpoints if checkpoint.position <= position)
        return History(kept, self._token_bytes(self.earliest, position), self.kind)

    def present(self, seed: int, vocabulary: Vocabulary) -> Snapshot:
        """The state at the end of it."""
        last = self.checkpoints[-1]
        unread = self.between(last.position, self.position).tolist()
        decoder = vocabulary.decoder(last.tail)
        decoder.feed(unread)
        return replace(last, pending=(*last.pending, *unread), position=self.position, seed=seed, tail=decoder.tail)

    def text(self, vocabulary: Vocabulary) -> str:
        """All that is kept of the text; bytes of an unfinished last character are left out."""
        decoder = vocabulary.decoder(self.checkpoints[0].tail)
        return decoder.feed(self.between(self.earliest, self.position).tolist())

    def grown(self, tokens: Sequence[int], states: Sequence[Snapshot], keep: int, call: Call | None = None) -> History:
        """The history after some more tokens.

        Args:
            tokens: what was read and generated
            states: those on the way that may become checkpoints, oldest first, the first one before all tokens
            keep: positions to keep at least; also those since the first of `states` are
            call: the call that they belong to; those since it began are kept, however often it was resumed
        """
        everything = replace(self, tokens=self.tokens + np.asarray(tokens, self.kind).tobytes())
        present = everything.position
        checkpoints = list(self.checkpoints)
        for state in states:
            if checkpoints[-1].position + spacing(keep) <= state.position < present:
                checkpoints.append(state)
        floor = min(present - keep, states[0].position, states[0].position if call is None else call.start)
        while len(checkpoints) > 1 and checkpoints[1].position <= floor:
            del checkpoints[0]
        # Between the first one and the last few, tokens are enough.
        while len(checkpoints) > 2 and checkpoints[2].position <= present - keep:
            del checkpoints[1]
        changed = [*map(id, checkpoints)] != [*map(id, self.checkpoints)]
        kept = tuple(checkpoints) if changed else self.checkpoints  # which many sessions may share
        return History(kept, everything._token_bytes(checkpoints[0].position, present), self.kind)


def long_memory(state_bytes: int, token_bytes: int, keep: int) -> int:
    """About how many bytes a session of a long text takes, see `Session.memory`.

    Args:
        state_bytes, token_bytes: of one state, and of one token in its history
        keep: positions to keep at least
    """
    return FIELDS + 3 * state_bytes + 2 * spacing(keep) * token_bytes  # the present, two checkpoints, tokens since


def spacing(keep: int) -> int:
    """Positions between two checkpoints where `keep` positions are to be kept."""
    return max(keep, 256)


FIELDS = 1500
"""Bytes of a session besides its states and tokens, in the store that keeps it in memory."""


class Key(NamedTuple):
    """What a session is found by: ids are unique within a tenant."""

    tenant: str
    id: str


class NewSession(NamedTuple):
    """A session that a call makes first, if there never was one."""

    time_to_live: timedelta | None = None
    """None: the default."""
    adaptive: bool = False
    """Whether it learns from its text."""


class Origin(NamedTuple):
    """Where a session comes from, if not from the zero state."""

    session_id: str
    """Empty for one that was blended or imported."""
    position: int


class Call(NamedTuple):
    """The call that changed a session last, so that it can be resumed."""

    id: str
    start: int
    """Position before it."""
    seed: int


@dataclass(frozen=True, slots=True)
class Session:
    """A snapshot under an id. Every change makes a new value with the next version."""

    id: str
    tenant: str
    model: str
    model_digest: str
    snapshot: Snapshot
    history: History
    version: int
    created: datetime
    updated: datetime
    time_to_live: timedelta
    expires: datetime
    origin: Origin | None = None
    call: Call | None = None
    notes: bytes = b""
    """What a call keeps beside the state, in a form of its own; see `calls.watching`."""

    @property
    def memory(self) -> int:
        """About how many bytes it takes, if it shares no state with another session."""
        snapshots = (self.snapshot, *self.history.checkpoints)
        states = {id(one.state): one.state.nbytes + one.learnt_bytes for one in snapshots}
        behind = {id(one.pending): 8 * one.behind for one in snapshots}
        return FIELDS + sum(states.values()) + sum(behind.values()) + len(self.history.tokens) + len(self.notes)

    @property
    def adaptive(self) -> bool:
        """Whether it learns from its text."""
        return self.snapshot.learnt is not None

    @property
    def key(self) -> Key:
        """What it is found by."""
        return Key(self.tenant, self.id)

    def renewed(self, now: datetime) -> Session:
        """The same, with its whole time to live ahead."""
        return replace(self, expires=now + self.time_to_live)

    def changed(self, now: datetime, snapshot: Snapshot, history: History, call: Call | None = None) -> Session:
        """The next version; the same one where the call that made it goes on."""
        again = call is not None and call == self.call
        return replace(
            self,
            expires=now + self.time_to_live,
            snapshot=snapshot,
            history=history,
            version=self.version + (not again),
            updated=now,
            call=call,
        )
