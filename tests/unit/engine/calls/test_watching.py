from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from unittest.mock import AsyncMock

import numpy as np
import pytest

from charloom.bundle import Bundle, Mask
from charloom.engine.call_end import CallEnd, set_end
from charloom.engine.calls import watching
from charloom.engine.calls.requests import ReadingRequest
from charloom.engine.calls.watching import SourceLine, Verdict, Watch, WatchRequest
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.engine import Engine
from charloom.engine.errors import InvalidRequest, Overloaded, SessionBusy, SessionOfAnotherModel, StoreUnavailable
from charloom.engine.limits import LONGEST_LINE, MOST_LINES
from charloom.engine.memory_budget import MemoryBudget, TooMuchMemory
from charloom.engine.quotas import Quota
from charloom.engine.sessions.record import from_session, to_session
from charloom.engine.sessions.session import Key, Session
from charloom.engine.sessions.stores.memory import MemoryStore
from charloom.engine.sessions.stores.store import Lease
from charloom.engine.shares import Share, set_share
from tests.unit.engine.looms import Slow
from tests.unit.engine.stores import Place

REQUEST = WatchRequest("logs", rate=0.1, warm_up=10)


@pytest.fixture
async def engine(bundle: Bundle, decoder: Decoder) -> AsyncIterator[Engine]:
    engine = Engine([(bundle, decoder)])
    yield engine
    await engine.drain(0)


async def watched(engine: Engine, *batches: list[SourceLine], request: WatchRequest = REQUEST) -> list[Verdict]:
    watch = await engine.watching.begin(request)
    try:
        return [verdict for batch in batches for verdict in await watch.read(batch)]
    finally:
        await watch.end()


def lines(source: str, *texts: str) -> list[SourceLine]:
    return [SourceLine(source, text) for text in texts]


async def test_a_line_is_scored_as_if_its_source_were_alone(engine: Engine) -> None:
    of_a, of_b = lines("a", "one", "two", "six"), lines("b", "wet", "sun", "sky")
    together = await watched(engine, [line for pair in zip(of_a, of_b, strict=True) for line in pair])
    alone = await watched(engine, *([line] for line in of_a), request=replace(REQUEST, name="other"))
    assert [one.scored for one in together[::2]] == [one.scored for one in alone]
    key = Key("", "watch.logs.a")
    score, _ = await engine.reading.score(ReadingRequest(Key("", ""), text="one\ntwo\nsix\n"))
    assert sum(one.scored.nats for one in alone) == pytest.approx(score.nats)
    assert (await engine.sessions.get(key)).snapshot.position == 12


async def test_a_watch_goes_on_where_it_was(engine: Engine) -> None:
    whole = await watched(engine, lines("a", "one", "two", "six"), request=replace(REQUEST, name="whole"))
    first, then = await watched(engine, lines("a", "one", "two")), await watched(engine, lines("a", "six"))
    assert [one.scored for one in first + then] == [one.scored for one in whole]
    assert then[0].lines == 3


async def test_states_survive_with_the_store(shared_place: Place, bundle: Bundle, decoder: Decoder) -> None:
    found = []
    for text in ("one", "two"):
        engine = Engine([(bundle, decoder)], store=shared_place.open())
        found += await watched(engine, lines("a/1", text))
        await engine.drain(0)
    engine = Engine([(bundle, decoder)])
    whole = await watched(engine, lines("a/1", "one", "two"))
    await engine.drain(0)
    assert [one.scored for one in found] == [one.scored for one in whole]
    assert found[1].lines == 2


async def test_what_stands_out_is_an_alert_by_the_sources_own_lines(engine: Engine) -> None:
    usual = [batch for _ in range(40) for batch in [lines("a", "all is well")]]
    *before, strange = await watched(engine, *usual, lines("a", "€€€€€€€€"))
    assert (before[0].threshold, before[9].threshold, before[9].alert) == (None, None, False)
    assert strange.alert
    assert strange.own
    assert strange.threshold is not None
    assert strange.scored.surprise > strange.threshold
    assert engine.totals.watched_lines == 41
    assert engine.totals.watch_alerts == sum(one.alert for one in before) + 1


async def test_a_new_source_is_judged_by_all_the_others(engine: Engine) -> None:
    usual = [lines(f"node/{number}", "all is well") for number in range(20)]
    verdicts = await watched(engine, *usual, lines("new one", "€€€€€€€€"), lines("another", "all is well"))
    assert [(one.alert, one.own) for one in verdicts[-2:]] == [(True, False), (False, False)]


