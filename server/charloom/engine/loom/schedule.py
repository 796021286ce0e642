"""Pure functions that decide how rows are split into ticks, how long a tick is, and when a message leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from charloom.engine.decoding.decoder import Ints

MOST_STEPS = 256
"""Most steps of a tick, whatever they cost."""
TICK_OVERHEAD, ROW_OVERHEAD = 0.0003, 0.000015
"""Seconds that a tick takes besides its steps, and for each of its rows: the call of the decoder, and the work between
two calls. That is several times what this code takes alone, because a step evicts it from the processor's caches."""
FIRST_TOKEN = 64
"""Weight of a row that has no token yet, compared with 1 for other rows, because its reader waits for it."""
LONGEST_TICK = 3
"""How many times its target duration a tick may take, if most of its rows end within that time."""
MOST_TICK_ALTERNATIVES = 2**17
"""Most alternatives that a tick returns, of all its rows and steps: sorting so many takes some tens of milliseconds."""
WORTH = 0.15
"""The speed-up that further workers must give, as a fraction of the speed-up if the work were divided without loss."""
CROWD_TICK = 0.2
"""Duration of a crowd's tick, as a fraction of the duration of others."""
CROWD_STEPS = 4
"""Fewest steps of a crowd's tick, so that its overhead stays small; it has fewer rows instead."""
MESSAGE_SECONDS, LONGEST_PAUSE = 0.001, 1.0
"""Seconds between any two messages of a server with many streams, and most seconds between two messages of one stream:
messages cost time too."""
MESSAGE_TOKENS, PAUSES = 32, 3
"""Tokens that a message should have, and the number of pauses that it waits for them at most."""
LAST_TOKENS = 48
"""If fewer tokens than these are left, the next message waits for the end of the text, for `PAUSES` at most."""


def ticks_at_once(
    rows: int, workers: int, max_rows: int, expected: Callable[[int], float], steps: int = MOST_STEPS
) -> int:
    """Into how many simultaneous ticks rows are split, each run by another worker.

    A step with few rows costs nearly what it costs with one, so two workers with half the rows each may be hardly
    faster than one with all of them, and use twice the processor time. A tick also has a fixed cost: rows that have
    only a few steps left, as those of a search, end soonest in one tick.

    Args:
        rows: number of rows that can run, at least 1
        workers: number of workers
        max_rows: most rows of a tick
        expected: seconds of one step, by number of rows
        steps: most steps that any row has left
    """
    best = min(workers, math.ceil(rows / max_rows))
    seconds = expected(math.ceil(rows / best))
    for more in range(best + 1, min(workers, rows) + 1):
        split = expected(math.ceil(rows / more))
        worth = seconds / split - 1 >= WORTH * (more / best - 1)
        if worth and (seconds - split) * steps >= TICK_OVERHEAD * (more - best):
            best, seconds = more, split
    return best


def crowd_rows(most: int, seconds: float, expected: Callable[[int], float]) -> int:
    """How many rows of a crowd tick together: `most`, halved until `CROWD_STEPS` steps fit into the tick.

    Args:
        most: most rows, at least 1
        seconds: target duration of the tick
        expected: seconds of one step, by number of rows
    """
    while most > 1 and CROWD_STEPS * expected(most) > seconds:
        most //= 2
    return most


def tick_steps(
    goals: Ints,
    left: Ints,
    fresh: npt.NDArray[np.bool_],
    step_seconds: float,
    target_seconds: float,
    longest: float = LONGEST_TICK,
) -> int:
    """Number of steps K of the next tick, at least 1.

    As many as fit into `target_seconds`, or fewer: a tick may end where a row reaches its *goal*, the step that its
    reader waits for: its first token, or its end. Steps past a row's goal are of no use to its reader before the tick
    ends; but each tick has a fixed cost, so it does not pay to end one at each goal. The candidates are the goals, and
    the last step that fits. The one with the most useful steps (weighted steps towards goals) per second is taken.

    If most rows end soon, as those of short calls, a tick may also be longer, up to a goal: as many rows then end in
    fewer ticks.

    Args:
        goals: [B] steps from each row to its goal; 0: it has nothing to do
        left: [B] steps to its end
        fresh: [B] whether it has not had its first token
        step_seconds: measured cost of one step with this many rows
        target_seconds: target duration of a tick
        longest: how many times `target_seconds` it may take, if most rows end within that time
    """
    fitting = int(min(MOST_STEPS, target_seconds / step_seconds)) if step_seconds > 0 else MOST_STEPS
    last = max(1, min(fitting, int(left.max())))
    furthest = min(MOST_STEPS, int(longest * fitting), int(left.max()))
    if 2 * np.count_nonzero(left <= furthest) <= len(left):
        furthest = last
    soon = goals[(goals > 0) & (goals <= furthest)]
    if not len(soon):
        return last
    ends = np.array(sorted({*soon.tolist(), last}))
    useful = np.minimum(ends[:, None], goals) @ np.where(fresh, FIRST_TOKEN, 1)
    taken = overhead(len(goals)) + ends * step_seconds
    return int(ends[np.argmax(useful / taken)])


def alike(alternatives: Sequence[int]) -> Sequence[int]:
    """The indices of the rows that can share a tick with the first one, its own included.

    The decoder returns for each row of a tick the largest number of alternatives that any row asks for. If these are
    too many, as with all tokens of a large vocabulary, only rows that ask for as many as the first are in its tick.

    Args:
        alternatives: by row, the number of alternatives asked for; at least one row
    """
    if len(alternatives) * max(alternatives) <= MOST_TICK_ALTERNATIVES:
        return range(len(alternatives))
    first = alternatives[0]
    same = [place for place, one in enumerate(alternatives) if one == first]
    return same[: max(1, MOST_TICK_ALTERNATIVES // max(1, first))]


def most_steps(alternatives: Sequence[int]) -> int:
    """Most steps, at least 1, of a tick whose rows ask for these numbers of alternatives."""
    return max(1, MOST_TICK_ALTERNATIVES // max(1, len(alternatives) * max(alternatives)))


def overhead(rows: int) -> float:
    """Seconds that a tick takes besides its steps."""
    return TICK_OVERHEAD + rows * ROW_OVERHEAD


def message_pause(streams: int, tick_seconds: float) -> float:
    """Seconds between two messages of one stream: one tick if there are few streams, more if there are many.

    Args:
        streams: number of streams of this stream's caller, times the number of callers
        tick_seconds: target duration of a tick
    """
    return max(tick_seconds, min(LONGEST_PAUSE, streams * MESSAGE_SECONDS))


def next_message(told: int, left: int, waited: float, pause: float) -> float:
    """Seconds from the last message of a stream to the next one.

    That is the pause. A message of few tokens is held back a little longer, and so is one just before the end of the
    text, because the last message can carry its tokens: so a short text comes in two or three messages, however busy
    the server is.

    Args:
        told: tokens since the last message
        left: most tokens that the text may still have
        waited: seconds since the last message
        pause: from `message_pause`
    """
    if left < LAST_TOKENS:
        return PAUSES * pause
    if told >= MESSAGE_TOKENS:
        return pause
    return min(PAUSES * pause, max(pause, waited * MESSAGE_TOKENS / max(told, 1)))
