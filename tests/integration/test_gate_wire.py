"""Every method of a running server, called without, with wrong and with too weak credentials, and across tenants."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from charloom.bundle import Bundle
from charloom.cli.main import main
from charloom.client import Client, Conflict, PermissionDenied, RequestError, Unauthenticated
from charloom.engine.decoding.decoder import Decoder
from charloom.server.grpc.listener import SERVICES
from charloom.server.identity.key_file import Certificate, KeyFileEditor, made, utc_now
from charloom.server.identity.scopes import METHODS, OPEN, Scope, scope_of
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import generation_pb2, generation_pb2_grpc
from tests.authority import Authority
from tests.integration.conftest import health_stub, refused
from tests.integration.test_callers_wire import METHODS as ALL
from tests.integration.test_callers_wire import call
from tests.waiting import eventually

EVERYTHING = tuple(Scope)


class Closed(NamedTuple):
    """A server that asks who calls, and its keys by name."""

    address: str
    file: Path
    keys: dict[str, str]

    def add(self, tenant: str, *scopes: Scope, seconds: float | None = None) -> str:
        """One more key; it expires after, or with a negative number has expired before, so many seconds."""
        now = utc_now()
        text, key = made(
            tenant, scopes or EVERYTHING, now, None if seconds is None else now + timedelta(seconds=seconds)
        )
        with KeyFileEditor(self.file).editing(create=True) as file:
            file.content = file.content.model_copy(update={"keys": (*file.content.keys, key)})
        return text

    def end(self, text: str, how: Literal["revoked", "expires"]) -> None:
        """Let a key end now."""
        with KeyFileEditor(self.file).editing() as file:
            key = file.content.key(text)
            assert key is not None
            gone = key.model_copy(update={how: utc_now()})
            keys = tuple(gone if one.id == key.id else one for one in file.content.keys)
            file.content = file.content.model_copy(update={"keys": keys})


@pytest.fixture(scope="module")
def closed(bundle: Bundle, decoder: Decoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    made_by = Closed("", tmp_path_factory.mktemp("keys") / "keys.json", {})
    keys = {
        "shop": made_by.add("shop"),
        "other": made_by.add("other"),
        "expired": made_by.add("shop", seconds=-1),
        **{f"all but {scope.value}": made_by.add("shop", *(set(Scope) - {scope})) for scope in Scope},
        **{f"only {scope.value}": made_by.add("shop", scope) for scope in Scope},
    }
    with running_server([(bundle, decoder)], ServerSettings(grace_seconds=0, keys=made_by.file)) as server:
        yield Closed(server.address, made_by.file, keys)


@pytest.fixture(scope="module")
def channel(closed: Closed) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(closed.address) as channel:
        yield channel


def bearer(text: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {text}"),)


def test_every_method_has_a_scope_and_nothing_else_does() -> None:
    for method in ALL:
        assert scope_of(f"/{method.containing_service.full_name}/{method.name}") in Scope
    names = {f"{method.containing_service.full_name}/{method.name}" for method in ALL}
    assert set(METHODS) <= names
    assert {"grpc.health.v1.Health"} == OPEN
    with pytest.raises(LookupError):
        scope_of("/charloom.v1.NewService/Anything")


@contextlib.contextmanager
def no_request() -> Iterator[Iterator[bytes]]:
    """The requests of a client that calls, and sends none for as long as this is open."""
    over = threading.Event()

    def sent() -> Iterator[bytes]:
        over.wait()
        yield from ()

    try:
        yield sent()
    finally:
        over.set()


@pytest.mark.parametrize("method", [method for method in ALL if not method.client_streaming])
def test_who_calls_is_asked_before_a_request_is_taken(channel: grpc.Channel, method: MethodDescriptor) -> None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    with no_request() as nothing:
        code, _, _, _ = refused(lambda: list(channel.stream_stream(path)(nothing, timeout=60)))
    assert code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("method", ["grpc.health.v1.Health/Check", "charloom.v1.GenerationService/Complete"])
def test_a_request_that_does_not_arrive_is_not_waited_for(
    channel: grpc.Channel, closed: Closed, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("charloom.server.grpc.request_wait.LOOK_SECONDS", 0.01)
    for name in ("HEALTH_SECONDS", "REQUEST_SECONDS"):
        monkeypatch.setattr(f"charloom.server.grpc.errors.{name}", 0.02)
    with no_request() as nothing:
        code, _, violations, _ = refused(
            lambda: channel.stream_unary(f"/{method}")(nothing, metadata=bearer(closed.keys["shop"]), timeout=60)
        )
    assert (code, violations) == (grpc.StatusCode.INVALID_ARGUMENT, {"request": "it did not arrive within 0.02 s"})


def test_the_table_knows_all_services_of_the_server() -> None:
    for service in SERVICES:
        assert scope_of(f"/{service}/Anything") in Scope


methods = pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)


@methods
@pytest.mark.parametrize(
    "shown", ["nothing", "a wrong key", "a cut key", "an expired key", "two keys", "another scheme"]
)
def test_nobody_gets_in_without_a_key(
    channel: grpc.Channel, closed: Closed, method: MethodDescriptor, shown: str
) -> None:
    good = closed.keys["shop"]
    metadata = {
        "nothing": (),
        "a wrong key": bearer(good[:-1] + ("0" if good[-1] != "0" else "1")),
        "a cut key": bearer(good[:-1]),
        "an expired key": bearer(closed.keys["expired"]),
        "two keys": (*bearer(good), *bearer(good)),
        "another scheme": (("authorization", f"Basic {good}"),),
    }[shown]
    code, reason, _, message = refused(lambda: call(channel, method, metadata))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert reason == ("CREDENTIALS_MISSING" if shown == "nothing" else "CREDENTIALS_INVALID")
    assert good[:-1] not in message


@methods
def test_a_key_without_the_scope_is_refused_and_with_it_alone_is_let_in(
    channel: grpc.Channel, closed: Closed, method: MethodDescriptor
) -> None:
    scope = scope_of(f"/{method.containing_service.full_name}/{method.name}")
    assert scope is not None
    code, reason, _, _ = refused(lambda: call(channel, method, bearer(closed.keys[f"all but {scope.value}"])))
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    code = grpc.StatusCode.OK
    try:
        call(channel, method, bearer(closed.keys[f"only {scope.value}"]))
    except grpc.RpcError as problem:  # the request is empty, and some methods refuse that
        code = problem.code()  # type: ignore[attr-defined]
    assert code not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def test_a_generation_makes_a_session_only_for_who_may_make_sessions(channel: grpc.Channel, closed: Closed) -> None:
    options = generation_pb2.GenerationOptions(
        session_id="made", max_tokens=1, new_session=generation_pb2.NewSession(), prompt="A"
    )
    stub, request = generation_pb2_grpc.GenerationServiceStub(channel), generation_pb2.CompleteRequest(options=options)
    code, reason, *_ = refused(
        lambda: stub.Complete(request, metadata=bearer(closed.keys["only generate"]), timeout=60)
    )
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    assert stub.Complete(request, metadata=bearer(closed.keys["shop"]), timeout=60).completions


def test_health_answers_anybody_and_reflection_only_those_with_a_key(channel: grpc.Channel, closed: Closed) -> None:
    health = health_stub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=60).status == health_pb2.HealthCheckResponse.SERVING
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    code, reason, _, _ = refused(lambda: list(stub.ServerReflectionInfo(iter([asked]), timeout=60)))
    assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING")
    assert list(stub.ServerReflectionInfo(iter([asked]), metadata=bearer(closed.keys["shop"]), timeout=60))


def test_a_tenant_that_is_not_the_keys_is_refused(closed: Closed) -> None:
    with Client(closed.address, token=closed.keys["shop"], tenant="other") as client:
        with pytest.raises(PermissionDenied) as problem:
            client.models()
        assert problem.value.reason == "TENANT_NOT_ALLOWED"
    with Client(closed.address, token=closed.keys["shop"], tenant="shop") as client:
        assert client.models()


def known(client: Client) -> bool:
    """Whether the server knows the client's key; it looks at the file once a second."""
    try:
        return bool(client.models())
    except Unauthenticated:
        return False


