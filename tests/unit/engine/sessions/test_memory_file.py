"""Sessions in memory, and the file that keeps them from one server to the next."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from charloom.engine.errors import Overloaded, SessionExpired
from charloom.engine.quotas import Kept
from charloom.engine.sessions.records import PLAIN, Records
from charloom.engine.sessions.sealing import new_keys
from charloom.engine.sessions.session import Call, Key
from charloom.engine.sessions.stores.memory_file import MemoryFileStore, look_at_file
from charloom.engine.sessions.stores.open_store import look_at_store, open_store
from charloom.engine.shares import Share, set_share
from tests.unit.engine.stores import ENCRYPTED, Place, grown, made, same

WITH_WEIGHTS = Path(__file__).resolve().parents[3] / "fixtures" / "memory-file-with-weights"
"""Two sessions, b and a of shop, in a file of November 2026."""


class BetweenServers(Place):
    """A server after the other, with one file."""

    def __init__(self, path: Path, records: Records = ENCRYPTED) -> None:
        super().__init__()
        self.path = path
        self.records = records

    def make(self, capacity: int = 1000) -> MemoryFileStore:
        return MemoryFileStore(self.path, capacity, self.records, self.clock.now)


@pytest.fixture
def place(tmp_path: Path) -> BetweenServers:
    return BetweenServers(tmp_path / "sessions")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_the_next_server_goes_on_with_them(place: BetweenServers) -> None:
    store = place.make()
    set_share(Share("tenant shop"))
    sessions = [made(place, "b"), made(place, "a", "shop"), made(place, "é", "shop")]
    await store.add(sessions)
    lease = await store.acquire(Key("shop", "a"), "call")
    changed = grown(sessions[1], place.now(), Call("call", 0, 7))
    await store.release(lease, changed)
    await store.close()
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o600

    store = place.make()
    assert len(store) == 3
    assert same(await store.get(Key("shop", "a")), changed)
    assert [same(await store.get(one.key), one) for one in (sessions[0], sessions[2])] == [True, True]
    kept = sum([(await store.get(one.key)).memory for one in sessions])
    assert (await store.kept(Share("tenant shop")), store.memory) == (Kept(3, kept), kept)
    await store.close()


async def test_a_file_of_a_server_whose_callers_had_weights_is_read(tmp_path: Path) -> None:
    place = BetweenServers(tmp_path / "sessions", PLAIN)
    place.path.write_bytes(WITH_WEIGHTS.read_bytes())
    place.path.chmod(0o600)
    store = place.make()
    for session in (made(place, "b"), made(place, "a", "shop")):
        assert same(await store.get(session.key), session)
    assert (await store.kept(Share("tenant shop"))).sessions == 2
    await store.close()


async def test_while_a_server_runs_there_is_no_file(place: BetweenServers) -> None:
    """So that one which is killed leaves no states behind that are older than what its clients have seen."""
    store = place.make()
    await store.add([made(place, "a")])
    await store.close()
    assert files(place.path.parent) == ["sessions", "sessions.lock"]
    store = place.make()
    assert files(place.path.parent) == ["sessions.lock"]
    await store.delete(Key("", "a"))
    await store.close()
    assert len(place.make()) == 0


async def test_time_goes_on_while_there_is_no_server(place: BetweenServers) -> None:
    store = place.make()
    await store.add([made(place, "short", ticks=10), made(place, "long", ticks=100)])
    await store.close()
    await place.wait(50)
    store = place.make()
    await store.get(Key("", "long"))
    with pytest.raises(SessionExpired):
        await store.get(Key("", "short"))
    await store.close()


async def test_all_are_taken_up_where_fewer_are_allowed_now(place: BetweenServers) -> None:
    store = place.make()
    await store.add([made(place, str(number)) for number in range(5)])
    await store.close()
    store = place.make(capacity=3)
    assert len(store) == 5
    with pytest.raises(Overloaded):
        await store.add([made(place, "one more")])
    await store.close()


async def written(place: BetweenServers) -> bytes:
    store = place.make()
    await store.add([made(place, "a"), made(place, "b", "shop")])
    await store.close()
    return place.path.read_bytes()


async def refused(place: BetweenServers, content: bytes) -> str:
    """What is said of a file, which has to stay as it is, when a server begins and when it is only looked at."""
    place.path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot take up the sessions in") as found:
        place.make()
    with pytest.raises(ValueError, match="cannot take up the sessions in") as looked:
        look_at_file(place.path, place.records)
    assert str(found.value) == str(looked.value)
    assert place.path.read_bytes() == content
    return str(found.value)


@pytest.mark.parametrize("records", [PLAIN, ENCRYPTED])
async def test_one_that_was_damaged_anywhere_is_refused_and_left_alone(tmp_path: Path, records: Records) -> None:
    place = BetweenServers(tmp_path / "sessions", records)
    good = await written(place)
    for at in range(0, len(good), 7):
        wrong = bytearray(good)
        wrong[at] ^= 0x41
        assert "move it away to start without its sessions" in await refused(place, bytes(wrong))
    for end in range(0, len(good), 50):
        assert "it was damaged" in await refused(place, good[:end])
    assert "it was damaged" in await refused(place, good + b"x")
    place.path.write_bytes(good)
    assert len(place.make()) == 2


async def test_one_of_another_version_or_of_something_else_is_refused_and_left_alone(place: BetweenServers) -> None:
    good = await written(place)
    assert "it has version 2, this server reads 1" in await refused(place, good[:4] + b"\x02" + good[5:])
    assert "it is something else" in await refused(place, b"SQLite format 3\0" + bytes(100))


async def test_one_whose_key_is_gone_is_refused_and_left_alone(place: BetweenServers) -> None:
    good = await written(place)
    assert b"digest" not in good
    place.records = Records(new_keys())
    assert "put that back into the file of --sealing-keys" in await refused(place, good)


async def test_two_servers_at_a_time_do_not_use_one_file(place: BetweenServers) -> None:
    store = place.make()
    with pytest.raises(OSError, match="another server keeps its own there; name another file"):
        place.make()
    assert "which a server uses now" in look_at_file(place.path, ENCRYPTED)
    await store.close()
    await place.make().close()


async def test_a_full_disk_is_told_and_leaves_no_half_of_a_file(
    place: BetweenServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = place.make()
    await store.add([made(place, "a")])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write 1 sessions to .*, and they are lost: No space left"):
        await store.close()
    assert files(place.path.parent) == ["sessions.lock"]


async def test_what_a_server_left_that_was_killed_while_it_wrote_is_replaced(place: BetweenServers) -> None:
    (place.path.parent / "sessions.new").write_bytes(b"half of")
    await written(place)
    assert files(place.path.parent) == ["sessions", "sessions.lock"]


async def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot keep sessions in .*: No such file or directory"):
        await open_store(f"memory:{tmp_path}/nowhere/file", 10)
    with pytest.raises(OSError, match="no file can be made in"):
        await look_at_store(f"memory:{tmp_path}/nowhere/file")


async def test_looking_says_what_is_there_and_changes_nothing(place: BetweenServers) -> None:
    assert await look_at_store(f"memory:{place.path}") == f"in memory, and at the end in {place.path}"
    assert files(place.path.parent) == []
    await written(place)
    said = await look_at_store(f"memory:{place.path}", ENCRYPTED)
    assert said == f"in memory, with the 2 sessions in {place.path}"
