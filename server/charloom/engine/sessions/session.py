"""A session as a value: its state, and the history that it can be put back to."""

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
    """Some earlier states, and all tokens since the first of them, from which any state in between can be restored.

    The state at a position between two checkpoints is that of the earlier one, with the tokens since then pending. The
    network reads them again at the next call, which gives the same bits.
    """

    checkpoints: tuple[Snapshot, ...]
    """Oldest first, at least one."""
    tokens: bytes
    """From the first checkpoint up to the present."""
    kind: str
    """NumPy's name of the type of `tokens`: the smallest that holds the vocabulary, little-endian."""

    @classmethod
    def fresh(cls, shape: Shape, start_token: int, *, adaptive: bool = False) -> History:
        """The history of the zero state."""
        return cls.starting(Snapshot.fresh(shape, start_token, seed=0, adaptive=adaptive), shape)

    @classmethod
    def starting(cls, snapshot: Snapshot, shape: Shape) -> History:
        """A history that starts at this snapshot."""
        bits = (shape.vocabulary - 1).bit_length()
        return cls((snapshot,), b"", "<u1" if bits <= 8 else "<u2" if bits <= 16 else "<u4")

    @property
    def earliest(self) -> int:
        """The first position that can be restored."""
        return self.checkpoints[0].position

    @property
    def position(self) -> int:
        """The position at its end."""
        return self.earliest + len(self.tokens) // self.token_bytes

    @property
    def token_bytes(self) -> int:
        """Bytes of each token in `tokens`."""
        return int(self.kind[-1])

    def between(self, start: int, end: int) -> Ints:
        """The tokens from one kept position to another."""
        return np.frombuffer(self._token_bytes(start, end), self.kind).astype(np.int64)

    def _token_bytes(self, start: int, end: int) -> bytes:
        width, first = self.token_bytes, self.earliest
        return self.tokens[(start - first) * width : (end - first) * width]

    def until(self, position: int) -> History:
        """The history up to an earlier position.

        Raises:
            PositionNotKept: the position is no longer kept, or in the future.
        """
        if not self.earliest <= position <= self.position:
            raise PositionNotKept(position, self.earliest, self.position)
        kept = tuple(checkpoint for checkpoint in self.checkpoints if checkpoint.position <= position)
        return History(kept, self._token_bytes(self.earliest, position), self.kind)

    def present(self, seed: int, vocabulary: Vocabulary) -> Snapshot:
        """The state at the end of the history, with this seed."""
        last = self.checkpoints[-1]
        unread = self.between(last.position, self.position).tolist()
        decoder = vocabulary.decoder(last.tail)
        decoder.feed(unread)
        return replace(last, pending=(*last.pending, *unread), position=self.position, seed=seed, tail=decoder.tail)

    def text(self, vocabulary: Vocabulary) -> str:
        """The kept text, without the bytes of an unfinished last character."""
        decoder = vocabulary.decoder(self.checkpoints[0].tail)
        return decoder.feed(self.between(self.earliest, self.position).tolist())

    def grown(self, tokens: Sequence[int], states: Sequence[Snapshot], keep: int, call: Call | None = None) -> History:
        """The history after some more tokens.

        Args:
            tokens: the tokens that were read and generated
            states: states that may become checkpoints, oldest first; the first one is before all of `tokens`
            keep: fewest last positions to keep; those since the first of `states` are kept too
            call: the call that the tokens belong to; all positions since it began are kept, also if it was resumed
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
        # Between the first checkpoint and the last `keep` positions, tokens are enough.
        while len(checkpoints) > 2 and checkpoints[2].position <= present - keep:
            del checkpoints[1]
        changed = [*map(id, checkpoints)] != [*map(id, self.checkpoints)]
        kept = tuple(checkpoints) if changed else self.checkpoints  # this tuple may be shared by many sessions
        return History(kept, everything._token_bytes(checkpoints[0].position, present), self.kind)


def long_memory(state_bytes: int, token_bytes: int, keep: int) -> int:
    """Estimate of `Session.memory`, in bytes, for a session with a long text.

    Args:
        state_bytes, token_bytes: of one state, and of one token in its history
        keep: as for `History.grown`
    """
    return FIELDS + 3 * state_bytes + 2 * spacing(keep) * token_bytes  # the present, two checkpoints, tokens since


def spacing(keep: int) -> int:
    """Fewest positions between two checkpoints, where `keep` positions are kept."""
    return max(keep, 256)


FIELDS = 1500
"""Bytes of a session besides its states and tokens, in the store that keeps it in memory."""


class Key(NamedTuple):
    """Identifies a session: ids are unique within a tenant."""

    tenant: str
    id: str


class NewSession(NamedTuple):
    """Options of the session that a call makes first, if there never was one with its id."""

    time_to_live: timedelta | None = None
    """None: the default."""
    adaptive: bool = False
    """Whether it learns from its text."""


class Origin(NamedTuple):
    """What a session was made from, if not from the zero state."""

    session_id: str
    """Empty: it was blended or imported."""
    position: int


class Call(NamedTuple):
    """The call that last changed a session, remembered so that it can be resumed."""

    id: str
    start: int
    """The session's position before the call."""
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
    """Data that calls of one kind keep with the state, in a format of their own; see `calls.watching`."""

    @property
    def memory(self) -> int:
        """Estimate of its bytes in memory, as if it shared no state with another session."""
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
        """Identifies the session."""
        return Key(self.tenant, self.id)

    def renewed(self, now: datetime) -> Session:
        """The same session, expiring a whole time to live from `now`."""
        return replace(self, expires=now + self.time_to_live)

    def changed(self, now: datetime, snapshot: Snapshot, history: History, call: Call | None = None) -> Session:
        """The session after a change. Its version grows by 1, unless the same call has changed it before."""
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
