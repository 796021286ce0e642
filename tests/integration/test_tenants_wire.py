"""All data of a tenant over the wire: listed, exported and erased by an administrator, and written down first."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import sqlite3
import stat
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from charloom.bundle import Bundle
from charloom.cli.main import main
from charloom.client import AsyncClient, Client, NotFound, PermissionDenied, Unavailable
from charloom.engine.decoding.decoder import Decoder
from charloom.server.http.response_schemas import SESSIONS
from charloom.server.identity.key_file import KeyFileEditor, made, utc_now
from charloom.server.identity.scopes import Scope
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import sessions_pb2, sessions_pb2_grpc, tenants_pb2, tenants_pb2_grpc
from tests.integration.conftest import refused
from tests.integration.http_client import differences
from tests.waiting import eventually


class Place(NamedTuple):
    """A server that asks who calls."""

    address: str
    http: str
    audit_log: Path
    keys: dict[str, str]

    def client(self, name: str) -> Client:
        return Client(self.address, token=self.keys[name])

    @property
    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit_log.read_text().splitlines()]


@pytest.fixture
def place(bundle: Bundle, decoder: Decoder, tmp_path: Path) -> Iterator[Place]:
    keys = {}
    for tenant, scope in itertools.product(("shop", "bank", "office"), ("user", "admin")):
        scopes = [Scope.ADMIN] if scope == "admin" else [one for one in Scope if one is not Scope.ADMIN]
        text, key = made(tenant, scopes, utc_now(), None)
        with KeyFileEditor(tmp_path / "keys.json").editing(create=True) as file:
            file.content = file.content.model_copy(update={"keys": (*file.content.keys, key)})
        keys[tenant if scope == "user" else f"{tenant} admin"] = text
    settings = ServerSettings(
        grace_seconds=0,
        keys=tmp_path / "keys.json",
        audit_log=tmp_path / "audit.jsonl",
        http_port=0,
        store=f"sqlite:{tmp_path / 'sessions.db'}",
        max_tokens=1_000_000_000,
    )
    with running_server([(bundle, decoder)], settings) as server:
        yield Place(server.address, server.http_address, tmp_path / "audit.jsonl", keys)


def make_sessions(client: Client, count: int) -> list[str]:
    ids = [f"s{number:03}" for number in range(count)]
    for id in ids:
        client.session(id=id, seed=1, keep=True).complete("KING:", max_tokens=10)
    return ids


def test_a_move_of_a_session_is_in_the_audit_log_and_none_of_what_is_not_there(place: Place) -> None:
    with place.client("shop") as shop, place.client("bank") as bank:
        (id,) = make_sessions(shop, 1)
        moved = shop.open_session(id).move()
        with pytest.raises(NotFound):
            shop.open_session(id).move("none")
        with pytest.raises(NotFound):
            bank.open_session(id).move()
    of_all = {"act": "move-session", "on": f"session {id!r}"}
    assert all(of_all.items() <= one.items() for one in place.audit)
    assert [(one["result"], one.get("of"), one.get("digest"), one.get("reason")) for one in place.audit] == [
        ("begun", "shop", None, None),
        ("done", None, moved.model_digest, None),
        ("begun", "shop", None, None),
        ("failed", None, None, "MODEL_NOT_FOUND"),
    ]


def test_an_administrator_lists_exports_and_erases_what_a_tenant_has(place: Place) -> None:
    with place.client("shop") as shop, place.client("bank") as bank, place.client("office admin") as admin:
        ids = make_sessions(shop, 60)
        make_sessions(bank, 2)
        tenant = admin.tenant("shop")
        assert [one.id for one in tenant.sessions()] == ids
        assert [one.info for one in tenant.sessions()] == list(shop.sessions())

        exported = list(tenant.export(time_to_live=3600))
        assert [(one.id, one.info, one.problem) for one in exported] == [
            (info.id, info, None) for info in shop.sessions()
        ]
        first = exported[0]
        assert first.text.startswith("KING:")
        assert len(first.text) == 15
        # The states go on where the sessions stand, for the same tenant alone.
        assert first.sealed is not None
        with shop.import_session(first.sealed.state) as copy:
            text = copy.complete(max_tokens=20).text
        with pytest.raises(PermissionDenied):
            bank.import_session(first.sealed.state, id="copy").complete(max_tokens=1)
        assert shop.open_session(first.id).complete(max_tokens=20).text == text

        receipt = tenant.erase()
        assert (receipt.tenant, receipt.sessions) == ("shop", 60)
        assert receipt.bytes > 60 * 1000
        assert receipt.ids_sha256 == hashlib.sha256("".join(f"{id}\n" for id in ids).encode()).hexdigest()
        assert list(shop.sessions()) == list(tenant.sessions()) == list(tenant.export()) == []
        assert len(list(bank.sessions())) == 2
        with pytest.raises(NotFound) as gone:
            shop.get_session(ids[0])
        assert gone.value.reason == "SESSION_DELETED"

        again = tenant.erase()
        assert (again.sessions, again.bytes, again.ids_sha256) == (0, 0, hashlib.sha256().hexdigest())
        assert again.request_id != receipt.request_id
        begun, done = place.audit[2:4]
        assert begun.keys() - done.keys() == set()
        assert (begun["act"], begun["on"], begun["result"]) == ("erase-tenant", "tenant shop", "begun")
        assert (done["result"], done["sessions"], done["request"]) == ("done", 60, receipt.request_id)
        assert (done["bytes"], done["ids_sha256"]) == (receipt.bytes, receipt.ids_sha256)
        assert begun["by"].startswith("key ")
        assert place.keys["office admin"][-20:] not in place.audit_log.read_text()
        assert [(one["act"], one["result"]) for one in place.audit] == [
            (act, result)
            for act in ("export-tenant", "erase-tenant", "export-tenant", "erase-tenant")
            for result in ("begun", "done")
        ]


async def test_the_asyncio_client_does_the_same(place: Place) -> None:
    with place.client("shop") as shop:
        ids = make_sessions(shop, 3)
    async with AsyncClient(place.address, token=place.keys["office admin"]) as admin:
        tenant = admin.tenant("shop")
        assert [one.id async for one in tenant.sessions()] == ids
        assert [len(one.text) async for one in tenant.export()] == [15] * 3
        assert (await tenant.erase()).sessions == 3


def test_a_session_whose_record_cannot_be_read_is_named_and_the_listing_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with place.client("shop") as shop, place.client("bank") as bank:
        first, second, third = make_sessions(shop, 3)
        make_sessions(bank, 1)
        with closing(sqlite3.connect(place.audit_log.with_name("sessions.db"))) as file, file:
            file.execute(
                "UPDATE records SET record = x'00' WHERE session = "
                "(SELECT number FROM sessions WHERE tenant = 'shop' AND id = ?)",
                (second,),
            )
        assert [one.id for one in shop.sessions()] == [first, third]
        kept = list(shop.kept_sessions())
        assert [(one.id, one.info is None, one.problem is None) for one in kept] == [
            (first, False, True),
            (second, True, False),
            (third, False, True),
        ]
        assert f"the record of session '{second}' cannot be read" in str(kept[1].problem)
        assert [one.id for one in bank.kept_sessions()] == [first]
    monkeypatch.setenv("CHARLOOM_TOKEN", place.keys["shop"])
    assert main(["sessions", "list", "--target", place.address]) == 0
    out, errors = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["ID", first, third]
    assert errors.startswith(f"charloom sessions: {second} cannot be read: the record of session")
    with grpc.insecure_channel(place.address) as channel:
        page = sessions_pb2_grpc.SessionServiceStub(channel).ListSessions(
            sessions_pb2.ListSessionsRequest(page_size=2),
            metadata=(("authorization", f"Bearer {place.keys['shop']}"),),
            timeout=60,
        )
    assert [one.id for one in page.sessions] == [first]
    assert [one.session_id for one in page.unreadable] == [second]
    assert page.next_page_token
    asked = urllib.request.Request(f"http://{place.http}/v1/sessions?limit=2")
    asked.add_header("authorization", f"Bearer {place.keys['shop']}")
    with urllib.request.urlopen(asked, timeout=60) as answer:
        over_http = json.load(answer)
    assert [one["id"] for one in over_http["data"]] == [first]
    assert [(one["id"], "cannot be read" in one["problem"]) for one in over_http["unreadable"]] == [(second, True)]
    assert (over_http["last_id"], over_http["has_more"]) == (second, True)
    assert not list(differences(over_http, SESSIONS))


def test_nobody_without_the_scope_sees_or_erases_anything(place: Place) -> None:
    with place.client("shop") as shop:
        make_sessions(shop, 1)
        for attempt in (
            lambda: list(shop.tenant("shop").sessions()),
            lambda: list(shop.tenant("shop").export()),
            lambda: shop.tenant("shop").erase(),
        ):
            with pytest.raises(PermissionDenied) as refusal:
                attempt()
            assert refusal.value.reason == "SCOPE_MISSING"
        assert len(list(shop.sessions())) == 1
    assert place.audit == []


def test_a_request_has_to_say_whose_data_is_meant(place: Place) -> None:
    metadata = (("authorization", f"Bearer {place.keys['office admin']}"),)
    with grpc.insecure_channel(place.address) as channel:
        stub = tenants_pb2_grpc.TenantServiceStub(channel)
        calls: list[tuple[Any, Any]] = [
            (stub.ListTenantData, tenants_pb2.ListTenantDataRequest),
            (lambda *args, **more: list(stub.ExportTenant(*args, **more)), tenants_pb2.ExportTenantRequest),
            (stub.EraseTenant, tenants_pb2.EraseTenantRequest),
        ]
        for call, request in calls:
            for wrong in (request(), request(tenant="a/b"), request(tenant="x" * 65)):
                code, _, violations, _ = refused(lambda: call(wrong, metadata=metadata, timeout=60))  # noqa: B023
                assert (code, set(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, {"tenant"})
        for call, request in calls[:2]:
            call(request(tenant=""), metadata=metadata, timeout=60)
        receipt = stub.EraseTenant(tenants_pb2.EraseTenantRequest(tenant=""), metadata=metadata, timeout=60)
        assert (receipt.tenant, receipt.sessions, receipt.HasField("erase_time")) == ("", 0, True)
        for field, wrong in (
            ("page_size", tenants_pb2.ListTenantDataRequest(tenant="shop", page_size=1001)),
            ("page_token", tenants_pb2.ListTenantDataRequest(tenant="shop", page_token="?")),
        ):
            code, _, violations, _ = refused(lambda: stub.ListTenantData(wrong, metadata=metadata, timeout=60))  # noqa: B023
            assert (code, set(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, {field})
        endless = tenants_pb2.ExportTenantRequest(tenant="shop")
        endless.time_to_live.seconds = 10**9
        code, _, violations, _ = refused(lambda: list(stub.ExportTenant(endless, metadata=metadata, timeout=60)))
        assert (code, set(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, {"time_to_live"})
    assert {one["on"] for one in place.audit} == {"tenant "}


def test_nothing_is_given_out_or_erased_that_cannot_be_written_down(place: Place) -> None:
    with place.client("shop") as shop, place.client("office admin") as admin:
        make_sessions(shop, 2)
        place.audit_log.rename(place.audit_log.with_name("old"))
        place.audit_log.mkdir()
        tenant = admin.tenant("shop")
        for attempt in (tenant.erase, lambda: list(tenant.export())):
            with pytest.raises(Unavailable) as refusal:
                attempt()
            assert refusal.value.reason == "AUDIT_LOG_UNAVAILABLE"
            assert "nothing was done" in str(refusal.value)
        assert len(list(tenant.sessions())) == 2
        place.audit_log.rmdir()
        assert tenant.erase().sessions == 2


def test_an_export_that_nobody_reads_to_its_end_is_written_down_as_cancelled(place: Place) -> None:
    with place.client("shop") as shop, place.client("office admin") as admin:
        make_sessions(shop, 1)
        for _ in range(3):
            shop.open_session("s000").forks(1000, keep=True)
        exported = admin.tenant("shop").export()
        assert isinstance(exported, Generator)
        assert next(exported).problem is None
        exported.close()
        eventually(lambda: len(place.audit) == 2)
    begun, failed = place.audit
    assert (begun["result"], failed["result"], failed["reason"]) == ("begun", "failed", "CANCELLED")
    assert failed["sessions"] < 3000


def test_the_commands_list_export_and_erase(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        status = main(["tenants", *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    monkeypatch.setenv("CHARLOOM_TARGET", place.address)
    monkeypatch.setenv("CHARLOOM_TOKEN", place.keys["office admin"])
    with place.client("shop") as shop:
        ids = make_sessions(shop, 2)
        _, table, _ = run("list", "shop")
        assert [line.split()[:3] for line in table.splitlines()[1:]] == [[id, "small", "15"] for id in ids]
        assert [one["id"] for one in json.loads(run("list", "shop", "--json")[1])] == ids

        file = tmp_path / "shop.jsonl"
        status, _, said = run("export", "shop", "--output", str(file), "--seconds", "600")
        assert (status, said) == (0, "2 sessions, 0 of them not whole\n")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        exported = [json.loads(line) for line in file.read_text().splitlines()]
        assert [(one["id"], one["info"]["position"], one["problem"]) for one in exported] == [
            (id, 15, None) for id in ids
        ]
        assert exported[0]["text"].startswith("KING:")
        with shop.import_session(base64.b64decode(exported[0]["state"])) as copy:
            assert copy.info.position == 15
        status, _, said = run("export", "shop", "--output", str(file))
        assert status == 1
        assert f"{file} exists already" in said
        assert run("export", "shop")[1].count("\n") == 2

        for typed in ("", "shop2\n", "y\n"):
            status, _, said = run("erase", "shop", typed=typed)
            assert status == 1
            assert "Erase 2 sessions of the tenant 'shop' for good?" in said
            assert "nothing was erased" in said
            assert "give --yes to erase without being asked" in said
        assert len(list(shop.sessions())) == 2
        status, receipt, _ = run("erase", "shop", typed="shop\n")
        assert status == 0
        assert ["sessions", "2"] in [line.split() for line in receipt.splitlines()]
        again = json.loads(run("erase", "shop", "--yes", "--json")[1])
        assert (again["tenant"], again["sessions"], again["bytes"]) == ("shop", 0, 0)
    monkeypatch.setenv("CHARLOOM_TOKEN", place.keys["shop"])
    status, _, said = run("erase", "", typed="\n")
    assert status == 1
    assert "give --yes" in said
    for words in (("erase", "shop", "--yes"), ("export", "shop", "--output", str(tmp_path / "refused.jsonl"))):
        status, _, said = run(*words)
        assert status == 1
        assert "scope admin" in said
    assert not (tmp_path / "refused.jsonl").exists()


def test_sessions_that_cannot_be_read_are_named_and_erased(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with place.client("shop") as shop, place.client("office admin") as admin:
        make_sessions(shop, 3)
        with sqlite3.connect(tmp_path / "sessions.db") as raw:
            raw.execute(
                "UPDATE records SET record = 'x' WHERE session = (SELECT number FROM sessions WHERE id = 's001')"
            )
        raw.close()
        for found in (admin.tenant("shop").sessions(), admin.tenant("shop").export()):
            one, damaged, other = found
            assert (one.problem, other.problem) == (None, None)
            assert (damaged.id, damaged.info) == ("s001", None)
            assert "record of session 's001' cannot be read" in str(damaged.problem)
        monkeypatch.setenv("CHARLOOM_TOKEN", place.keys["office admin"])
        monkeypatch.setenv("CHARLOOM_TARGET", place.address)
        assert main(["tenants", "export", "shop"]) == 1
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == 3
        assert "s001 is not exported whole" in err
        assert err.endswith("3 sessions, 1 of them not whole\n")
        assert main(["tenants", "list", "shop"]) == 0
        assert "cannot be read" in capsys.readouterr().out
        assert admin.tenant("shop").erase().sessions == 3
        assert list(admin.tenant("shop").sessions()) == []


def test_an_erasure_ends_the_call_that_uses_a_session_and_nothing_comes_back(place: Place) -> None:
    with place.client("shop") as shop, place.client("office admin") as admin:
        session = shop.session(id="used", keep=True)
        with session.generate("KING:", max_tokens=1_000_000_000) as stream:
            next(iter(stream))
            with shop.session(id="observed", keep=True).observe() as observer:
                observer.read("KING:")
                assert admin.tenant("shop").erase().sessions == 2
                with pytest.raises(NotFound) as lost:
                    observer.read("QUEEN:")
                assert lost.value.reason == "SESSION_DELETED"
            with pytest.raises(NotFound) as ended:
                for _ in stream:
                    pass
        assert ended.value.reason == "SESSION_DELETED"
        assert "was deleted" in str(ended.value)
        assert list(admin.tenant("shop").sessions()) == []
        for id in ("used", "observed"):
            with pytest.raises(NotFound):
                shop.get_session(id)
        # The ids are free again, and the calls that ended have no part in it.
        shop.session(id="used", keep=True)
        assert [(one.id, one.position) for one in shop.sessions()] == [("used", 0)]