async def test_numbers_are_masked_as_the_model_was_trained_or_as_is_asked(bundle: Bundle, decoder: Decoder) -> None:
    config = {"config": {"mask": "numbers"}}
    trained = replace(bundle, manifest=bundle.manifest.model_copy(update={"training": config}))
    engine = Engine([(trained, decoder)])
    watch = await engine.watching.begin(REQUEST)
    assert watch.mask is Mask.NUMBERS
    await watch.end()
    watch = await engine.watching.begin(replace(REQUEST, mask=Mask.NONE))
    assert watch.mask is Mask.NONE
    await watch.end()
    await engine.drain(0)


async def test_two_calls_do_not_watch_under_one_name(engine: Engine) -> None:
    watch = await engine.watching.begin(REQUEST)
    with pytest.raises(SessionBusy):
        await engine.watching.begin(REQUEST)
    await watch.end()
    await watched(engine, lines("a", "one"))


async def test_of_two_calls_that_begin_a_watch_at_once_one_watches(
    shared_place: Place, bundle: Bundle, decoder: Decoder
) -> None:
    engine = Engine([(bundle, decoder)], store=shared_place.open())
    begun = await asyncio.gather(*(engine.watching.begin(REQUEST) for _ in range(2)), return_exceptions=True)
    (watch,) = (one for one in begun if isinstance(one, Watch))
    assert [type(one) for one in begun if one is not watch] == [SessionBusy]
    await watch.end()
    await engine.drain(0)


async def test_a_long_line_costs_the_memory_of_other_sources_nothing(bundle: Bundle, decoder: Decoder) -> None:
    engine = Engine([(bundle, decoder)], budget=MemoryBudget(2**27))
    verdicts = await watched(engine, [*lines("a", "x" * 4000), *(SourceLine(f"s{n}", "up") for n in range(200))])
    assert len(verdicts) == 201
    assert engine.budget.held == 0
    await engine.drain(0)


async def test_a_line_is_cut_where_a_callers_texts_have_to_end(engine: Engine) -> None:
    set_share(Share("shop", quota=Quota(prompt_characters=10)))
    (verdict,) = await watched(engine, lines("a", "x" * 11))
    assert verdict.cut
    assert len(verdict.scored.surprisals) == 10


async def test_lines_of_ten_megabytes_are_cut_and_lines_without_text_are_read(engine: Engine) -> None:
    long, empty = await watched(engine, lines("a", "x" * 10_000_000, ""))
    assert long.cut
    assert len(long.scored.surprisals) == LONGEST_LINE
    assert (empty.cut, len(empty.scored.surprisals), empty.scored.tokens) == (False, 0, 1)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "a.b"}, "name"),
        ({"name": ""}, "name"),
        ({"rate": 0.0}, "rate"),
        ({"rate": 0.000099}, "rate"),
        ({"rate": 0.51}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"warm_up": 0}, "warm_up"),
    ],
)
async def test_values_out_of_range_are_refused(engine: Engine, changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field}: "):
        await engine.watching.begin(replace(REQUEST, **changes))  # type: ignore[arg-type]


async def test_the_rarest_alerts_are_one_in_as_many_lines_as_count(engine: Engine) -> None:
    (verdict,) = await watched(engine, lines("a", "one"), request=replace(REQUEST, rate=0.0001))
    assert verdict.threshold is None


