"""Opens the session store that a URL names."""

from __future__ import annotations

from pathlib import Path

from charloom.engine.sessions.records import PLAIN, Records
from charloom.engine.sessions.stores.memory import MemoryStore
from charloom.engine.sessions.stores.store import Store


async def open_store(url: str, capacity: int, records: Records = PLAIN, most_memory: int | None = None) -> Store:
    """Open the store of a URL, and check that it can be used.

    Args:
        url: `memory:`, `memory:PATH` (a file keeps them between servers), `sqlite:PATH`, `redis://`, `rediss://` (TLS)
            or `unix://` as redis-py takes them, or `redis+sentinel://` or `rediss+sentinel://`
        capacity: most sessions that are kept
        records: how sessions are written, in stores that outlive the server
        most_memory: most bytes of sessions in this process, for stores in memory; None: any number

    Raises:
        ValueError: the URL names no store, or the store refuses.
        OSError: it does not answer, or its file cannot be opened.
    """
    scheme, _, rest = url.partition(":")
    if url == "memory:":
        return MemoryStore(capacity, most_memory=most_memory)
    if scheme == "memory" and rest:
        from charloom.engine.sessions.stores.memory_file import MemoryFileStore

        return MemoryFileStore(Path(rest), capacity, records, most_memory=most_memory)
    if (path := _sqlite_path(url)) is not None:
        from charloom.engine.sessions.stores.sqlite import SqliteStore

        return SqliteStore(path, capacity, records=records)
    if _is_redis(url):
        from charloom.engine.sessions.stores.redis import RedisStore

        store = RedisStore(url, capacity, records=records)
        try:
            await store.start()
        except BaseException:
            await store.close()
            raise
        return store
    raise ValueError(
        # The rest of the URL is not shown, because it may contain a password.
        f"there is no session store {scheme + ':...'!r}; use memory:, memory:PATH, sqlite:PATH, redis://HOST:PORT/DB, "
        "rediss://HOST:PORT/DB, unix:///PATH/OF/SOCKET or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB "
        "(rediss+sentinel:// with TLS)"
    )


async def look_at_store(url: str, records: Records = PLAIN) -> str:
    """Check, without changing anything, that `open_store` can open a URL; returns a description for the user.

    Raises:
        ValueError, OSError: as `open_store`.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "memory" and rest:
        from charloom.engine.sessions.stores import memory_file

        return memory_file.look_at_file(Path(rest), records)
    if (path := _sqlite_path(url)) is not None:
        from charloom.engine.sessions.stores.sqlite_file import look_at_file

        look_at_file(path)
        return f"{path}" if path.exists() else f"{path}, which will be made"
    if _is_redis(url):
        from charloom.engine.sessions.stores.redis import RedisStore

        redis = RedisStore(url, capacity=1)
        try:
            await redis.look()
        finally:
            await redis.close()
        return "Redis, which answers"
    await (await open_store(url, capacity=1)).close()
    return "in memory"


def _is_redis(url: str) -> bool:
    scheme, _, rest = url.partition(":")
    return scheme in ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel") and rest.startswith("//")


def _sqlite_path(url: str) -> Path | None:
    """The PATH of `sqlite:PATH`; None if the URL names another store.

    Raises:
        ValueError: PATH is a name that SQLite would not take for a file.
    """
    scheme, _, rest = url.partition(":")
    if scheme != "sqlite" or not rest:
        return None
    if ":memory:" in rest or rest.startswith("file:"):
        raise ValueError(
            f"{url} is not a file: sqlite: takes the PATH of one; leave --store out to keep sessions in memory"
        )
    return Path(rest)
