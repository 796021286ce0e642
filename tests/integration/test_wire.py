"""The wire contract, through generated stubs, against a real server."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.snapshot import Snapshot
from charloom.server.app import Server
from charloom.server.grpc.listener import SERVICES
from charloom.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
    text_pb2,
)
from tests.integration.conftest import health_stub, refused
from tests.oracles.one_text import generate_stepwise
from tests.waiting import eventually

Generation = generation_pb2_grpc.GenerationServiceStub
Sessions = sessions_pb2_grpc.SessionServiceStub
Models = models_pb2_grpc.ModelServiceStub


def options(**fields: Any) -> generation_pb2.GenerationOptions:
    return generation_pb2.GenerationOptions(**fields)


def complete(stub: Generation, **fields: Any) -> generation_pb2.Completion:
    return stub.Complete(generation_pb2.CompleteRequest(options=options(**fields))).completions[0]


@pytest.fixture
def oracle(bundle: Bundle, decoder: Decoder) -> Callable[..., str]:
    def text(prompt: str, max_tokens: int, seed: int, **sampling: Any) -> str:
        start = Snapshot.fresh(decoder.shape, bundle.manifest.start_token, seed)
        fed = bundle.vocabulary.encode(prompt).tolist()
        return bundle.vocabulary.decode(generate_stepwise(decoder, start, fed, max_tokens, Sampling(**sampling))[0])

    return text


def test_generate_streams_deltas_then_the_result(generation: Generation, oracle: Callable[..., str]) -> None:
    request = generation_pb2.GenerateRequest(options=options(prompt="The ", max_tokens=200, seed=11))
    messages = list(generation.Generate(request))
    assert "".join(message.text for message in messages) == oracle("The ", 200, 11)
    position = 4
    for message in messages[:-1]:
        position += len(message.text)
        assert (message.position, message.HasField("result")) == (position, False)
    assert messages[-1].text  # its result has no message of its own
    result = messages[-1].result
    assert result.finish_reason == generation_pb2.FINISH_REASON_LENGTH
    assert (result.usage.prompt_tokens, result.usage.completion_tokens, result.position) == (4, 200, 204)
    assert (result.seed, result.max_tokens, result.model) == (11, 200, "small")
    assert result.sampling.HasField("temperature")
    assert result.sampling.temperature == 1
    assert not result.HasField("session")
    assert 0 < result.timings.first_token.ToNanoseconds() <= result.timings.total.ToNanoseconds()


def test_complete_is_generate_as_a_whole(generation: Generation, oracle: Callable[..., str]) -> None:
    given = {"temperature": 0.5, "top_k": 7, "top_p": 0.875, "min_p": 0.0625}
    given |= {"repetition_penalty": 1.25, "presence_penalty": 0.5, "frequency_penalty": -0.25}
    sampling = generation_pb2.Sampling(**given)
    reply = complete(generation, prompt="is", max_tokens=120, seed=5, sampling=sampling)
    assert reply.text == oracle("is", 120, 5, **given)
    assert reply.result.sampling == sampling


def test_temperature_zero_is_greedy_and_not_unset(generation: Generation, oracle: Callable[..., str]) -> None:
    sampling = generation_pb2.Sampling(temperature=0)
    replies = {complete(generation, prompt="a", max_tokens=60, seed=s, sampling=sampling).text for s in (1, 2)}
    assert replies == {oracle("a", 60, 1, temperature=0)}


def test_a_call_without_a_seed_says_which_it_drew(generation: Generation) -> None:
    first, second = (complete(generation, max_tokens=80) for _ in range(2))
    assert first.result.seed != second.result.seed
    assert first.text != second.text
    assert complete(generation, max_tokens=80, seed=first.result.seed).text == first.text


def test_two_calls_in_a_session_equal_one(generation: Generation, sessions: Sessions) -> None:
    created = sessions.CreateSession(sessions_pb2.CreateSessionRequest(seed=9)).session
    parts = [complete(generation, session_id=created.id, prompt=p, max_tokens=100) for p in ("When ", "")]
    whole = complete(generation, prompt="When ", max_tokens=200, seed=9)
    assert parts[0].text + parts[1].text == whole.text
    last = parts[1].result.session
    assert (last.position, last.version, last.seed) == (205, 2, 9)
    assert last.expire_time.ToDatetime() > created.expire_time.ToDatetime()


def test_sessions_do_not_see_each_other(generation: Generation, sessions: Sessions, oracle: Callable[..., str]) -> None:
    made = [sessions.CreateSession(sessions_pb2.CreateSessionRequest(seed=n)).session for n in range(8)]
    texts = [""] * 8
    for _ in range(3):
        calls = [
            generation.Complete.future(generation_pb2.CompleteRequest(options=options(session_id=s.id, max_tokens=50)))
            for s in made
        ]
        texts = [text + call.result().completions[0].text for text, call in zip(texts, calls, strict=True)]
    assert texts == [oracle("", 150, n) for n in range(8)]


def test_a_session_is_created_got_listed_and_deleted(sessions: Sessions) -> None:
    request = sessions_pb2.CreateSessionRequest(session_id="my-session", model="small")
    request.time_to_live.FromSeconds(100)
    made = sessions.CreateSession(request).session
    assert (made.id, made.model, made.position, made.version) == ("my-session", "small", 0, 0)
    assert made.time_to_live.ToSeconds() == 100
    got = sessions.GetSession(sessions_pb2.GetSessionRequest(session_id="my-session")).session
    assert got == made
    ids, token = [], ""
    while True:
        page = sessions.ListSessions(sessions_pb2.ListSessionsRequest(page_size=3, page_token=token))
        assert len(page.sessions) <= 3
        ids += [session.id for session in page.sessions]
        token = page.next_page_token
        if not token:
            break
    assert ids == sorted(set(ids))
    assert "my-session" in ids
    assert sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(session_id="my-session")).session == made
    code, reason, _, _ = refused(lambda: sessions.GetSession(sessions_pb2.GetSessionRequest(session_id="my-session")))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_DELETED")


def test_models_are_described(models: Models, bundle: Bundle) -> None:
    listed = models.ListModels(models_pb2.ListModelsRequest()).models
    assert [model.name for model in listed] == ["small"]
    model = models.GetModel(models_pb2.GetModelRequest()).model
    assert model == listed[0]
    assert (model.digest, model.unit, model.decoder, model.device) == (
        bundle.manifest.digest,
        models_pb2.UNIT_CHARACTER,
        "onnx-int8",
        "cpu",
    )
    assert "".join(model.symbols) == "".join(sorted(model.symbols))
    assert len(model.symbols) == model.vocabulary_size
    assert model.state_bytes == 2 * 4 * 2 * 48
    assert model.batch_invariance == models_pb2.BATCH_INVARIANCE_HOLDS
    assert {(v.protocol, v.decoder) for v in model.validation} >= {("tail", "checkpoint"), ("tail", "onnx-int8")}


@pytest.mark.parametrize("value", [-1.0, -0.001, math.nan, math.inf, 101.0])
def test_a_bad_temperature_is_refused(generation: Generation, value: float) -> None:
    code, _, violations, message = refused(
        lambda: complete(generation, sampling=generation_pb2.Sampling(temperature=value))
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "from 0 to 100" in violations["sampling.temperature"]
    assert "sampling.temperature" in message


@pytest.mark.parametrize(
    "sampling", [{"top_p": 0.0}, {"top_p": 1.5}, {"top_p": math.nan}, {"min_p": -0.1}, {"min_p": 2.0}]
)
def test_a_bad_filter_is_refused(generation: Generation, sampling: dict[str, float]) -> None:
    code, _, violations, _ = refused(lambda: complete(generation, sampling=generation_pb2.Sampling(**sampling)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(violations) == [f"sampling.{next(iter(sampling))}"]


@pytest.mark.parametrize("value", [0, 65_537, 2**32 - 1])
def test_a_bad_max_tokens_is_refused(generation: Generation, value: int) -> None:
    code, _, violations, _ = refused(lambda: complete(generation, max_tokens=value))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert violations == {"max_tokens": f"{value} is not allowed; from 1 to 65536"}


def test_unknown_characters_are_named_or_skipped_never_replaced(generation: Generation) -> None:
    code, _, violations, _ = refused(lambda: complete(generation, prompt="aé b☃c", max_tokens=5))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "'é' (U+00E9) at 1" in violations["prompt"]
    assert "'☃' (U+2603) at 4" in violations["prompt"]
    skip = text_pb2.UNKNOWN_CHARACTERS_SKIP
    skipped = complete(generation, prompt="aé b☃c", max_tokens=50, seed=1, unknown_characters=skip)
    assert skipped.text == complete(generation, prompt="a bc", max_tokens=50, seed=1).text
    assert skipped.result.usage.prompt_tokens == 4
    code, _, violations, _ = refused(lambda: complete(generation, unknown_characters=9))
    assert list(violations) == ["unknown_characters"]


def test_a_prompt_that_is_too_long_is_refused(generation: Generation) -> None:
    code, _, violations, _ = refused(lambda: complete(generation, prompt="a" * 65_537))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "shorten it" in violations["prompt"]


def test_unknown_model_and_unknown_session(generation: Generation, sessions: Sessions, models: Models) -> None:
    not_found = grpc.StatusCode.NOT_FOUND
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: complete(generation, model="big"), "MODEL_NOT_FOUND"),
        (lambda: models.GetModel(models_pb2.GetModelRequest(name="big")), "MODEL_NOT_FOUND"),
        (lambda: sessions.CreateSession(sessions_pb2.CreateSessionRequest(model="big")), "MODEL_NOT_FOUND"),
        (lambda: complete(generation, session_id="nobody"), "SESSION_NOT_FOUND"),
        (lambda: sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(session_id="nobody")), "SESSION_NOT_FOUND"),
    ]
    for call, reason in calls:
        assert refused(call)[:2] == (not_found, reason)
    assert "this server has: small" in refused(calls[0][0])[3]


def test_an_expired_session_says_that_it_expired(generation: Generation, sessions: Sessions) -> None:
    request = sessions_pb2.CreateSessionRequest()
    request.time_to_live.FromMicroseconds(1)
    session = sessions.CreateSession(request).session
    code, reason, _, message = refused(lambda: complete(generation, session_id=session.id))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_EXPIRED")
    assert "expired at" in message


def test_bad_sessions_are_refused(sessions: Sessions) -> None:
    def create(**fields: Any) -> Callable[[], Any]:
        return lambda: sessions.CreateSession(sessions_pb2.CreateSessionRequest(**fields))

    create(session_id="taken")()
    assert refused(create(session_id="taken"))[:2] == (grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS")
    for fields, field in [
        ({"session_id": "a/b"}, "session_id"),
        ({"session_id": "a" * 65}, "session_id"),
        ({"time_to_live": {"seconds": -1}}, "time_to_live"),
        ({"time_to_live": {}}, "time_to_live"),
        ({"time_to_live": {"seconds": 10**9}}, "time_to_live"),
        ({"time_to_live": {"seconds": 2**63 - 1}}, "time_to_live"),
    ]:
        code, _, violations, _ = refused(create(**fields))
        assert (code, list(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, [field]), fields
    for page, field in [({"page_size": 1001}, "page_size"), ({"page_token": "%%%"}, "page_token")]:
        code, _, violations, _ = refused(lambda: sessions.ListSessions(sessions_pb2.ListSessionsRequest(**page)))  # noqa: B023
        assert (code, list(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


def test_a_stale_position_is_refused_and_changes_nothing(generation: Generation, sessions: Sessions) -> None:
    session = sessions.CreateSession(sessions_pb2.CreateSessionRequest()).session
    complete(generation, session_id=session.id, max_tokens=10, expected_position=0)
    code, reason, _, message = refused(lambda: complete(generation, session_id=session.id, expected_position=0))
    assert (code, reason) == (grpc.StatusCode.ABORTED, "STALE_POSITION")
    assert "at position 10" in message
    assert complete(generation, session_id=session.id, max_tokens=1, expected_position=10).result.position == 11
    assert refused(lambda: complete(generation, expected_position=4))[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_second_writer_is_refused_while_the_first_goes_on(
    generation: Generation, sessions: Sessions, oracle: Callable[..., str]
) -> None:
    session = sessions.CreateSession(sessions_pb2.CreateSessionRequest(seed=3)).session
    request = generation_pb2.GenerateRequest(options=options(session_id=session.id, max_tokens=60_000))
    stream = generation.Generate(request)
    text = next(stream).text
    assert refused(lambda: complete(generation, session_id=session.id))[:2] == (
        grpc.StatusCode.ABORTED,
        "SESSION_BUSY",
    )
    delete = sessions_pb2.DeleteSessionRequest(session_id=session.id)
    assert refused(lambda: sessions.DeleteSession(delete))[:2] == (grpc.StatusCode.ABORTED, "SESSION_BUSY")
    while len(text) < 1_000:
        text += next(stream).text
    stream.cancel()
    assert text[:1_000] == oracle("", 1_000, 3)


def test_a_cancelled_stream_leaves_the_batch_and_its_session_resumable(
    server: Server, generation: Generation, sessions: Sessions, oracle: Callable[..., str]
) -> None:
    session = sessions.CreateSession(sessions_pb2.CreateSessionRequest(seed=21)).session
    request = generation_pb2.GenerateRequest(options=options(session_id=session.id, max_tokens=60_000))
    stream = generation.Generate(request)
    for _ in range(3):
        next(stream)
    stream.cancel()
    eventually(lambda: server.engine.sessions.writing == 0)
    loom = server.engine.models[0].loom
    assert (loom.live, loom.waiting) == (0, 0)
    position = sessions.GetSession(sessions_pb2.GetSessionRequest(session_id=session.id)).session.position
    assert 0 < position < 60_000
    rest = complete(generation, session_id=session.id, max_tokens=100, expected_position=position)
    assert rest.text == oracle("", position + 100, 21)[-100:]


def test_a_deadline_ends_the_call_and_frees_the_session(
    server: Server, generation: Generation, sessions: Sessions
) -> None:
    session = sessions.CreateSession(sessions_pb2.CreateSessionRequest()).session
    request = generation_pb2.CompleteRequest(options=options(session_id=session.id, max_tokens=65_536))
    with pytest.raises(grpc.RpcError) as late:
        generation.Complete(request, timeout=0.1)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
    eventually(lambda: server.engine.sessions.writing == 0 and server.engine.models[0].loom.live == 0)


def test_health_is_checked_and_watched(channel: grpc.Channel) -> None:
    stub = health_stub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for service in ("", *SERVICES):
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == serving
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == serving
    watch.cancel()
    with pytest.raises(grpc.RpcError) as unknown:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]


def test_the_services_are_found_by_reflection(channel: grpc.Channel) -> None:
    assert set(ProtoReflectionDescriptorDatabase(channel).get_services()) >= set(SERVICES)


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x04\x1a\x02\xff\xfe"])
@pytest.mark.parametrize("method", ["GenerationService/Complete", "GenerationService/Generate"])
def test_bytes_that_are_no_message_are_a_bad_request(channel: grpc.Channel, method: str, garbage: bytes) -> None:
    path = f"/charloom.v1.{method}"
    if method.endswith("Complete"):
        code, _, violations, _ = refused(lambda: channel.unary_unary(path)(garbage))
    else:
        code, _, violations, _ = refused(lambda: list(channel.unary_stream(path)(garbage)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(violations) == ["request"]


def test_an_unexpected_error_is_internal_with_an_incident_that_the_log_has(
    server: Server, models: Models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(name: str) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(server.engine, "model", explode)
    code, reason, _, message = refused(lambda: models.GetModel(models_pb2.GetModelRequest()))
    assert (code, reason) == (grpc.StatusCode.INTERNAL, "UNEXPECTED")
    assert "secret" not in message
    incident = message.split()[-1]
    assert incident in caplog.text
    assert "a secret detail" in caplog.text
