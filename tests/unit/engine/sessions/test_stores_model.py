"""Random calls of the stores, against a model."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from charloom.engine.errors import (
    EngineError,
    Overloaded,
    SessionBusy,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionNotFound,
    SessionTakenOver,
)
from charloom.engine.sessions.session import Call, Key, Session
from charloom.engine.sessions.stores.store import Lease
from tests.unit.engine.redis_server import RedisServer
from tests.unit.engine.stores import LEASE, InFile, InRedis, Place, made, same


@dataclass
class Kept:
    session: Session
    fence: int = 0
    held: bool = False
    call_id: str = ""
    lease_until: float = 0.0


@dataclass
class Model:
    """What a store should do, as plainly as it can be said."""

    place: Place
    leases_end: bool
    capacity: int
    kept: dict[Key, Kept] = field(default_factory=dict)
    gone: dict[Key, tuple[type[SessionNotFound], datetime, int]] = field(default_factory=dict)
    """What they are called, since when, and the fence of who may write them again."""

    def live(self, one: Kept) -> bool:
        return one.held and (not self.leases_end or one.lease_until > self.place.clock.uptime)

    def settle(self) -> None:
        """Let expire what is due."""
        for key, one in list(self.kept.items()):
            if one.session.expires <= self.place.now() and not self.live(one):
                del self.kept[key]
                self.gone[key] = (SessionExpired, one.session.expires, one.fence if one.held else 0)

    def hold(self, one: Kept) -> None:
        one.lease_until = self.place.clock.uptime + LEASE * self.place.tick

    def find(self, key: Key) -> Kept | type[EngineError]:
        if key in self.kept:
            return self.kept[key]
        return self.gone[key][0] if key in self.gone else SessionNotFound

    def may_write(self, lease: Lease) -> bool:
        key = lease.session.key
        if key in self.kept:
            return self.kept[key].held and self.kept[key].fence == lease.fence
        return key not in self.gone or self.gone[key][2] == lease.fence

    def write(self, lease: Lease, session: Session, held: bool) -> None:
        key = session.key
        self.gone.pop(key, None)
        call_id = self.kept[key].call_id if key in self.kept else session.call.id if session.call else ""
        self.kept[key] = Kept(session, lease.fence, held, call_id if held else "")
        self.hold(self.kept[key])


KEYS = [Key(tenant, name) for tenant in ("", "t") for name in "abc"]
keys = st.sampled_from(KEYS)
call_ids = st.sampled_from(["", "one", "two"])
replicas = st.integers(0, 1)


class Machine(RuleBasedStateMachine):
    """Random calls of two replicas, or of one server where sessions are not shared."""

    new_place: ClassVar[Callable[[], Place]]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.place = type(self).new_place()
        self.numbers = itertools.count(1)

    @initialize()
    def begin(self) -> None:
        first = self.place.open(4)
        self.stores = [first, self.place.open(4) if first.shared else first]
        self.model = Model(self.place, first.shared, 4)
        self.leases: list[tuple[Lease, str]] = []
        self.given_back: set[int] = set()

    def teardown(self) -> None:
        self.loop.run_until_complete(self.place.close())
        self.loop.close()

    def outcome(self, replica: int, method: str, *values: Any) -> Any:
        """What a method returns, or the type of what it raises."""
        self.model.settle()
        try:
            return self.loop.run_until_complete(getattr(self.stores[replica], method)(*values))
        except EngineError as problem:
            refused = problem
        if isinstance(refused, (SessionExpired, SessionDeleted)):
            assert refused.at == self.model.gone[values[0]][1]
        return type(refused)

    def next_version(self, session: Session) -> Session:
        return replace(session.renewed(self.place.now()), version=next(self.numbers))

    @rule(replica=replicas, wanted=st.lists(keys, min_size=1, max_size=3, unique=True), ticks=st.integers(1, 30))
    def add(self, replica: int, wanted: list[Key], ticks: int) -> None:
        sessions = [self.next_version(made(self.place, key.id, key.tenant, ticks)) for key in wanted]
        outcome = self.outcome(replica, "add", sessions)
        if any(key in self.model.kept for key in wanted):
            assert outcome is SessionExists
        elif len(self.model.kept) + len(wanted) > self.model.capacity:
            assert outcome is Overloaded
        else:
            assert outcome is None
            for session in sessions:
                self.model.kept[session.key] = Kept(session)
                self.model.gone.pop(session.key, None)

    @rule(replica=replicas, key=keys)
    def get(self, replica: int, key: Key) -> None:
        outcome = self.outcome(replica, "get", key)
        found = self.model.find(key)
        assert same(outcome, found.session) if isinstance(found, Kept) else outcome is found

    @rule(replica=replicas, key=keys, call_id=call_ids)
    def acquire(self, replica: int, key: Key, call_id: str) -> None:
        outcome = self.outcome(replica, "acquire", key, call_id)
        found = self.model.find(key)
        if not isinstance(found, Kept):
            assert outcome is found
            return
        again = found.held and call_id != "" and found.call_id == call_id
        if self.model.live(found) and not again:
            assert outcome is SessionBusy
            return
        assert same(outcome.session, found.session)
        assert outcome.same_call == again
        assert outcome.fence > max((lease.fence for lease, _ in self.leases), default=0)
        self.leases.append((outcome, call_id))
        found.fence, found.held, found.call_id = outcome.fence, True, call_id
        self.model.hold(found)

    @precondition(lambda self: self.leases)
    @rule(replica=replicas, data=st.data(), held=st.booleans())
    def write(self, replica: int, data: st.DataObject, held: bool) -> None:
        lease, call_id = self.leases[data.draw(st.integers(0, len(self.leases) - 1))]
        session = replace(self.next_version(lease.session), call=Call(call_id, 0, 0) if call_id else None)
        outcome = self.outcome(replica, "write" if held else "release", lease, session)
        if self.model.may_write(lease):
            assert outcome is None
            self.model.write(lease, session, held)
            if not held:
                self.given_back.add(lease.fence)
        else:
            assert outcome is SessionTakenOver

    @rule(replica=replicas)
    def renew(self, replica: int) -> None:
        self.model.settle()
        wanted = [lease for lease, _ in self.leases if lease.fence not in self.given_back]
        lost = {lease.fence for lease in self.outcome(replica, "renew", wanted)}
        assert lost == {lease.fence for lease in wanted if not self.model.may_write(lease)}
        for lease in wanted:
            if lease.fence not in lost and lease.session.key in self.model.kept:
                self.model.hold(self.model.kept[lease.session.key])

    @rule(replica=replicas, key=keys)
    def delete(self, replica: int, key: Key) -> None:
        outcome = self.outcome(replica, "delete", key)
        found = self.model.find(key)
        if not isinstance(found, Kept):
            assert outcome is found
        elif self.model.live(found):
            assert outcome is SessionBusy
        else:
            assert same(outcome, found.session)
            del self.model.kept[key]
            self.model.gone[key] = (SessionDeleted, self.place.now(), 0)

    @rule(replica=replicas, tenant=st.sampled_from(["", "t"]), count=st.integers(1, 4))
    def erase(self, replica: int, tenant: str, count: int) -> None:
        self.outcome(replica, "sweep")
        outcome = self.outcome(replica, "erase", tenant, count)
        kept = sorted(key for key in self.model.kept if key.tenant == tenant)
        assert [one.id for one in outcome] == [key.id for key in kept[:count]]
        for key in kept[:count]:
            del self.model.kept[key]
            self.model.gone[key] = (SessionDeleted, self.place.now(), 0)
        if len(kept) < count:
            for key, (kind, at, _) in self.model.gone.items():
                if key.tenant == tenant:
                    self.model.gone[key] = (kind, at, 0)

    @rule(replica=replicas)
    def sweep(self, replica: int) -> None:
        assert self.outcome(replica, "sweep") >= 0

    @rule(ticks=st.integers(1, 12))
    def wait(self, ticks: int) -> None:
        self.loop.run_until_complete(self.place.wait(ticks))

    @invariant()
    def pages_are_complete(self) -> None:
        for tenant in ("", "t"):
            page = self.outcome(0, "page", tenant, "", 10)
            assert [session.key for session in page] == sorted(key for key in self.model.kept if key.tenant == tenant)
            assert all(same(session, self.model.kept[session.key].session) for session in page)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
def test_a_store_does_what_a_model_does(
    kind: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    def new_place() -> Place:
        if kind == "redis":
            server: RedisServer = request.getfixturevalue("redis_server")
            server.ask("FLUSHALL")
            return InRedis(server.url)
        return InFile(tmp_path_factory.mktemp("model") / "sessions.db") if kind == "sqlite" else Place()

    class OfKind(Machine):
        pass

    OfKind.new_place = new_place
    run_state_machine_as_test(OfKind, settings=settings(max_examples=60, stateful_step_count=40))
