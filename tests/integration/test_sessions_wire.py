"""Sessions as values, over the wire, through generated stubs, against a real server."""

from __future__ import annotations

import base64
import math
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import generation_pb2, sessions_pb2
from tests.integration.conftest import refused
from tests.integration.wire_sessions import (
    ABORTED,
    INVALID,
    NOT_FOUND,
    OUT_OF_RANGE,
    Generation,
    Session,
    Sessions,
    create,
    get,
    names,
    text_of,
)


def test_a_generation_makes_its_session_where_there_never_was_one(generation: Generation, sessions: Sessions) -> None:
    new = generation_pb2.NewSession(time_to_live=Duration(seconds=90))
    made, usual = Session(id=next(names)), create(sessions, seed=7)
    texts = [text_of(generation, made, 20, prompt="The ", seed=7, new_session=new) for _ in range(2)]
    assert texts == [text_of(generation, usual, 20, prompt="The ", seed=7) for _ in range(2)]
    found = get(sessions, made)
    assert (found.position, found.version, found.seed, found.time_to_live.seconds) == (48, 2, 7, 90)
    # This one has read something.
    again = refused(lambda: text_of(generation, made, 1, new_session=new, expected_position=0))
    assert again[:2] == (ABORTED, "STALE_POSITION")
    sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(session_id=made.id))
    gone = refused(lambda: text_of(generation, made, 1, new_session=new))
    assert gone[:2] == (NOT_FOUND, "SESSION_DELETED")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"prompt": "\N{SNOWMAN}"}, INVALID),
        ({"new_session": generation_pb2.NewSession(time_to_live=Duration(seconds=10**10))}, INVALID),
        ({"n": 2}, INVALID),
        ({"sampling": generation_pb2.Sampling(top_p=2)}, INVALID),
        ({"model": "nobody"}, NOT_FOUND),
        ({"expected_position": 3}, NOT_FOUND),
    ],
)
def test_a_call_that_is_refused_makes_no_session(
    generation: Generation, sessions: Sessions, fields: dict[str, Any], code: grpc.StatusCode
) -> None:
    session, asked = Session(id=next(names)), {"new_session": generation_pb2.NewSession()} | fields
    assert refused(lambda: text_of(generation, session, 1, **asked))[0] is code
    assert refused(lambda: get(sessions, session))[:2] == (NOT_FOUND, "SESSION_NOT_FOUND")


def test_a_call_that_made_its_session_and_broke_off_is_made_again(generation: Generation, sessions: Sessions) -> None:
    options = generation_pb2.GenerationOptions(
        session_id=next(names), max_tokens=3000, seed=7, new_session=generation_pb2.NewSession()
    )
    request = generation_pb2.GenerateRequest(options=options, call_id="first")
    call = generation.Generate(request)
    begun = next(iter(call)).text
    call.cancel()
    again = "".join(reply.text for reply in generation.Generate(request))
    assert again.startswith(begun)
    assert again == text_of(generation, create(sessions, seed=7), 3000)


def test_a_new_session_needs_an_id(generation: Generation) -> None:
    new = generation_pb2.NewSession()
    _, _, fields, _ = refused(lambda: text_of(generation, Session(), 1, new_session=new))
    assert list(fields) == ["new_session"]


def test_a_session_is_fed_put_back_copied_renewed_and_forgotten(generation: Generation, sessions: Sessions) -> None:
    session = create(sessions, seed=1)
    fed = sessions.FeedSession(sessions_pb2.FeedSessionRequest(session_id=session.id, text="The ", expected_position=0))
    assert (fed.session.position, fed.session.version, fed.session.earliest_position) == (4, 1, 0)
    text = text_of(generation, session, 60)
    put_back = sessions.RewindSession(
        sessions_pb2.RewindSessionRequest(session_id=session.id, position=34, expected_position=64)
    )
    assert (put_back.session.position, put_back.session.seed) == (34, 1)
    copies = sessions.ForkSession(
        sessions_pb2.ForkSessionRequest(
            session_id=session.id, position=14, count=2, seed=1, new_session_ids=["f1", "f2"]
        )
    ).sessions
    assert [(one.id, one.position, one.seed, one.origin.session_id) for one in copies] == [
        ("f1", 14, 1, session.id),
        ("f2", 14, 2, session.id),
    ]
    assert text_of(generation, session, 30) == text[30:]
    assert text_of(generation, copies[0], 50) == text[10:]
    assert text_of(generation, copies[1], 50) != text[10:]
    renewed = sessions.UpdateSession(
        sessions_pb2.UpdateSessionRequest(session_id=session.id, time_to_live=Duration(seconds=7200))
    ).session
    assert renewed.time_to_live.seconds == 7200
    receipt = sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(session_id=session.id))
    assert receipt.session.position == 64
    assert receipt.delete_time.ToDatetime() >= receipt.session.update_time.ToDatetime()
    for call in (
        lambda: get(sessions, session),
        lambda: sessions.ForkSession(sessions_pb2.ForkSessionRequest(session_id=session.id)),
        lambda: sessions.RewindSession(sessions_pb2.RewindSessionRequest(session_id=session.id, position=1)),
        lambda: sessions.ExportSession(sessions_pb2.ExportSessionRequest(session_id=session.id)),
    ):
        assert refused(call)[:2] == (NOT_FOUND, "SESSION_DELETED")


