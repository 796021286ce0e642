"""A session has one user at a time, in all stores and in those that several servers share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace

import pytest

from charloom.engine.errors import (
    SessionBusy,
    SessionExists,
    SessionExpired,
    SessionTakenOver,
)
from charloom.engine.sessions.session import Key
from charloom.engine.sessions.stores.store import Lease
from tests.unit.engine.stores import LEASE, START, Place, grown, ids, made


async def test_a_session_has_one_user(place: Place) -> None:
    store, key = place.open(), Key("", "a")
    await store.add([replace(made(place, "a"), snapshot=grown(made(place, "a"), START).snapshot)])
    lease = await store.acquire(key, "one")
    for call_id in ("", "two"):
        with pytest.raises(SessionBusy) as busy:
            await store.acquire(key, call_id)
        assert busy.value.position == 1
    with pytest.raises(SessionBusy):
        await store.delete(key)
    with pytest.raises(SessionExists):
        await store.add([made(place, "a")])
    await store.get(key)
    await store.release(lease, lease.session)
    nameless = await store.acquire(key)
    assert not nameless.same_call
    assert nameless.fence > lease.fence
    with pytest.raises(SessionBusy):
        await store.acquire(key)
    await store.release(nameless, nameless.session)
    await store.delete(key)


async def test_of_many_that_want_a_session_at_once_one_gets_it(place: Place) -> None:
    store, key = place.open(), Key("", "a")
    await store.add([made(place, "a")])
    outcomes = await asyncio.gather(*(store.acquire(key, str(n)) for n in range(50)), return_exceptions=True)
    assert sum(isinstance(outcome, Lease) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, SessionBusy) for outcome in outcomes) == 49


async def test_the_same_call_takes_over_from_itself(place: Place) -> None:
    store, key = place.open(), Key("", "a")
    await store.add([made(place, "a")])
    old = await store.acquire(key, "call")
    new = await store.acquire(key, "call")
    assert new.same_call
    assert not old.same_call
    assert new.fence > old.fence
    for method in (store.write, store.release):
        with pytest.raises(SessionTakenOver):
            await method(old, grown(old.session, place.now()))
    assert (await store.get(key)).version == 0
    assert await store.renew([old, new]) == [old]
    await store.release(new, grown(new.session, place.now()))
    assert (await store.get(key)).version == 1
    later = await store.acquire(key, "call")
    assert not later.same_call, "the call had ended"
    with pytest.raises(SessionTakenOver):
        await store.release(old, old.session)


async def test_what_was_given_back_cannot_be_written_any_more(place: Place) -> None:
    store, key = place.open(), Key("", "a")
    await store.add([made(place, "a")])
    lease = await store.acquire(key, "call")
    await store.release(lease, lease.session)
    for method in (store.write, store.release):
        with pytest.raises(SessionTakenOver):
            await method(lease, grown(lease.session, place.now()))
    await store.renew([lease])  # which may have been on its way when the lease was given back
    await store.release(await store.acquire(key, "other"), lease.session)
    await store.delete(key)
    with pytest.raises(SessionTakenOver):
        await store.release(lease, lease.session)
    await store.add([made(place, "a")])
    with pytest.raises(SessionTakenOver):
        await store.release(lease, lease.session)
    assert await store.renew([lease]) == [lease]


async def test_what_was_given_back_and_expired_cannot_be_written_any_more(place: Place) -> None:
    store, key = place.open(), Key("", "a")
    await store.add([made(place, "a", ticks=1)])
    lease = await store.acquire(key, "call")
    await store.release(lease, lease.session)
    await place.wait(2)
    for swept in (0, 1):
        assert await store.sweep() == 1 - swept
        for method in (store.write, store.release):
            with pytest.raises(SessionTakenOver):
                await method(lease, grown(lease.session, place.now()))
    with pytest.raises(SessionExpired):
        await store.get(key)


async def test_a_session_in_use_does_not_expire(place: Place) -> None:
    store, key = place.open(), Key("", "a")
    await store.add([made(place, "a", ticks=3)])
    lease = await store.acquire(key)
    for _ in range(3):
        await place.wait(2)
        assert await store.renew([lease]) == []
    assert await store.sweep() == 0
    assert await ids(store) == ["a"]
    assert (await store.get(key)).version == 0
    with pytest.raises(SessionBusy):
        await store.acquire(key)
    changed = grown(lease.session, place.now())
    await store.write(lease, changed)
    await place.wait(4)
    await store.renew([lease])
    assert (await store.get(key)).version == 1
    await store.release(lease, changed)  # not renewed
    with pytest.raises(SessionExpired) as expired:
        await store.get(key)
    assert expired.value.at == changed.expires


# Leases that end.


async def test_a_lease_that_is_not_renewed_ends(shared_place: Place) -> None:
    one, two = shared_place.open(), shared_place.open()
    key = Key("", "a")
    await one.add([made(shared_place, "a")])
    old = await one.acquire(key, "old")
    await shared_place.wait(LEASE / 2)
    assert await one.renew([old]) == []
    await shared_place.wait(LEASE * 2 / 3)
    with pytest.raises(SessionBusy):
        await two.acquire(key, "new")
    await shared_place.wait(LEASE / 2)
    new = await two.acquire(key, "new")
    assert not new.same_call
    assert new.fence > old.fence
    for method in (one.write, one.release):
        with pytest.raises(SessionTakenOver):
            await method(old, grown(old.session, shared_place.now()))
    assert await one.renew([old]) == [old]
    await two.release(new, grown(new.session, shared_place.now()))
    with pytest.raises(SessionTakenOver):
        await one.release(old, old.session)
    assert (await one.get(key)).version == 1


async def test_writing_renews_a_lease(shared_place: Place) -> None:
    store, key = shared_place.open(), Key("", "a")
    await store.add([made(shared_place, "a")])
    lease = await store.acquire(key)
    for _ in range(3):
        await shared_place.wait(LEASE / 2)
        await store.write(lease, grown(lease.session, shared_place.now()))
    with pytest.raises(SessionBusy):
        await store.acquire(key)


async def test_a_lease_that_ended_can_be_written_and_renewed_until_there_is_a_later_one(shared_place: Place) -> None:
    store, key = shared_place.open(), Key("", "a")
    await store.add([made(shared_place, "a")])
    lease = await store.acquire(key, "call")
    await shared_place.wait(LEASE + 1)
    assert await store.renew([lease]) == []
    with pytest.raises(SessionBusy):
        await store.acquire(key)
    await shared_place.wait(LEASE + 1)
    await store.write(lease, grown(lease.session, shared_place.now()))
    with pytest.raises(SessionBusy):
        await store.acquire(key)
    await shared_place.wait(LEASE + 1)
    taken = await store.acquire(key, "call")
    assert taken.same_call, "it had not ended"
    await shared_place.wait(LEASE + 1)
    await store.delete(key)
    for method in (store.write, store.release):
        with pytest.raises(SessionTakenOver):
            await method(taken, taken.session)
    assert await store.renew([taken]) == [taken]


async def test_a_session_expires_with_the_lease_that_kept_it(shared_place: Place) -> None:
    store, key = shared_place.open(), Key("", "a")
    session = made(shared_place, "a", ticks=2)
    await store.add([session])
    lease = await store.acquire(key, "call")
    await shared_place.wait(LEASE - 2)
    await store.get(key)
    await shared_place.wait(3)
    with pytest.raises(SessionExpired) as expired:
        await store.get(key)
    assert expired.value.at == session.expires
    for swept in (0, 1):
        if swept:
            assert await store.sweep() == 1
        assert await store.renew([lease]) == []
        with pytest.raises(SessionExpired):
            await store.acquire(key, "call")
    # Nobody has used its id since.
    await store.write(lease, grown(lease.session, shared_place.now()))
    assert (await store.get(key)).version == 1
    await store.release(lease, grown(lease.session, shared_place.now()))
    assert await ids(store) == ["a"]
    assert (await store.acquire(key)).fence > lease.fence


async def test_a_late_holder_does_not_undo_what_happened_to_an_id_since(shared_place: Place) -> None:
    store, key = shared_place.open(), Key("", "a")
    await store.add([made(shared_place, "a", ticks=1)])
    lease = await store.acquire(key)
    await shared_place.wait(LEASE + 1)
    await store.add([made(shared_place, "a", ticks=1)])
    for _ in range(2):
        with pytest.raises(SessionTakenOver):
            await store.release(lease, lease.session)
        assert await store.renew([lease]) == [lease]
        await shared_place.wait(2)
        await store.sweep()
    with pytest.raises(SessionExpired):
        await store.get(key)


async def test_who_stops_waiting_for_a_session_does_not_hold_it(shared_place: Place) -> None:
    store, key = shared_place.open(), Key("", "a")
    await store.add([made(shared_place, "a")])
    for steps in range(12):
        waiting = asyncio.create_task(store.acquire(key, f"call {steps}"))
        for _ in range(steps):
            await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await store.release(await waiting, made(shared_place, "a"))
            break
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(SessionBusy):
                await store.release(await store.acquire(key), made(shared_place, "a"))
                break
            assert time.monotonic() < end
            await asyncio.sleep(0.001)