def failure(act: Any) -> tuple[type[Exception], str, str]:
    with pytest.raises(RequestError) as problem:
        act()
    return type(problem.value), problem.value.reason, problem.value.message


def names_a_session(method: MethodDescriptor) -> bool:
    return method.name not in ("CreateSession", "ImportSession") and name_sessions(empty(method), "x")


def empty(method: MethodDescriptor) -> Message:
    return GetMessageClass(method.input_type)()


def name_sessions(message: Message, name: str) -> bool:
    """Put the name of a session wherever a request has one; returns whether there is such a place."""
    done = False
    for field in message.DESCRIPTOR.fields:
        if field.name == "session_id":
            message.session_id = name  # type: ignore[attr-defined]
            done = True
        elif field.name == "sources":
            message.sources.add(session_id=name, weight=1)  # type: ignore[attr-defined]
            message.sources.add(session_id=name, weight=1)  # type: ignore[attr-defined]
            done = True
        elif field.name in ("start", "options") and field.message_type is not None:
            done |= name_sessions(getattr(message, field.name), name)
    return done


def answer(channel: grpc.Channel, method: MethodDescriptor, name: str, key: str) -> tuple[grpc.StatusCode, str, str]:
    """What is answered to a request of a method that names a session: code, reason, message."""
    request = empty(method)
    assert name_sessions(request, name)
    for field, value in (("position", 1), ("text", "x"), ("prompt", "x"), ("max_tokens", 1)):
        place = getattr(request, "options", request)
        found = place.DESCRIPTOR.fields_by_name.get(field)
        if found is not None and found.containing_oneof is None:
            setattr(place, field, value)
    if "candidates" in request.DESCRIPTOR.fields_by_name:
        request.candidates.append("x")  # type: ignore[attr-defined]
    path = f"/{method.containing_service.full_name}/{method.name}"
    content, metadata = request.SerializeToString(), bearer(key)

    def act() -> object:
        if method.client_streaming:
            return list(channel.stream_stream(path)(iter([content]), metadata=metadata, timeout=60))
        if method.server_streaming:
            return list(channel.unary_stream(path)(content, metadata=metadata, timeout=60))
        return channel.unary_unary(path)(content, metadata=metadata, timeout=60)

    code, reason, _, text = refused(act)
    return code, reason, text


