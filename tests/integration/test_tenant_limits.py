"""Limits of a tenant, as its clients meet them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from charloom.bundle import Bundle
from charloom.client import Client, QuotaExceeded, Session
from charloom.engine.decoding.decoder import Decoder
from charloom.server.identity.key_file import KeyFileEditor, TenantLimits, made, utc_now
from charloom.server.identity.scopes import Scope
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.integration.conftest import eventually

LIMITS = (
    TenantLimits(tenant="sessions", sessions=3),
    TenantLimits(tenant="bytes", session_bytes=20_000),
    TenantLimits(tenant="calls", calls=2),
    TenantLimits(tenant="prompts", prompt_characters=100),
)


class Shop:
    """A server, and clients of its tenants."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys.json"
        self.address = ""
        self._keys: dict[str, str] = {}
        for tenant in ("free", *(one.tenant for one in LIMITS)):
            self._keys[tenant], key = made(tenant, tuple(Scope), utc_now(), None)
            with KeyFileEditor(self.file).editing(create=True) as file:
                file.content = file.content.model_copy(update={"keys": (*file.content.keys, key)})
        self.limit(*LIMITS)

    def limit(self, *limits: TenantLimits) -> None:
        """Let these be the limits from soon on."""
        with KeyFileEditor(self.file).editing() as file:
            file.content = file.content.model_copy(update={"limits": limits})

    def client(self, tenant: str) -> Client:
        return Client(self.address, token=self._keys[tenant])


@pytest.fixture(scope="module")
def shop(bundle: Bundle, decoder: Decoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    shop = Shop(tmp_path_factory.mktemp("keys"))
    settings = ServerSettings(grace_seconds=0, keys=shop.file, tenant_calls=50, max_prompt_characters=1000)
    with running_server([(bundle, decoder)], settings) as server:
        shop.address = server.address
        yield shop


def numbers(problem: QuotaExceeded) -> dict[str, int | str]:
    """What a refusal says of a limit, for programs."""
    return {name: int(value) if value.isdecimal() else value for name, value in problem.metadata.items()}


def test_a_tenant_has_as_many_sessions_as_it_may(shop: Shop) -> None:
    with shop.client("sessions") as client, shop.client("free") as other:
        kept = [client.session() for _ in range(3)]
        for make in (client.session, kept[0].fork):
            with pytest.raises(QuotaExceeded, match="your limit of sessions is 3, and you have 3") as refused:
                make()
            assert numbers(refused.value).items() >= {"limit": "sessions", "most": 3, "used": 3, "asked": 1}.items()
            assert refused.value.retry_after == 60
        other.session()
        assert len(kept[1].complete("a", max_tokens=5).text) == 5
        kept[0].delete()
        client.session()


def test_a_tenant_has_as_many_bytes_of_sessions_as_it_may(shop: Shop) -> None:
    with shop.client("bytes") as client, shop.client("free") as other:
        kept: list[Session] = []

        def fill() -> None:
            while True:
                kept.append(client.session())

        with pytest.raises(QuotaExceeded, match="your limit of session_bytes is 20000") as refused:
            fill()
        said = numbers(refused.value)
        used, asked = int(said["used"]), int(said["asked"])
        assert used == len(kept) * asked <= 20_000 < used + asked
        assert refused.value.retry_after == 60
        other.session()
        kept[0].delete()
        client.session()


def test_a_tenant_has_as_many_calls_at_a_time_as_it_may(shop: Shop) -> None:
    with shop.client("calls") as client, shop.client("calls") as again, shop.client("free") as other:
        streams = [one.generate(max_tokens=65_536, resume=False) for one in (client, again)]
        for stream in streams:
            next(stream)
        with pytest.raises(
            QuotaExceeded, match="your limit of calls is 2, and 2 calls of yours are running"
        ) as refused:
            again.complete(max_tokens=1)
        assert numbers(refused.value).items() >= {"limit": "calls", "most": 2, "used": 2, "asked": 1}.items()
        assert refused.value.retry_after
        assert other.complete(max_tokens=20).text
        for stream in streams:
            stream.cancel()

        def answered() -> bool:
            try:
                return bool(again.complete(max_tokens=1).text)
            except QuotaExceeded:
                return False

        eventually(answered)


def test_a_tenant_gives_no_longer_texts_than_it_may(shop: Shop) -> None:
    with shop.client("prompts") as client, shop.client("free") as other:
        session = client.session()
        for give in (client.complete, client.score, session.feed, session.complete):
            give("a" * 100)
            with pytest.raises(QuotaExceeded, match="your limit of prompt_characters is 100") as refused:
                give("a" * 101)
            said = {"limit": "prompt_characters", "most": 100, "asked": 101}
            assert numbers(refused.value).items() >= said.items()
            assert refused.value.retry_after is None, "no time makes it shorter"
            give("a")
        assert other.complete("a" * 1000, max_tokens=1).text


def test_limits_are_read_again_when_the_file_changes(shop: Shop) -> None:
    try:
        with shop.client("free") as client:
            client.complete("aa", max_tokens=1)
            shop.limit(*LIMITS, TenantLimits(tenant="free", prompt_characters=1))

            def refused() -> bool:
                try:
                    client.complete("aa", max_tokens=1)
                except QuotaExceeded:
                    return True
                return False

            eventually(refused)
    finally:
        shop.limit(*LIMITS)
