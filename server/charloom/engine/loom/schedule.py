"""How rows are split into ticks, how long a tick is, and when a message leaves: pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from charloom.engine.decoding.decoder import Ints

MOST_STEPS = 256
"""Steps of the longest tick, whatever they cost."""
TICK_OVERHEAD, ROW_OVERHEAD = 0.0003, 0.000015
"""What a tick takes beside its steps, in seconds, and for each of its rows: the call of the decoder, and what is done
between two. It is several times what the same code takes alone: a step leaves none of it in the processor's caches."""
FIRST_TOKEN = 64
"""How many rows one counts for that has no token yet, because somebody waits for it."""
LONGEST_TICK = 3
"""How many times as long as its target a tick may be, where most of its rows end within that time."""
MOST_TICK_ALTERNATIVES = 2**17
"""Alternatives of tokens that a tick tells, of all its rows and steps: to sort them takes some tens of milliseconds."""
WORTH = 0.15
"""What further workers must bring, as a part of what they would bring if the work were divided without loss."""
CROWD_TICK = 0.2
"""How long a tick of a crowd is, as a part of any other."""
CROWD_STEPS = 4
"""Steps that such a tick has at least, so that what it takes beside them stays small; fewer rows make room for them."""
MESSAGE_SECONDS, LONGEST_PAUSE = 0.001, 1.0
"""Time between any two messages where there are many streams, and between two of one stream: messages cost time too."""
MESSAGE_TOKENS, PAUSES = 32, 3
"""How many tokens a message should have, and how many pauses it waits for them at most."""
LAST_TOKENS = 48
"""A message waits as long for the end of the text where fewer tokens than these are left."""


def ticks_at_once(
    rows: int, workers: int, max_rows: int, expected: Callable[[int], float], steps: int = MOST_STEPS
) -> int:
    """Into how many ticks at a time rows are split, each by a worker of its own.

    A step with few rows costs nearly what it costs with one, so that two workers with half the rows each may be hardly
    faster than one with all of them, and use twice the processor time. And a tick costs something beside its steps:
    rows that have only a few left, as those of a search, are soonest done together.

    Args:
        rows: how many can run, at least 1
        workers: how many there are
        max_rows: most rows of a tick
        expected: seconds of one step with so many rows
        steps: most steps that any of them has left
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
    """How many rows of a crowd tick together: as many as have `CROWD_STEPS` steps in that time, or half of that.

    Args:
        most: how many at most, at least 1
        seconds: how long the tick should take
        expected: seconds of one step with so many rows
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

    As many as fit into `target_seconds`, or fewer: a tick may end where a row reaches its *goal*, the step at which
    somebody waits for it: its first token, or its end. Past the goal its steps bring nobody anything before the tick is
    over; but each tick costs some time, so it does not pay to end one for each goal. Of the steps that are the goal of
    a row, and the last one that fits, the one is taken with most steps on the way to goals in the time that the tick
    takes.

    Where most rows are soon over, as those of short calls, a tick may also be longer, up to a goal: fewer ticks then
    bring as many ends.

    Args:
        goals: [B] how many steps each row is from its goal; 0 of one that has nothing to do
        left: [B] how many steps it is from its end
        fresh: [B] whether its first token is to come
        step_seconds: measured cost of one step with this many rows
        target_seconds: how long a tick should take when there is work for longer
        longest: how many times as long it may be, where most rows end within that time
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
    """Which of some rows can be in one tick, the first of them included.

    All rows of a tick tell as many alternatives of a token as the one of which most are asked. Where these are too
    many, as all symbols of a large vocabulary are, only rows of which as many are asked as of the first go with it.

    Args:
        alternatives: how many are asked of each row, at least one row
    """
    if len(alternatives) * max(alternatives) <= MOST_TICK_ALTERNATIVES:
        return range(len(alternatives))
    first = alternatives[0]
    same = [place for place, one in enumerate(alternatives) if one == first]
    return same[: max(1, MOST_TICK_ALTERNATIVES // max(1, first))]


def most_steps(alternatives: Sequence[int]) -> int:
    """Most steps of a tick of rows of which so many alternatives of a token are asked; at least 1."""
    return max(1, MOST_TICK_ALTERNATIVES // max(1, len(alternatives) * max(alternatives)))


def overhead(rows: int) -> float:
    """Seconds that a tick takes beside its steps."""
    return TICK_OVERHEAD + rows * ROW_OVERHEAD


def message_pause(streams: int, tick_seconds: float) -> float:
    """Seconds between two messages of one stream: one per tick where there are few streams, fewer where there are many.

    Args:
        streams: how many streams there are; where there are several callers, as many as if each had as many as this one
        tick_seconds: how long a tick should take
    """
    return max(tick_seconds, min(LONGEST_PAUSE, streams * MESSAGE_SECONDS))


def next_message(told: int, left: int, waited: float, pause: float) -> float:
    """How long after the last message of a stream the next one leaves, in seconds.

    After the pause; one of few tokens is held back a little longer, and so is one before the end of the text, which
    would bring the same tokens soon: so a short text comes in two or three messages however busy the server is.

    Args:
        told: tokens since the last message
        left: tokens that the text may still have
        waited: seconds since the last message
        pause: as of `message_pause`
    """
    if left < LAST_TOKENS:
        return PAUSES * pause
    if told >= MESSAGE_TOKENS:
        return pause
    return min(PAUSES * pause, max(pause, waited * MESSAGE_TOKENS / max(told, 1)))