def test_a_tenant_sees_nothing_of_another_and_cannot_tell_whether_it_is_there(
    closed: Closed, channel: grpc.Channel
) -> None:
    second = closed.add("second")
    with (
        Client(closed.address, token=closed.add("first")) as shop,
        Client(closed.address, token=second) as other,
    ):
        eventually(lambda: known(shop) and known(other))
        session = shop.session(id="mine", keep=True)
        session.complete("KING:", max_tokens=10)
        exported = session.export()
        assert [one.id for one in shop.sessions()] == ["mine"]
        assert list(other.sessions()) == []

        found = Counter[grpc.StatusCode]()
        for method in ALL:
            if names_a_session(method):
                seen, unseen = (answer(channel, method, name, second) for name in ("mine", "none"))
                assert (*seen[:2], seen[2].replace("mine", "none")) == unseen, method.full_name
                found[seen[0]] += 1
        assert found[grpc.StatusCode.NOT_FOUND] >= 19
        assert found.keys() == {grpc.StatusCode.NOT_FOUND}
        kind, reason, _ = failure(lambda: other.import_session(exported.state))
        assert (kind, reason) == (PermissionDenied, "SEALED_STATE_OF_ANOTHER_TENANT")
        # The id is free for the other tenant, which does not touch the first one's session.
        other.session(id="mine", keep=True)
        assert shop.get_session("mine").position > 0
        assert other.get_session("mine").position == 0
        shop.delete_session("mine")
        assert other.get_session("mine").position == 0


def test_keys_are_added_and_revoked_while_the_server_runs(closed: Closed) -> None:
    text = closed.add("shop")
    with Client(closed.address, token=text) as client:
        eventually(lambda: known(client))
        closed.end(text, "revoked")
        eventually(lambda: not known(client))
    with Client(closed.address, token=closed.keys["shop"]) as client:
        assert client.models()


