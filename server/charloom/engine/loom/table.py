"""The live rows as arrays by slot, so that a tick's inputs and outputs are a few indexed copies.

A row's *tape* holds its next tokens: the tokens to feed, then -1, which the decoder replaces by the tokens that it
chooses. The random numbers of their positions lie beside them. A tape is filled for many ticks at once.

Use it with the loom's lock held. Axis letters: S slots, B rows of a tick, K steps, W places of a tape.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from charloom.controls import ENDED, FREE, INPUTS, Effect, controls
from charloom.controls.adaptation import state_size
from charloom.engine.decoding.automaton import AutomatonTable
from charloom.engine.decoding.decoder import (
    Adaptation,
    Constraints,
    Floats,
    Inputs,
    Ints,
    Outputs,
    Shape,
    StatePool,
    States,
    neutral,
)
from charloom.engine.decoding.uniforms import Uniforms
from charloom.engine.loom.jobs import Chunk, FinishReason
from charloom.engine.loom.row import Bound, Row
from charloom.engine.loom.schedule import MOST_STEPS, most_steps, tick_steps

log = logging.getLogger(__name__)

TAPE = MOST_STEPS
"""Places of a tape that are filled."""
WIDTH = TAPE + MOST_STEPS
"""W: a row that stops in a tick before other rows needs places for the remaining steps of the tick."""
SCALES = controls(Effect.SCALES)
"""The controls that every row sets."""


class Columns(NamedTuple):
    """The table's arrays, by slot. Steps are counted from the start of the row."""

    token: npt.NDArray[np.int64]
    """[S] the next input"""
    done: npt.NDArray[np.int64]
    """[S] steps taken"""
    end: npt.NDArray[np.int64]
    """[S] as `Row.end_step`"""
    goal: npt.NDArray[np.int64]
    """[S] as `Row.goal`"""
    attend_step: npt.NDArray[np.int64]
    """[S] from this step on the row is attended to after every tick"""
    attend_time: npt.NDArray[np.float64]
    """[S] from this time on too"""
    origin: npt.NDArray[np.int64]
    """[S] the step of the first place of the tape"""
    tape: npt.NDArray[np.int64]
    """[S, W]"""
    uniform: npt.NDArray[np.float32]
    """[S, W]"""
    scales: npt.NDArray[np.float32]
    """[S, number of `SCALES`]"""
    steps: npt.NDArray[np.int64]
    """[S] most steps of the row's text, those of later jobs included (`Job.later`)"""
    automaton: npt.NDArray[np.int64]
    """[S] the row's state in the table of automata"""
    allowed: npt.NDArray[np.float64]
    """[S] the sum of `Outputs.allowed` so far"""

    @classmethod
    def empty(cls) -> Columns:
        """Columns without slots."""
        whole, sizes = np.int64, {"tape": (0, WIDTH), "uniform": (0, WIDTH), "scales": (0, len(SCALES))}
        types: dict[str, type] = dict.fromkeys(("attend_time", "allowed"), np.float64)
        types |= dict.fromkeys(("uniform", "scales"), np.float32)
        return cls(*(np.zeros(sizes.get(name, (0,)), types.get(name, whole)) for name in cls._fields))

    def longer(self, slots: int) -> Columns:
        """A copy with this number of slots; the new ones are zero."""
        return Columns(
            *(np.concatenate([one, np.zeros((slots - len(one), *one.shape[1:]), one.dtype)]) for one in self)
        )


class Tick(NamedTuple):
    """The rows of a tick, and the inputs of its decoder call."""

    rows: Sequence[Row]
    slots: Ints
    """[B]"""
    inputs: Inputs
    places: Ints
    """[K, B] indices of the rows' tape places, in the flattened [S, W] tapes"""


