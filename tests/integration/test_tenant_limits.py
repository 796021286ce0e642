"""Limits of a tenant, as its clients meet them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from charloom.bundle import Bundle
from charloom.client import Client, QuotaExceeded, Session
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.rates import BURST_SECONDS
from charloom.server.app import Server
from charloom.server.identity.key_file import KeyFileEditor, TenantLimits, made, utc_now
from charloom.server.identity.scopes import Scope
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.unit.engine.redis_server import RedisServer
from tests.waiting import eventually

RATE = 50.0
SAVED = int(RATE * BURST_SECONDS)
"""What may be used at once."""
OWED = int(2 * RATE)
"""More than may be owed when a call begins."""
LIMITS = (
    TenantLimits(tenant="sessions", sessions=3),
    TenantLimits(tenant="bytes", session_bytes=20_000),
    TenantLimits(tenant="calls", calls=2),
    TenantLimits(tenant="prompts", prompt_characters=100),
    *(TenantLimits(tenant=name, tokens_per_second=RATE) for name in ("slow", "slow-complete", "slow-generate")),
)


class Shop:
    """A server, and clients of its tenants."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys.json"
        self.address = ""
        self.server: Server
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

    def client(self, tenant: str, address: str = "") -> Client:
        return Client(address or self.address, token=self._keys[tenant])


@pytest.fixture(scope="module")
def shop(bundle: Bundle, decoder: Decoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    shop = Shop(tmp_path_factory.mktemp("keys"))
    settings = ServerSettings(grace_seconds=0, keys=shop.file, tenant_calls=50, max_prompt_characters=1000)
    with running_server([(bundle, decoder)], settings) as server:
        shop.server, shop.address = server, server.address
        yield shop


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    redis = RedisServer(tmp_path)
    yield redis
    redis.kill()


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


def test_who_has_used_too_many_tokens_is_refused_until_they_have_come_back(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(shop.server.engine.rates, "_clock", lambda: now)
    with shop.client("slow") as client, shop.client("free") as other:
        client.complete("a" * SAVED, max_tokens=1)
        client.complete("a" * OWED, max_tokens=1)
        with pytest.raises(QuotaExceeded, match="your limit of tokens_per_second is 50, and you have used") as refused:
            client.complete(max_tokens=1)
        said = refused.value.metadata
        assert (said["limit"], said["most"]) == ("tokens_per_second", "50")
        assert float(said["owed"]) == OWED + 2, "and the two that were generated"
        assert refused.value.retry_after == pytest.approx(float(said["owed"]) / RATE, abs=0.11)
        assert other.complete("a" * 1000, max_tokens=100).text
        now += refused.value.retry_after
        assert client.complete(max_tokens=1).text


@pytest.mark.parametrize("method", ["complete", "generate"])
def test_a_call_that_runs_is_slowed_down_and_those_of_others_are_not(shop: Shop, method: str) -> None:
    length = SAVED + 150

    def slowed() -> tuple[str, float]:
        with shop.client(f"slow-{method}") as client:
            began = time.monotonic()
            if method == "complete":
                text = client.complete(max_tokens=length, seed=3).text
            else:
                text = "".join(client.generate(max_tokens=length, seed=3, resume=False))
            return text, time.monotonic() - began

    with ThreadPoolExecutor() as pool, shop.client("free") as other:
        running = pool.submit(slowed)
        # Slowed down too, it would take longer than a client waits.
        assert len(other.complete(max_tokens=5000, timeout=60).text) == 5000
        text, seconds = running.result()
        assert text == other.complete(max_tokens=length, seed=3).text
    assert seconds > 2.5, "all that was saved up at once, and then as much as comes back"


def test_limits_hold_over_two_servers_that_share_a_redis(
    bundle: Bundle, decoder: Decoder, tmp_path: Path, redis: RedisServer
) -> None:
    shop = Shop(tmp_path)
    settings = ServerSettings(grace_seconds=0, keys=shop.file, store=redis.url)
    with ExitStack() as stack:
        addresses = [stack.enter_context(running_server([(bundle, decoder)], settings)).address for _ in range(2)]
        clients = [stack.enter_context(shop.client("sessions", address)) for address in addresses]
        for number in range(3):
            clients[number % 2].session()
        for client in clients:
            with pytest.raises(QuotaExceeded, match="your limit of sessions is 3, and you have 3"):
                client.session()
        others = [stack.enter_context(shop.client("free", address)) for address in addresses]
        assert all(other.session().complete(max_tokens=5).text for other in others)

        one, two = (stack.enter_context(shop.client("slow", address)) for address in addresses)
        began, used = time.monotonic(), SAVED
        one.complete("a" * SAVED, max_tokens=1)

        def other_refuses() -> bool:
            """After some tries: servers ask Redis several times a second."""
            nonlocal used
            used += OWED if accepted(one, "a" * OWED) else 0
            return not accepted(two)

        eventually(other_refuses)
        assert all(other.complete(max_tokens=1000).text for other in others)
        eventually(lambda: accepted(one) and accepted(two))
        time.sleep(1)  # what may still be owed has come back too
        with ThreadPoolExecutor() as pool:
            streamed = [*pool.map(lambda client: client.generate(max_tokens=125, resume=False).result(), (one, two))]
        seconds = time.monotonic() - began
        used += sum(result.usage.completion_tokens for result in streamed)
        assert used < SAVED + RATE * (seconds + 2), "as one server would have given"


def accepted(client: Client, prompt: str = "") -> bool:
    try:
        return bool(client.complete(prompt, max_tokens=1).text)
    except QuotaExceeded:
        return False


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