def test_a_key_that_is_revoked_takes_its_calls_without_an_end_with_it(closed: Closed) -> None:
    text = closed.add("shop")
    with Client(closed.address, token=text) as client:
        eventually(lambda: known(client))
        with client.converse("KING:", timeout=120) as endless, client.watch(name="log", timeout=120) as watch:
            endless.generate()
            assert next(endless)
            assert watch.read([("source", "a line")])
            closed.end(text, "revoked")
            for act in (lambda: list(endless), lambda: [watch.read([("source", "a line")]) for _ in iter(int, 1)]):
                kind, reason, message = failure(act)
                assert (kind, reason) == (Unauthenticated, "CREDENTIALS_INVALID")
                assert "revoked" in message


def test_a_key_that_is_revoked_ends_its_calls_that_wait_for_a_word(closed: Closed) -> None:
    text = closed.add("shop")
    with Client(closed.address, token=text) as client, Client(closed.address, token=closed.keys["shop"]) as other:
        eventually(lambda: known(client))
        with client.converse("KING:", timeout=120) as silent, client.watch(name="quiet", timeout=120) as watch:
            assert watch.read([("source", "a line")])
            closed.end(text, "revoked")
            assert failure(lambda: list(silent))[:2] == (Unauthenticated, "CREDENTIALS_INVALID")

            def released() -> bool:
                with other.watch(name="quiet", timeout=120) as next_one:
                    try:
                        return bool(next_one.read([("source", "a line")]))
                    except Conflict:
                        return False

            eventually(released)
            position = other.get_session("watch.quiet.source").position
            late = failure(lambda: watch.read([("source", "a line of whoever has the key")]))
            watch.cancel()
            assert late[:2] == (Unauthenticated, "CREDENTIALS_INVALID")
            assert other.get_session("watch.quiet.source").position == position


def test_a_key_is_rotated_under_load_without_a_failed_call(closed: Closed, capsys: pytest.CaptureFixture[str]) -> None:
    old = closed.add("shop")
    with Client(closed.address, token=old) as client:
        eventually(lambda: known(client))
        command = ["keys", "rotate", old.split("_")[1], "--file", str(closed.file), "--grace", "1h"]
        assert main(command) == 0
        with Client(closed.address, token=capsys.readouterr().out.strip()) as fresh:
            while not known(fresh):
                assert client.complete("KING:", max_tokens=1).text
            assert client.complete("KING:", max_tokens=1).text
            closed.end(old, "expires")
            eventually(lambda: not known(client))
            kind, reason, message = failure(client.models)
            assert (kind, reason) == (Unauthenticated, "CREDENTIALS_INVALID")
            assert "expired" in message
            assert fresh.complete("KING:", max_tokens=1).text


def test_reflection_that_is_turned_off_answers_nobody(bundle: Bundle, decoder: Decoder) -> None:
    with (
        running_server([(bundle, decoder)], ServerSettings(grace_seconds=0, reflection=False)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as problem:
            list(stub.ServerReflectionInfo(iter([asked]), timeout=60))
        assert problem.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]


def test_a_certificate_of_a_client_says_who_it_is(bundle: Bundle, decoder: Decoder, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    chain, key = authority.issue("server", "localhost", "127.0.0.1")
    closed = Closed("", tmp_path / "keys.json", {})
    text = closed.add("shop")
    with KeyFileEditor(closed.file).editing() as file:
        entry = Certificate(name="svc.example", tenant="service", scopes=(Scope.SESSIONS,))
        file.content = file.content.model_copy(update={"certificates": (entry,)})
    settings = ServerSettings(
        grace_seconds=0, keys=closed.file, tls_cert=chain, tls_key=key, tls_client_ca=authority.file
    )
    with running_server([(bundle, decoder)], settings) as server:
        known, stranger = authority.issue("known", "svc.example"), authority.issue("stranger", "svc.other")

        def client(files: tuple[Path, Path], **more: Any) -> Client:
            return Client(server.address, ca=authority.file, cert=files[0], key=files[1], **more)

        with client(known) as one:
            one.session(id="mine", keep=True)
            assert failure(one.models)[1] == "SCOPE_MISSING"
        with client(stranger) as one:
            assert failure(lambda: list(one.sessions()))[1] == "CREDENTIALS_INVALID"
        with client(stranger, token=text) as one:
            assert list(one.sessions()) == []
        with client(known, token=text, tenant="service") as one:
            assert failure(lambda: list(one.sessions()))[1] == "TENANT_NOT_ALLOWED"
