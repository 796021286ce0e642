"""/v1/sessions: sessions as values, the calls of gRPC's SessionService as plain JSON."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

from pydantic import Field

from charloom.engine.calls.requests import ReadingRequest, within
from charloom.engine.errors import InvalidRequest
from charloom.engine.limits import DEFAULT_PAGE, LARGEST_PAGE, MOST_BLENDED, MOST_FORKS
from charloom.engine.sessions.records import Unreadable
from charloom.engine.sessions.session import Key, Session
from charloom.server.caller import current_caller
from charloom.server.http.bodies import Body, Count, Items, ReadingBody, Whole
from charloom.server.http.exchange import Exchange, json_of
from charloom.server.http.sampling import decoded_state
from charloom.server.runtime import Runtime
from charloom.server.session_moves import move_session

LONGEST_TIME = 10**9
"""Seconds that a `timedelta` surely holds; what a server allows is less."""


class Kept(Body):
    """What a new session takes."""

    session_id: str = Field("", description="up to 64 letters, digits, '.', '_', '-'; empty lets the server choose")
    time_to_live: float | None = Field(None, description="seconds that it is kept without use")


class NewSession(Kept):
    """A session from the beginning."""

    model: str = Field("", description="a model of /v1/models; empty for the default one")
    seed: Whole | None = Field(None, ge=0, description="of its random numbers; the server draws one if there is none")
    adaptive: bool = Field(False, description="whether it learns from its text")


class ImportedSession(Kept):
    """A session from a sealed state."""

    state: str = Field(description="a sealed state, in base64")


class Source(Body):
    """A state that is blended."""

    session_id: str
    weight: float


class BlendedSession(Kept):
    """A session whose state is the weighted mean of others' states."""

    sources: Items[Source] = Field(
        max_length=MOST_BLENDED, description="from 2 to 16; the first one's last token is the next that is read"
    )
    seed: Whole | None = Field(None, ge=0)


class Renewal(Body):
    """How long a session is kept."""

    time_to_live: float | None = Field(None, description="seconds that it is kept without use; as before if left out")


class Feeding(ReadingBody):
    """Text for a session to read."""

    text: str
    expected_position: Count | None = Field(None, description="refuse unless the session is there")


class Rewinding(Body):
    """Where a session is put back to."""

    position: Count
    seed: Whole | None = Field(None, ge=0, description="of its random numbers from there on; as before if left out")
    expected_position: Count | None = Field(None, description="refuse unless the session is there")


class Moving(ReadingBody):
    """Which model a session is moved to."""

    model: str = Field("", description="empty for the one of the session's own name, or else the default one")
    expected_position: Count | None = Field(None, description="refuse unless the session is there")


class Forking(Body):
    """Copies of a session."""

    position: Count | None = Field(None, description="where it is copied; where it stands if left out")
    count: Count = Field(1, description=f"how many copies, up to {MOST_FORKS}")
    seed: Whole | None = Field(None, ge=0, description="number i gets the seed seed + i")
    new_session_ids: Items[str] = Field(default_factory=list, description="of the copies, as many as copies")
    time_to_live: float | None = Field(None, description="seconds; as of the session that is copied if left out")


class Sealing(Body):
    """How long a sealed state can be used."""

    time_to_live: float | None = Field(None, description="seconds")