def test_positions_that_cannot_be_had(sessions: Sessions) -> None:
    session = create(sessions)
    sessions.FeedSession(sessions_pb2.FeedSessionRequest(session_id=session.id, text="a" * 40))
    rewind = sessions_pb2.RewindSessionRequest(session_id=session.id, position=41)
    code, reason, _, message = refused(lambda: sessions.RewindSession(rewind))
    assert (code, reason) == (OUT_OF_RANGE, "POSITION_NOT_KEPT")
    assert "from 0 to 40" in message
    stale = sessions_pb2.RewindSessionRequest(session_id=session.id, position=3, expected_position=39)
    assert refused(lambda: sessions.RewindSession(stale))[:2] == (ABORTED, "STALE_POSITION")
    fork = sessions_pb2.ForkSessionRequest(session_id=session.id, count=10_000)
    code, _, violations, _ = refused(lambda: sessions.ForkSession(fork))
    assert (code, set(violations)) == (INVALID, {"count"})


def test_states_are_blended(generation: Generation, sessions: Sessions) -> None:
    one, two = create(sessions, seed=1), create(sessions, seed=2)
    for session in (one, two):
        text_of(generation, session, 30)
    sources = [reading_source(one, 3), reading_source(two, 1)]
    blend = sessions.BlendSessions(sessions_pb2.BlendSessionsRequest(sources=sources, seed=3)).session
    assert (blend.position, blend.earliest_position, blend.seed) == (30, 30, 3)
    assert len(text_of(generation, blend, 30)) == 30
    for weight in (0, -1, math.nan, math.inf):
        wrong = [reading_source(one, 1), reading_source(two, weight)]
        code, _, violations, _ = refused(
            lambda wrong=wrong: sessions.BlendSessions(sessions_pb2.BlendSessionsRequest(sources=wrong))
        )
        assert (code, set(violations)) == (INVALID, {"sources[1].weight"})


def reading_source(session: Session, weight: float) -> sessions_pb2.BlendSource:
    return sessions_pb2.BlendSource(session_id=session.id, weight=weight)


def test_a_state_is_exported_imported_and_used_without_a_session(generation: Generation, sessions: Sessions) -> None:
    session = create(sessions, seed=5)
    text_of(generation, session, 40)
    exported = sessions.ExportSession(sessions_pb2.ExportSessionRequest(session_id=session.id))
    imported = sessions.ImportSession(sessions_pb2.ImportSessionRequest(state=exported.state, session_id=next(names)))
    assert imported.exact
    options = generation_pb2.GenerationOptions(state=exported.state, max_tokens=25, return_state=True)
    first = generation.Complete(generation_pb2.CompleteRequest(options=options)).completions[0]
    further = generation_pb2.GenerationOptions(state=first.result.state, max_tokens=25)
    second = generation.Complete(generation_pb2.CompleteRequest(options=further)).completions[0]
    assert first.text + second.text == text_of(generation, session, 50) == text_of(generation, imported.session, 50)
    assert not second.result.state


def test_states_that_cannot_be_opened(sessions: Sessions, channel: grpc.Channel) -> None:
    session = create(sessions)
    state = sessions.ExportSession(sessions_pb2.ExportSessionRequest(session_id=session.id)).state

    def import_(data: bytes) -> Any:
        return lambda: sessions.ImportSession(sessions_pb2.ImportSessionRequest(state=data))

    corrupt = (grpc.StatusCode.DATA_LOSS, "SEALED_STATE_CORRUPT")
    for wrong in (b"", b"x", state[:-1], state + b"x", state[:100] + bytes([state[100] ^ 1]) + state[101:]):
        assert refused(import_(wrong))[:2] == corrupt
    assert refused(import_(state[:4] + b"\x09" + state[5:]))[:2] == (INVALID, "SEALED_STATE_VERSION")
    mine = sessions.ExportSession(
        sessions_pb2.ExportSessionRequest(session_id=session.id, time_to_live=Duration(nanos=1_000_000))
    )
    time.sleep(0.01)
    assert refused(import_(mine.state))[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "SEALED_STATE_EXPIRED")
    foreign = sessions_pb2.ImportSessionRequest(state=state)
    code, reason, _, _ = refused(lambda: sessions.ImportSession(foreign, metadata=(("charloom-tenant", "else"),)))
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "SEALED_STATE_OF_ANOTHER_TENANT")
    with pytest.raises(grpc.RpcError) as huge:
        sessions.ImportSession(sessions_pb2.ImportSessionRequest(state=bytes(100 * 2**20)))
    assert huge.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
    assert get(sessions, session).version == 0  # the server is well


