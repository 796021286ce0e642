"""A master that becomes a replica and keeps its connections, and its replica that becomes the master."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from charloom.engine.errors import StoreUnavailable
from charloom.engine.sessions.session import Key
from charloom.engine.sessions.stores.open_store import open_store
from tests.ports import free_port
from tests.unit.engine.redis_server import RedisServer, Sentinel
from tests.unit.engine.stores import InRedis, grown, ids, made
from tests.waiting import eventually


class Failover:
    """Two of which one follows the other, and a name for the one that takes writes."""

    def __init__(self, folder: Path) -> None:
        for name in ("one", "other"):
            (folder / name).mkdir()
        self.one, self.other = (
            RedisServer(folder / name, "--repl-diskless-sync-delay", "0", *self.options()) for name in ("one", "other")
        )
        self.name = folder / "master.sock"
        self.name.symlink_to(self.one.socket)
        self.follow()
        eventually(lambda: "master_link_status:up" in self.other.ask("INFO", "replication"))

    def options(self) -> list[str]:
        """Of each."""
        return []

    def follow(self) -> None:
        """Make the other one a replica."""
        self.other.told("REPLICAOF", "127.0.0.1", str(self.one.port))

    def change_places(self) -> None:
        self.other.told("REPLICAOF", "NO", "ONE")
        self.one.told("REPLICAOF", "127.0.0.1", str(self.other.port))

    def until_caught_up(self) -> None:
        """Wait until the replica has all that was written. (WAIT waits for its own connection's writes alone.)"""
        eventually(lambda: offset(self.one, "master_repl_offset") == offset(self.other, "slave_repl_offset"))

    def happen(self) -> None:
        self.until_caught_up()
        self.change_places()
        self.name.unlink()
        self.name.symlink_to(self.other.socket)

    def end(self) -> None:
        self.one.kill()
        self.other.kill()


class InCluster(Failover):
    """Nodes of a cluster. One that is no master any more does not say so, but where its keys are now."""

    def options(self) -> list[str]:
        port = str(free_port())
        return ["--cluster-enabled", "yes", "--cluster-port", port, "--cluster-node-timeout", "5000"]

    def follow(self) -> None:
        self.one.told("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        number = self.one.ask("CLUSTER", "MYID").splitlines()[-1]
        bus = self.one.ask("CLUSTER", "NODES").split("@")[1].split()[0]
        self.other.told("CLUSTER", "MEET", "127.0.0.1", str(self.one.port), bus)
        eventually(lambda: self.other.ask("CLUSTER", "REPLICATE", number) == "+OK\r\n")

    def change_places(self) -> None:
        eventually(lambda: "cluster_state:ok" in self.other.ask("CLUSTER", "INFO"))
        self.other.told("CLUSTER", "FAILOVER")
        eventually(lambda: "role:slave" in self.one.ask("INFO", "replication"))


def offset(server: RedisServer, which: str) -> int:
    """How much of the master's writing there is, in bytes."""
    found = re.search(rf"{which}:(\d+)", server.ask("INFO", "replication"))
    assert found is not None
    return int(found[1])


@pytest.fixture
def failover(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Failover]:
    failover = getattr(request, "param", Failover)(tmp_path)
    yield failover
    failover.end()


@pytest.mark.parametrize("failover", [Failover, InCluster], indirect=True)
async def test_the_connections_to_a_master_that_became_a_replica_are_left(failover: Failover) -> None:
    place = InRedis(f"unix://{failover.name}")
    store = place.open()
    await store.add([made(place, name, ticks=600) for name in ("a", "b", "c")])
    lease = await store.acquire(Key("", "a"))
    # Each has a connection of its own.
    await asyncio.gather(*(store.get(Key("", "b")) for _ in range(20)))
    failover.happen()
    await asyncio.gather(
        *(store.get(Key("", "b")) for _ in range(20)),
        *(store.check(), store.renew([lease]), store.write(lease, grown(lease.session, place.now()))),
        *(store.acquire(Key("", "b")), store.delete(Key("", "c"))),
    )
    assert (await store.get(Key("", "a"))).version == 1
    assert await ids(store) == ["a", "b"]
    connected = failover.one.ask("CLIENT", "LIST", "TYPE", "normal")
    assert connected.count("cmd=evalsha") == 0, "none was forgotten"
    await place.close()


@pytest.mark.parametrize("failover", [InCluster], indirect=True)
async def test_a_url_of_the_wrong_node_names_the_right_one(failover: Failover) -> None:
    with pytest.raises(ValueError, match=rf"has moved the sessions to 127\.0\.0\.1:{failover.one.port}$"):
        await open_store(failover.other.url, 10)


@pytest.fixture
def sentinel(failover: Failover, tmp_path: Path) -> Iterator[Sentinel]:
    sentinel = Sentinel(tmp_path, failover.one.port)
    yield sentinel
    sentinel.kill()


async def test_the_master_is_the_one_that_the_sentinels_name(failover: Failover, sentinel: Sentinel) -> None:
    url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/charloom/0"
    await (await open_store(url, 10)).close()
    place = InRedis(url)
    store = place.open()
    await store.add([made(place, "a", ticks=600)])
    await asyncio.gather(*(store.get(Key("", "a")) for _ in range(20)))
    failover.until_caught_up()
    sentinel.fail_over(failover.one.port, failover.other.port)
    lease = await store.acquire(Key("", "a"))
    await store.release(lease, grown(lease.session, place.now()))
    assert (await store.get(Key("", "a"))).version == 1
    assert failover.other.ask("HEXISTS", "{charloom}:session:0::a", "record") == ":1\r\n"
    sentinel.kill()
    failover.other.kill()
    with pytest.raises(StoreUnavailable) as refused:
        await store.get(Key("", "a"))
    assert "Redis<" not in str(refused.value)
    await store.close()


async def test_where_no_sentinel_knows_a_master(sentinel: Sentinel) -> None:
    address = f"127.0.0.1:{sentinel.port}"
    with pytest.raises(OSError, match=rf"cannot keep sessions in redis\+sentinel://{address}/nobody: .*'nobody'$"):
        await open_store(f"redis+sentinel://:secret@{address}/nobody", 10)
    with pytest.raises(OSError, match=rf"No master found for 'charloom' : {address} - .*AuthenticationError"):
        await open_store(f"redis+sentinel://{address}/charloom?sentinel_password=secret", 10)


async def test_a_url_for_sentinels_and_a_redis_that_speak_tls(tmp_path: Path) -> None:
    authority = certificates(tmp_path)
    port, sentinels_port = free_port(), free_port()
    files = {"tls-cert-file": "cert.pem", "tls-key-file": "key.pem", "tls-ca-cert-file": "cert.pem"}
    settings = {name: str(tmp_path / file) for name, file in files.items()}
    settings |= {"tls-auth-clients": "no", "tls-replication": "yes"}
    redis = RedisServer(tmp_path, *(word for name, value in settings.items() for word in (f"--{name}", value)))
    redis.told("CONFIG", "SET", "tls-port", str(port))
    lines = [f"{name} {value}" for name, value in settings.items()]
    sentinel = Sentinel(tmp_path, port, f"tls-port {sentinels_port}", *lines)
    where = f"127.0.0.1:{sentinels_port}/charloom/1"
    try:
        url = f"rediss+sentinel://{where}?ssl_ca_certs={authority}"
        await (await open_store(url, 10)).close()
        place = InRedis(url)
        await place.open().add([made(place, "a", ticks=600)])
        assert "db1:keys=" in redis.ask("INFO", "keyspace")
        await place.close()
        for other in (f"redis+sentinel://{where}", f"rediss+sentinel://{where}"):
            with pytest.raises(OSError, match=r"No master found for 'charloom' : 127\.0\.0\.1"):
                await open_store(other, 10)
    finally:
        sentinel.kill()
        redis.kill()


def certificates(folder: Path) -> Path:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    (folder / "cert.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    return folder / "cert.pem"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis+sentinel://:secret@/charloom/0", "name the sentinels"),
        ("redis+sentinel://:secret@one:26379", "name the service"),
        ("redis+sentinel://:secret@one:port/charloom", "is not a URL of a Redis"),
        ("redis+sentinel://:secret@one/charloom?what=7", "is not a URL of a Redis"),
        ("rediss+sentinel://:secret@one:26379", "name the service"),
    ],
)
async def test_what_is_no_url_of_sentinels(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as refused:
        await open_store(url, 10)
    assert "secret" not in str(refused.value)