class Sessions:
    """Makes, changes, copies, moves, seals and deletes sessions of the caller's tenant."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._reading = runtime.engine.reading
        self._sessions = runtime.engine.sessions

    async def create(self, exchange: Exchange, body: NewSession) -> None:
        """Make one with zero state."""
        session = await self._sessions.create(
            tenant=current_caller().tenant,
            model=body.model,
            session_id=body.session_id,
            seed=body.seed,
            time_to_live=time_of(body.time_to_live),
            adaptive=body.adaptive,
        )
        await exchange.answer(json_of(told(session)), 201)

    async def list(self, exchange: Exchange, body: None) -> None:
        """A page of them, in the order of their ids."""
        query = dict(exchange.query)
        limit = query.get("limit", str(DEFAULT_PAGE))
        if not (limit.isascii() and limit.isdecimal()):
            raise InvalidRequest("limit", "it is no number")
        size = int(limit[:9])
        within("limit", size, 1, LARGEST_PAGE)
        found = await self._sessions.page(current_caller().tenant, query.get("after", ""), size + 1)
        page = found[:size]
        answer: dict[str, Any] = {
            "object": "list",
            "data": [told(one) for one in page if isinstance(one, Session)],
            "last_id": page[-1].id if page else None,
            "has_more": len(found) > size,
        }
        if unreadable := [one._asdict() for one in page if isinstance(one, Unreadable)]:
            answer["unreadable"] = unreadable
        await exchange.answer(json_of(answer))

    async def get(self, exchange: Exchange, body: None) -> None:
        """Describe one."""
        await exchange.answer(json_of(told(await self._sessions.get(_key(exchange)))))

    async def renew(self, exchange: Exchange, body: Renewal) -> None:
        """Set how long one is kept."""
        await exchange.answer(json_of(told(await self._sessions.renew(_key(exchange), time_of(body.time_to_live)))))

    async def delete(self, exchange: Exchange, body: None) -> None:
        """Forget one, and all that it could go back to."""
        session, time = await self._sessions.delete(_key(exchange))
        await exchange.answer(json_of({**told(session), "deleted": True, "deleted_at": time.timestamp()}))

    async def feed(self, exchange: Exchange, body: Feeding) -> None:
        """Let one read a text, without generating."""
        request = ReadingRequest(key=_key(exchange), text=body.text, skip_unknown=body.skip_unknown)
        await exchange.answer(json_of(told(await self._reading.feed(request, body.expected_position))))

    async def rewind(self, exchange: Exchange, body: Rewinding) -> None:
        """Put one back to an earlier position."""
        session = await self._sessions.rewind(_key(exchange), body.position, body.seed, body.expected_position)
        await exchange.answer(json_of(told(session)))

    async def move(self, exchange: Exchange, body: Moving) -> None:
        """Let another model read the text of one, which goes on with that model."""
        session = await move_session(
            self._runtime,
            _key(exchange),
            body.model,
            skip_unknown=body.skip_unknown,
            expected_position=body.expected_position,
        )
        await exchange.answer(json_of(told(session)))

    async def fork(self, exchange: Exchange, body: Forking) -> None:
        """Make sessions that go on from a position of one."""
        sessions = await self._sessions.fork(
            _key(exchange),
            position=body.position,
            count=body.count,
            seed=body.seed,
            ids=body.new_session_ids,
            time_to_live=time_of(body.time_to_live),
        )
        await exchange.answer(json_of({"object": "list", "data": [told(session) for session in sessions]}), 201)

    async def blend(self, exchange: Exchange, body: BlendedSession) -> None:
        """Make one whose state is the weighted mean of others."""
        tenant = current_caller().tenant
        session = await self._reading.blend(
            [(Key(tenant, source.session_id), source.weight) for source in body.sources],
            Key(tenant, body.session_id),
            body.seed,
            time_of(body.time_to_live),
        )
        await exchange.answer(json_of(told(session)), 201)

    async def export(self, exchange: Exchange, body: Sealing) -> None:
        """Seal the state of one."""
        state, expires = await self._sessions.export(_key(exchange), time_of(body.time_to_live))
        await exchange.answer(json_of({"state": base64.b64encode(state).decode(), "expires_at": expires.timestamp()}))

    async def import_(self, exchange: Exchange, body: ImportedSession) -> None:
        """Make one of a sealed state."""
        key = Key(current_caller().tenant, body.session_id)
        session, exact = await self._sessions.import_(decoded_state(body.state), key, time_of(body.time_to_live))
        await exchange.answer(json_of({**told(session), "exact": exact}), 201)


def _key(exchange: Exchange) -> Key:
    return Key(current_caller().tenant, exchange.path_params["session_id"])


def time_of(seconds: float | None) -> timedelta | None:
    """A time to live that the engine can check."""
    return None if seconds is None else timedelta(seconds=max(-LONGEST_TIME, min(seconds, LONGEST_TIME)))


def told(session: Session) -> dict[str, Any]:
    """A session as JSON: no text, no state. Times are seconds since 1970."""
    origin = session.origin
    return {
        "id": session.id,
        "object": "session",
        "model": session.model,
        "digest": session.model_digest,
        "position": session.snapshot.position,
        "earliest_position": session.history.earliest,
        "version": session.version,
        "seed": session.snapshot.seed,
        "adaptive": session.adaptive,
        "created_at": session.created.timestamp(),
        "updated_at": session.updated.timestamp(),
        "expires_at": session.expires.timestamp(),
        "time_to_live": session.time_to_live.total_seconds(),
        "origin": None if origin is None else {"session_id": origin.session_id, "position": origin.position},
    }
