"""The live rows as arrays by slot, so that a tick's inputs and outputs are a few indexed copies, whatever the rows are.

A row's *tape* holds its next tokens: where text is fed, the text, else -1, which the decoder replaces by what it
chooses; and beside them the random numbers of their positions. It is filled for many ticks at once.

All of it belongs to the loom's lock. Axis letters: S slots, B rows of a tick, K steps, W places of a tape.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from charloom.controls import Effect, controls
from charloom.engine.decoding.decoder import Inputs, Ints, Outputs, Shape, StatePool, neutral
from charloom.engine.decoding.uniforms import Uniforms
from charloom.engine.loom.row import Row
from charloom.engine.loom.schedule import MOST_STEPS, tick_steps

TAPE = MOST_STEPS
"""Places of a tape that hold tokens to come."""
WIDTH = TAPE + MOST_STEPS
"""W: a row that ends in a tick has places for the steps after its end too; what they hold does not matter."""
SCALES = controls(Effect.SCALES)
"""Controls of which every row sets its own value."""


class Columns(NamedTuple):
    """What the table holds, by slot. Steps are counted from where the row began."""

    token: npt.NDArray[np.int64]
    """[S] the next input"""
    done: npt.NDArray[np.int64]
    """[S] steps taken"""
    end: npt.NDArray[np.int64]
    """[S] the step up to which it may go"""
    goal: npt.NDArray[np.int64]
    """[S] the step for which somebody waits next: the first generated token, then the end"""
    attend_step: npt.NDArray[np.int64]
    """[S] from this step on the row is attended to after every tick"""
    attend_time: npt.NDArray[np.float64]
    """[S] and from this time on"""
    origin: npt.NDArray[np.int64]
    """[S] the step of the first place of the tape"""
    tape: npt.NDArray[np.int64]
    """[S, W]"""
    uniform: npt.NDArray[np.float32]
    """[S, W]"""
    scales: npt.NDArray[np.float32]
    """[S, number of `SCALES`]"""

    @classmethod
    def empty(cls) -> Columns:
        """For no slots."""
        whole, sizes = np.int64, {"tape": (0, WIDTH), "uniform": (0, WIDTH), "scales": (0, len(SCALES))}
        types = {"attend_time": np.float64, "uniform": np.float32, "scales": np.float32}
        return cls(*(np.zeros(sizes.get(name, (0,)), types.get(name, whole)) for name in cls._fields))

    def longer(self, slots: int) -> Columns:
        """With more slots."""
        return Columns(
            *(np.concatenate([one, np.zeros((slots - len(one), *one.shape[1:]), one.dtype)]) for one in self)
        )


class Tick(NamedTuple):
    """Some rows, and what the decoder is to do with them."""

    rows: Sequence[Row]
    slots: Ints
    """[B]"""
    inputs: Inputs
    places: Ints
    """[K, B] the places of their tapes, in all tapes one after the other"""


class RowTable:
    """Live rows by slot.

    Args:
        shape: of the decoder
        states: where the rows' states are; its slots are those of the table
    """

    def __init__(self, shape: Shape, states: StatePool) -> None:
        self._vocabulary = shape.vocabulary
        self.states = states
        self._uniforms = Uniforms()
        self._at = Columns.empty()

    def join(self, row: Row) -> None:
        """Give a row a slot."""
        row.slot = slot = self.states.take(row.job.start.state)
        if slot >= len(self._at.token):
            self._at = self._at.longer(2 * slot + 16)
        at = self._at
        at.token[slot] = row.token
        at.scales[slot] = [getattr(row.job.sampling, control.option) for control in SCALES]
        self._lay_tape(row)
        self.attended(row)

    def leave(self, row: Row) -> None:
        """Take its slot back."""
        self.states.release(row.slot)
        row.slot = -1

    def attended(self, row: Row) -> None:
        """Note what the row says about when to attend to it next."""
        at, slot = self._at, row.slot
        at.end[slot], at.goal[slot] = row.end_step, row.goal
        at.attend_step[slot], at.attend_time[slot] = row.attend_step, row.due

    def unseen(self, row: Row) -> list[int]:
        """The tokens of a row, fed and generated, since it was told of some last."""
        origin, done = int(self._at.origin[row.slot]), int(self._at.done[row.slot])
        tokens: list[int] = self._at.tape[row.slot, row.done - origin : done - origin].tolist()
        return tokens

    def present(self, row: Row) -> Any:
        """Its state, [A, L, 1, H], wherever the decoder has it."""
        return self.states.gather([row.slot])

    def tick(self, rows: Sequence[Row], step_seconds: float, target_seconds: float) -> Tick:
        """What these rows want of the next tick.

        Args:
            rows: at least one, none of them in another tick
            step_seconds, target_seconds: as for `tick_steps`
        """
        slots = [row.slot for row in rows]
        index, at = np.array(slots), self._at
        done, end, goal = at.done[index], at.end[index], at.goal[index]
        left = end - done
        count = tick_steps(goal - done, left, goal < end, step_seconds, target_seconds)
        steps = np.minimum(left, count)
        first = done - at.origin[index]
        full = first + steps > TAPE
        if full.any():
            for number in np.flatnonzero(full).tolist():
                self._turn(rows[number])
            first = done - at.origin[index]
        places = index * WIDTH + first + np.arange(count)[:, None]
        inputs = Inputs(
            token=at.token[index],
            state=self.states.gather(slots),
            forced=at.tape.reshape(-1)[places],
            steps=steps,
            uniform=at.uniform.reshape(-1)[places],
            sampling=self._sampling(rows, index),
            logprobs=any(row.job.top_logprobs is not None for row in rows),
        )
        return Tick(rows, index, inputs, places)

    def take(self, tick: Tick, outputs: Outputs, now: float) -> list[int]:
        """Take what a tick brought; returns which of its rows are to be attended to."""
        index, at = tick.slots, self._at
        self.states.scatter(index.tolist(), outputs.state)
        at.tape.reshape(-1)[tick.places] = outputs.tokens
        at.token[index] = outputs.tokens[-1]
        at.done[index] = done = at.done[index] + tick.inputs.steps
        attend: list[int] = np.flatnonzero((done >= at.attend_step[index]) | (now >= at.attend_time[index])).tolist()
        return attend

    def _turn(self, row: Row) -> None:
        """Go on with a new tape."""
        row.count(self.unseen(row))
        self._lay_tape(row)

    def _lay_tape(self, row: Row) -> None:
        """A tape from where the row is."""
        at, slot, coming = self._at, row.slot, min(TAPE, row.steps - row.done)
        at.done[slot] = at.origin[slot] = row.done
        fed = row.forced[row.done : row.done + coming]
        at.tape[slot] = -1
        at.tape[slot, : len(fed)] = fed
        at.uniform[slot, :coming] = self._uniforms.at(row.job.start.seed, row.position, coming)

    def _sampling(self, rows: Sequence[Row], index: Ints) -> dict[str, Any]:
        asking = [(number, row) for number, row in enumerate(rows) if not row.job.plain]
        sampling = neutral(len(rows), self._vocabulary) if asking else dict(_nothing_asked(len(rows), self._vocabulary))
        for place, control in enumerate(SCALES):
            sampling[control.name] = self._at.scales[index, place]
        for number, row in asking:
            row.ask(sampling, number)
        return sampling


@functools.lru_cache(maxsize=512)
def _nothing_asked(rows: int, vocabulary: int) -> dict[str, Any]:
    """As `neutral`, made once and not to be written to."""
    return neutral(rows, vocabulary)
