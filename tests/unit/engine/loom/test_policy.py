"""What the loom's rule for its ticks brings, in simulated time."""

from __future__ import annotations

import numpy as np
import pytest

from charloom.engine.loom.schedule import LONGEST_TICK, WORTH, overhead
from tests.unit.engine.loom.simulation import Cost, Simulation, best_split, cost_of

MEASURED = cost_of(
    {
        1: 99.8, 2: 106.7, 3: 115.7, 4: 136.9, 6: 181.3, 8: 225.3, 12: 317.6, 16: 406.0, 20: 495.3, 24: 597.4,
        32: 796.6, 40: 939.5, 48: 1134.1, 64: 1657.3, 80: 1901.7, 96: 2346.1, 128: 3272.3,
    }
)  # fmt: skip
"""Microseconds of a step by rows: 2 x 512, int8, one core of an AMD EPYC with VNNI, the least of many runs."""
STEEP = cost_of({1: 210, 4: 255, 16: 780, 128: 5900})
"""A processor on which a step with one row costs nearly what it costs with four."""
COSTS = pytest.mark.parametrize("cost", [MEASURED, STEEP], ids=["measured", "steep"])
TURNAROUNDS = [0.0006]
SECONDS, WARM_UP = 4.0, 0.5


def short_calls(cost: Cost, clients: int, believed: Cost | None = None) -> tuple[Simulation, float]:
    """Clients that each make one call after another: 32 characters of prompt, 64 generated."""
    simulation = Simulation(cost, TURNAROUNDS, believed)
    for number in range(clients):
        simulation.call(0.05 * number / clients, 32, 64, again=True)
    return simulation, simulation.run(SECONDS, WARM_UP)


def long_streams(cost: Cost, streams: int, arrivals: float) -> tuple[Simulation, float]:
    """Streams without end, and a short call without a prompt every so many seconds."""
    simulation = Simulation(cost, TURNAROUNDS)
    for number in range(streams):
        simulation.call(0.001 * number, 0, 10**9)
    for at in np.arange(WARM_UP, SECONDS, arrivals).tolist():
        simulation.call(at, 0, 50)
    return simulation, simulation.run(SECONDS, WARM_UP)


def scaled(cost: Cost, by: float) -> Cost:
    return lambda rows: by * cost(rows)


def milliseconds(times: list[float], percent: float) -> float:
    return 1e3 * float(np.percentile(times, percent))


@pytest.mark.parametrize(("clients", "least"), [(4, 0.78), (16, 0.82), (64, 0.86)])
def test_short_calls_use_what_the_best_split_would_give(clients: int, least: float) -> None:
    """The rest is the time between two calls, of which 96 steps have the more the fewer rows there are."""
    _, rate = short_calls(MEASURED, clients)
    assert rate >= least * best_split(clients, 2, MEASURED)


@COSTS
@pytest.mark.parametrize("streams", [4, 16, 64])
def test_long_streams_use_what_the_best_split_would_give(cost: Cost, streams: int) -> None:
    """But for a second worker that would bring little: it is left to others on the machine."""
    _, rate = long_streams(cost, streams, arrivals=1.0)
    gain = best_split(streams, 2, cost) / best_split(streams, 1, cost)
    assert rate >= 0.93 * best_split(streams, 1 if gain < 1 + WORTH else 2, cost)


def test_few_rows_stay_with_one_worker_where_that_is_cheaper() -> None:
    simulation, rate = long_streams(STEEP, 4, arrivals=10.0)
    assert sum(simulation.ticks) < 1.01 * (SECONDS - WARM_UP)
    assert rate == pytest.approx(4 / STEEP(4), rel=0.05)


def test_first_characters_of_short_calls_come_about_as_soon_as_their_prompts_can_be_read() -> None:
    simulation, _ = short_calls(MEASURED, 64)
    reading = 1e3 * 33 * MEASURED(32)
    assert milliseconds(simulation.first_tokens, 50) < 1.3 * reading
    assert milliseconds(simulation.first_tokens, 99) < 2.0 * reading


@COSTS
@pytest.mark.parametrize("streams", [4, 64])
def test_an_arrival_among_long_streams_waits_for_no_more_than_the_tick_that_ends_next(cost: Cost, streams: int) -> None:
    """The first token counts for so much that the tick which brings it ends with it."""
    simulation, _ = long_streams(cost, streams, arrivals=0.023)
    tick = 1e3 * (simulation.tick_seconds + overhead(streams))
    assert milliseconds(simulation.first_tokens, 50) < 0.7 * tick
    assert milliseconds(simulation.first_tokens, 99) < 1.3 * tick


def test_a_call_on_an_idle_loom_waits_for_nothing_but_its_prompt() -> None:
    simulation, _ = short_calls(MEASURED, 1)
    assert milliseconds(simulation.first_tokens, 100) == pytest.approx(1e3 * (overhead(1) + 33 * MEASURED(1)))


@COSTS
def test_a_tick_takes_no_longer_than_it_should(cost: Cost) -> None:
    for clients in (1, 4, 16, 64):
        long, _ = long_streams(cost, clients, arrivals=0.023)
        assert max(long.ticks) <= long.tick_seconds + overhead(clients) + cost(clients)
        short, _ = short_calls(cost, clients)
        assert max(short.ticks) <= LONGEST_TICK * (short.tick_seconds + cost(clients)) + overhead(clients)


def test_a_step_that_is_believed_dearer_than_it_is_costs_throughput() -> None:
    """Why the figure has to be right: after a measurement on a busy machine, eight times what it is."""
    right, wrong = (short_calls(MEASURED, 64, scaled(MEASURED, by))[1] for by in (1, 8))
    assert wrong < 0.93 * right