class RowTable:
    """Holds the live rows by slot.

    Args:
        shape: of the decoder
        states: the pool of the rows' states; its slots are the table's slots
    """

    def __init__(self, shape: Shape, states: StatePool) -> None:
        self._vocabulary = shape.vocabulary
        self.states = states
        self._uniforms = Uniforms()
        self._automata = AutomatonTable(shape.vocabulary)
        self._learnt: dict[int, Floats] = {}
        """By slot, the learnt state, [S], of each row that learns"""
        self._at = Columns.empty()
        self._neutral = neutral(0, shape.vocabulary)
        """Shared neutral sampling inputs, for as many rows as any plain tick had; never written to."""

    def join(self, row: Row) -> None:
        """Give a row a slot."""
        row.slot = slot = self.states.take(row.job.start.state)
        if row.job.start.learnt is not None:
            self._learnt[slot] = row.job.start.learnt
        if slot >= len(self._at.token):
            self._at = self._at.longer(2 * slot + 16)
        at = self._at
        at.token[slot], at.steps[slot] = row.token, row.steps + row.job.later
        at.automaton[slot], at.allowed[slot] = FREE, 0.0
        if (automaton := row.job.automaton) is not None:
            at.automaton[slot] = self._automata.take(automaton) + row.job.automaton_state
        at.scales[slot] = [
            control.of_row(getattr(row.job.sampling, control.option), self._vocabulary) for control in SCALES
        ]
        self._lay_tape(row)
        self._attended(row)

    def leave(self, row: Row) -> None:
        """Take its slot back."""
        self.states.release(row.slot)
        self._learnt.pop(row.slot, None)
        if row.job.automaton is not None:
            self._automata.release(row.job.automaton)
        row.slot = -1

    def _attended(self, row: Row) -> None:
        """Copy from the row when to attend to it next."""
        at, slot = self._at, row.slot
        # In this order: the reader may take tokens meanwhile, and a row that is at its end must be attended to.
        at.attend_step[slot], at.attend_time[slot] = row.attend_step, row.due
        at.end[slot], at.goal[slot] = row.end_step, row.goal

    def attend(self, tick: Tick, number: int, outputs: Outputs, now: float, pause: float) -> Chunk | None:
        """Attend to the row at index `number` of a tick, as `Row.advance`; it ends as FAILED if that raises."""
        row = tick.rows[number]
        try:
            chunk = row.advance(self._unseen(row), number, tick.inputs.states, outputs, now, pause)
        except Exception:
            log.exception("a row could not take what its tick brought")
            return self.dismiss(row, FinishReason.FAILED)
        if chunk is None or chunk.finish is None:
            self._attended(row)
        return chunk

    def _unseen(self, row: Row) -> list[int]:
        """A row's tokens, fed and generated, since its last `count`; also updates `row.bound`."""
        row.bound = self._bound(row)
        origin, done = int(self._at.origin[row.slot]), int(self._at.done[row.slot])
        tokens: list[int] = self._at.tape[row.slot, row.done - origin : done - origin].tolist()
        return tokens

    def dismiss(self, row: Row, reason: FinishReason) -> Chunk:
        """End a row before its next tick; as FAILED if its state, which only DRAINING needs, cannot be read."""
        try:
            row.count(self._unseen(row))
            return row.dismiss(reason, self._present(row) if reason is FinishReason.DRAINING else None)
        except Exception:
            log.exception("the state of a row that ends could not be had")
            return row.dismiss(FinishReason.FAILED)

    def _present(self, row: Row) -> States:
        """The row's state, with a row axis of length 1."""
        learnt = self._learnt.get(row.slot)
        return States(self.states.gather([row.slot]), None if learnt is None else learnt[None])

    def tick(self, rows: Sequence[Row], step_seconds: float, target_seconds: float, longest: float) -> Tick:
        """Prepare the next tick of these rows.

        Args:
            rows: at least one row, none of them in another tick
            step_seconds, target_seconds, longest: as for `tick_steps`
        """
        slots = [row.slot for row in rows]
        index, at = np.array(slots), self._at
        done, end, goal = at.done[index], at.end[index], at.goal[index]
        left = end - done
        count = tick_steps(goal - done, left, goal < end, step_seconds, target_seconds, longest)
        count = min(count, most_steps([row.alternatives for row in rows]))
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
            constraints=self._constraints(index),
            adaptation=self._adaptation(slots),
        )
        return Tick(rows, index, inputs, places)

    def take(self, tick: Tick, outputs: Outputs, now: float) -> list[int]:
        """Store the outputs of a tick; returns the indices in it of the rows to attend to."""
        index, at = tick.slots, self._at
        self.states.scatter(index.tolist(), outputs.state)
        # A row may have stopped early, at its reader's unread limit: the rest of its tape stays for the next tick.
        stepped = np.arange(len(outputs.tokens))[:, None] < outputs.taken
        at.tape.reshape(-1)[tick.places] = np.where(stepped, outputs.tokens, tick.inputs.forced)
        at.token[index] = outputs.tokens[-1]
        at.done[index] = done = at.done[index] + outputs.taken
        due = (done >= at.attend_step[index]) | (now >= at.attend_time[index])
        if tick.inputs.constraints is not None:
            at.automaton[index] = outputs.automaton
            due |= outputs.automaton == ENDED
            # One after the other, so that the sum does not depend on where ticks ended.
            parts = np.vstack([at.allowed[index], outputs.allowed])
            at.allowed[index] = np.cumsum(parts, axis=0)[outputs.taken, np.arange(len(index))]
        if tick.inputs.adaptation is not None:
            for number in np.flatnonzero(tick.inputs.adaptation.learns).tolist():
                self._learnt[int(index[number])] = outputs.adaptation[number].copy()
        attend: list[int] = np.flatnonzero(due).tolist()
        return attend

    def _constraints(self, index: Ints) -> Constraints | None:
        states = self._at.automaton[index]
        return self._automata.rows(states, (self._at.steps - self._at.done)[index]) if states.any() else None

    def _adaptation(self, slots: Sequence[int]) -> Adaptation | None:
        if not self._learnt:
            return None
        learns = np.array([slot in self._learnt for slot in slots])
        if not learns.any():
            return None
        state = np.zeros((len(slots), state_size(self._vocabulary)), np.float32)
        for number in np.flatnonzero(learns).tolist():
            state[number] = self._learnt[slots[number]]
        return Adaptation(learns, state)

    def _bound(self, row: Row) -> Bound | None:
        """The row's state under its constraint, if it has one."""
        if row.job.automaton is None:
            return None
        state = int(self._at.automaton[row.slot])
        return Bound(self._automata.is_over(state), float(self._at.allowed[row.slot]))

    def _turn(self, row: Row) -> None:
        """Start a new tape for a row whose tape is used up."""
        row.count(self._unseen(row))
        self._lay_tape(row)

    def _lay_tape(self, row: Row) -> None:
        """Fill the row's tape from its `done` step on."""
        at, slot, coming = self._at, row.slot, min(TAPE, row.steps - row.done)
        at.done[slot] = at.origin[slot] = row.done
        fed = row.forced[row.done : row.done + coming]
        at.tape[slot] = -1
        at.tape[slot, : len(fed)] = fed
        if len(fed) < coming:  # fed tokens need no random numbers
            at.uniform[slot, :coming] = self._uniforms.at(row.job.start.seed, row.position, coming)

    def _sampling(self, rows: Sequence[Row], index: Ints) -> dict[str, Any]:
        asking = [(number, row) for number, row in enumerate(rows) if not row.job.plain]
        sampling = neutral(len(rows), self._vocabulary) if asking else self._nothing_asked(len(rows))
        for place, control in enumerate(SCALES):
            sampling[control.name] = self._at.scales[index, place]
        for number, row in asking:
            row.ask(sampling, number)
        return sampling

    def _nothing_asked(self, rows: int) -> dict[str, Any]:
        """As `neutral`, in memory that ticks share: with a large vocabulary each row takes much of it."""
        if rows > len(self._neutral["bias"]):
            self._neutral = neutral(rows, self._vocabulary)
        return {name: array[:rows] if INPUTS[name].axes[0] == "B" else array for name, array in self._neutral.items()}