def test_a_state_of_another_model_is_told_from_one_with_another_key(
    bundle: Bundle, decoder: Decoder, tmp_path: Path
) -> None:
    keys = {name: tmp_path / name for name in ("one", "two")}
    for number, file in enumerate(keys.values()):
        file.touch(mode=0o600)
        file.write_text(base64.b64encode(bytes([number] * 32)).decode())
    retrained = replace(bundle, manifest=bundle.manifest.model_copy(update={"digest": "0" * 64}))

    def served(model: Bundle, key: str) -> AbstractContextManager[Server]:
        return running_server(
            [(model, decoder)], ServerSettings(sealing_keys=keys[key], grace_seconds=0, trust_proxy="127.0.0.1")
        )

    with served(bundle, "one") as server, grpc.insecure_channel(server.address) as channel:
        session = create(Sessions(channel))
        state = Sessions(channel).ExportSession(sessions_pb2.ExportSessionRequest(session_id=session.id)).state
    request = sessions_pb2.ImportSessionRequest(state=state)
    for model, key, expected in (
        (bundle, "two", (grpc.StatusCode.DATA_LOSS, "SEALED_STATE_CORRUPT")),
        (retrained, "one", (grpc.StatusCode.FAILED_PRECONDITION, "SEALED_STATE_OF_ANOTHER_MODEL")),
    ):
        with served(model, key) as server, grpc.insecure_channel(server.address) as channel:
            stub = Sessions(channel)
            assert refused(lambda stub=stub: stub.ImportSession(request))[:2] == expected
    with served(bundle, "one") as server, grpc.insecure_channel(server.address) as channel:
        assert Sessions(channel).ImportSession(request).exact


def test_tenants_are_apart(sessions: Sessions, generation: Generation) -> None:
    mine = (("charloom-tenant", "a"),)
    request = sessions_pb2.CreateSessionRequest(session_id="shared-name", seed=4)
    sessions.CreateSession(request, metadata=mine)
    sessions.CreateSession(request, metadata=(("charloom-tenant", "b"),))
    listed = sessions.ListSessions(sessions_pb2.ListSessionsRequest(), metadata=mine).sessions
    assert [one.id for one in listed] == ["shared-name"]
    assert (
        refused(lambda: sessions.GetSession(sessions_pb2.GetSessionRequest(session_id="shared-name")))[0] is NOT_FOUND
    )
    code, _, violations, _ = refused(
        lambda: sessions.ListSessions(sessions_pb2.ListSessionsRequest(), metadata=(("charloom-tenant", "a/b"),))
    )
    assert (code, set(violations)) == (INVALID, {"charloom-tenant"})


def test_a_stream_is_resumed_where_its_client_stands(
    server: Server, generation: Generation, sessions: Sessions
) -> None:
    session, alone = create(sessions, seed=8), create(sessions, seed=8)
    options = generation_pb2.GenerationOptions(session_id=session.id, max_tokens=3000, stop=["qqqqq"])
    stream = generation.Generate(generation_pb2.GenerateRequest(options=options, call_id="c1"))
    text, position = "", 0
    while len(text) < 300:
        message = next(stream)
        text, position = text + message.text, message.position
    stream.cancel()
    again = list(
        generation.Generate(generation_pb2.GenerateRequest(options=options, call_id="c1", resume_position=position))
    )
    text += "".join(message.text for message in again)
    assert text == text_of(generation, alone, 3000)
    assert again[-1].result.usage.completion_tokens == 3000
    assert again[-1].result.session.version == 1
    for wrong, field in (({"call_id": "no spaces"}, "call_id"), ({"resume_position": 7}, "resume_position")):
        request = generation_pb2.GenerateRequest(options=options, **wrong)
        code, _, violations, _ = refused(lambda request=request: list(generation.Generate(request)))
        assert (code, set(violations)) == (INVALID, {field})