async def test_a_source_goes_on_where_its_rate_was_lower_than_is_allowed_now(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(watching, "LOWEST_RATE", 1e-6)
        await watched(engine, lines("a", "one", "two"), request=replace(REQUEST, rate=1e-6))
    with pytest.raises(InvalidRequest, match=r"^rate: 1e-06 is not allowed; from 0\.0001 to 0\.5, since at most"):
        await watched(engine, lines("a", "six"), request=replace(REQUEST, rate=1e-6))
    assert (await watched(engine, lines("a", "six")))[0].lines == 3


@pytest.mark.parametrize("after", [timedelta(seconds=0.9), timedelta(0), timedelta(days=31), timedelta(seconds=-1)])
async def test_a_silence_is_from_one_second_to_thirty_days(engine: Engine, after: timedelta) -> None:
    with pytest.raises(InvalidRequest, match=r"^silent_after: "):
        await engine.watching.begin(replace(REQUEST, silent_after=after))


async def test_sources_that_say_nothing_for_long_are_told_and_counted(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(watching, "monotonic", lambda: now)
    watch = await engine.watching.begin(replace(REQUEST, silent_after=timedelta(seconds=60)))
    await watch.read(lines("quiet", "one") + lines("talks", "one"))
    now += 59
    assert watch.silent() == []
    await watch.read(lines("talks", "two"))
    now += 1
    assert watch.silent() == ["quiet"]
    assert await watch.read([]) == []
    now += 60
    assert watch.silent() == ["talks"]
    assert engine.totals.silent_sources == 2
    await watch.end()


async def test_the_sources_that_a_message_opens_are_in_the_budget(bundle: Bundle, decoder: Decoder) -> None:
    engine = Engine([(bundle, decoder)], budget=MemoryBudget(2**23))
    watch = await engine.watching.begin(REQUEST)
    with pytest.raises(TooMuchMemory):
        await watch.read([SourceLine(f"s{number}", "up") for number in range(MOST_LINES)])
    assert await engine.sessions.count() == 1
    assert (await watch.read(lines("a", "one")))[0].lines == 1
    assert engine.budget.held == 0
    await watch.end()
    await engine.drain(0)


async def test_what_sources_have_learnt_is_in_the_budget(bundle: Bundle, decoder: Decoder) -> None:
    engine = Engine([(bundle, decoder)], budget=MemoryBudget(2**24))
    one_each = [SourceLine(f"s{number}", "up") for number in range(200)]
    assert len(await watched(engine, one_each)) == 200
    with pytest.raises(TooMuchMemory):
        await watched(engine, one_each, request=replace(REQUEST, name="learning", adaptive=True))
    assert len(await watched(engine, one_each[:9], request=replace(REQUEST, name="few", adaptive=True))) == 9
    assert engine.budget.held == 0
    await engine.drain(0)


async def test_what_a_call_remembers_of_its_sources_is_in_the_budget(bundle: Bundle, decoder: Decoder) -> None:
    engine = Engine([(bundle, decoder)], budget=MemoryBudget(2**27))
    end = CallEnd()
    set_end(end.add)
    watch = await engine.watching.begin(replace(REQUEST, silent_after=timedelta(days=1)))
    await watch.read([SourceLine(f"{number:0200}", "up") for number in range(600)])
    assert 600 * 500 <= engine.budget.held < 600 * 800
    await watch.end()
    end.come()
    assert engine.budget.held == 0
    await engine.drain(0)


async def test_too_many_lines_at_a_time_are_refused_and_change_nothing(engine: Engine) -> None:
    watch = await engine.watching.begin(REQUEST)
    with pytest.raises(InvalidRequest, match=f"up to {MOST_LINES}"):
        await watch.read(lines("a", *["x"] * (MOST_LINES + 1)))
    with pytest.raises(InvalidRequest, match="give fewer"):
        await watch.read(lines("a", *["x" * LONGEST_LINE] * 17))
    assert (await watch.read(lines("a", "one")))[0].lines == 1
    await watch.end()


async def test_a_source_of_another_version_of_the_model_is_not_read_on(engine: Engine) -> None:
    await watched(engine, lines("a", "one"))
    session = await engine.sessions.get(Key("", "watch.logs.a"))
    writer = await engine.sessions.acquire(session.key)
    await writer.close_with(replace(session, model_digest="0" * 64))
    with pytest.raises(SessionOfAnotherModel):
        await watched(engine, lines("a", "two"))
    assert engine.sessions.writing == 0


async def test_a_source_of_the_same_model_exported_before_is_read_on(bundle: Bundle, decoder: Decoder) -> None:
    before = "0" * 64
    again = replace(bundle, manifest=bundle.manifest.model_copy(update={"continues": (before,)}))
    engine = Engine([(again, decoder)])
    await watched(engine, lines("a", "one"))
    session = await engine.sessions.get(Key("", "watch.logs.a"))
    writer = await engine.sessions.acquire(session.key)
    await writer.close_with(replace(session, model_digest=before))
    assert [one.lines for one in await watched(engine, lines("a", "two"))] == [2]
    await engine.drain(0)


async def test_a_calibration_that_cannot_be_read_is_told(engine: Engine) -> None:
    await watched(engine, lines("a", "one"))
    session = await engine.sessions.get(Key("", "watch.logs.a"))
    writer = await engine.sessions.acquire(session.key)
    await writer.close_with(replace(session, notes=b"?"))
    with pytest.raises(StoreUnavailable, match="calibration"):
        await watched(engine, lines("a", "two"))


async def test_more_sources_than_rows_speak_at_once(engine: Engine) -> None:
    many = [SourceLine(f"s{number}", "up") for number in range(MOST_LINES)]
    verdicts = await watched(engine, many)
    assert len({one.scored.nats for one in verdicts}) == 1
    assert await engine.sessions.count() == MOST_LINES + 1


async def test_a_call_that_goes_away_gives_its_sources_back(bundle: Bundle, decoder: Decoder) -> None:
    stopped = Slow(decoder)
    engine = Engine([(bundle, stopped)])
    watch = await engine.watching.begin(REQUEST)
    stopped.gate = threading.Event()
    stopped.entered.clear()
    reading = asyncio.create_task(watch.read(lines("a", "x" * 4000)))
    assert await asyncio.to_thread(stopped.entered.wait, 60)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    stopped.gate.set()
    await watch.end()
    assert engine.sessions.writing == 0
    assert [one.lines for one in await watched(engine, lines("a", "one"))] == [1]
    await engine.drain(0)


class Waiting(MemoryStore):
    """Sessions end once the gate is open, as in a store elsewhere."""

    waits = True

    def __init__(self) -> None:
        super().__init__(100)
        self.gate = asyncio.Event()
        self.ending = 0

    async def release(self, lease: Lease, session: Session) -> None:
        self.ending += 1
        try:
            await self.gate.wait()
        finally:
            self.ending -= 1
        await super().release(lease, session)


class Opening(MemoryStore):
    """Sessions are taken once the gate is open; then the third is refused."""

    def __init__(self) -> None:
        super().__init__(100)
        self.gate = asyncio.Event()
        self.taken = 0

    async def acquire(self, key: Key, call_id: str) -> Lease:
        self.taken += key.id != "watch.logs"
        number = self.taken
        if number:
            await self.gate.wait()
        if number == 3:
            raise StoreUnavailable("gone")
        return await super().acquire(key, call_id)


@pytest.mark.parametrize("how", ["refused", "cancelled"])
async def test_sources_are_opened_together_and_given_back_where_one_cannot_be(
    bundle: Bundle, decoder: Decoder, how: str
) -> None:
    engine = Engine([(bundle, decoder)], store=(store := Opening()))
    watch = await engine.watching.begin(REQUEST)
    reading = asyncio.create_task(watch.read([SourceLine(f"s{number}", "one") for number in range(5)]))
    while store.taken < 5:
        await asyncio.sleep(0.001)
    store.gate.set()
    if how == "cancelled":
        reading.cancel()
    with pytest.raises(asyncio.CancelledError if how == "cancelled" else StoreUnavailable):
        await reading
    assert engine.sessions.writing == 1, "the watch itself"
    await watch.end()
    await engine.drain(0)


async def cancelled_while_sessions_end(engine: Engine, store: Waiting, count: int) -> None:
    """A call with lines of five sources is cancelled while so many of them are ending; then they can end."""
    watch = await engine.watching.begin(REQUEST)
    reading = asyncio.create_task(watch.read([SourceLine(f"s{number}", "one") for number in range(5)]))
    while not store.ending:
        await asyncio.sleep(0.001)
    for _ in range(10):
        await asyncio.sleep(0)
    assert store.ending == count
    reading.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    store.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await watch.end()
    for _ in range(20):
        await asyncio.sleep(0)
    assert engine.sessions.writing == 0


async def test_a_call_that_fails_and_goes_away_while_it_gives_its_sources_back_gives_all_back(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine([(bundle, decoder)], store=(store := Waiting()))
    monkeypatch.setattr(engine.reading, "read_together", AsyncMock(side_effect=Overloaded("too many wait", 1.0)))
    await cancelled_while_sessions_end(engine, store, 5)
    await engine.drain(0)


async def test_a_call_that_goes_away_while_sources_are_written_writes_these_and_gives_the_others_back(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "SOURCES_TOGETHER", 3)
    engine = Engine([(bundle, decoder)], store=(store := Waiting()))
    await cancelled_while_sessions_end(engine, store, 3)
    sessions = [await engine.sessions.get(Key("", f"watch.logs.s{number}")) for number in range(5)]
    assert sorted(session.snapshot.position for session in sessions) == [0, 0, 4, 4, 4]
    await engine.drain(0)


async def test_where_sources_cannot_be_written_the_call_fails_and_holds_none_of_them(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine([(bundle, decoder)], store=(store := Waiting()))
    watch = await engine.watching.begin(REQUEST)
    with monkeypatch.context() as patched:
        patched.setattr(store, "release", AsyncMock(side_effect=StoreUnavailable("gone")))
        with pytest.raises(StoreUnavailable, match="gone"):
            await watch.read([SourceLine(f"s{number}", "one") for number in range(5)])
    assert engine.sessions.writing == 1
    store.gate.set()
    await watch.end()
    await engine.drain(0)


async def test_what_is_kept_of_a_source_is_its_state_and_its_calibration(engine: Engine) -> None:
    await watched(engine, lines("a", *["all is well"] * 100))
    session = await engine.sessions.get(Key("", "watch.logs.a"))
    assert session.history.tokens == b""
    assert session.memory < 2000 + session.snapshot.state.nbytes + 600
    kept = to_session(from_session(session))
    assert kept.notes == session.notes
    assert np.array_equal(kept.snapshot.state, session.snapshot.state)
