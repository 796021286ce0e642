"""Connections to the Redis that takes writes, with retries of the scripts that run there.

A master that becomes a replica keeps its connections, and refuses scripts before they have any effect. So after such a
refusal the connections are dropped, the master is looked up again (by its name, or by asking the sentinels), and the
script is retried, for some seconds. The same is done if a Redis is loading, has lost its slots or its replicas, or no
longer knows that the connection is authenticated.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from charloom.engine.errors import StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool, Redis
    from redis.asyncio.sentinel import Sentinel
    from redis.commands.core import AsyncScript

Command = Callable[["Redis"], Awaitable[Any]]

_CONNECT, _ANSWER, _PATIENCE = 1.0, 2.0, 3.0
"""Timeouts in seconds: of a connection, of an answer, and of a command with all its retries."""
_CONNECTIONS = 32
_PAUSES = (0.0, 0.1, 0.2, 0.4, 0.5, 0.5, 0.5)
"""Seconds before each retry. In total less than `_PATIENCE`, so that the last error can be reported."""
_REFUSED = re.compile(r"\b(READONLY|LOADING|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|NOREPLICAS|NOAUTH|BUSY)\b")
"""Refusals that another Redis, or the same one a moment later, may not give. In errors of scripts, Redis 6 puts them
amid other words."""
_OF_SCRIPTS = re.compile(
    r"Error running script \(call to f_[0-9a-f]{40}\): *"
    r"|,? *(script: *[0-9a-f]{40},? *)?(on )?@user_script:( ?\d+[.:]?)*"
)
"""Details of the failed script in error messages of Redis 6 and 7."""
_SENTINELS = re.compile(r"<?[\w.]*\bRedis[<(].*?host=([^,)>]+),port=(\d+).*?>( - )")
"""The representation of a sentinel in error messages of redis-py."""


class Connections:
    """A pool of at most 32 connections, which is replaced when its Redis refuses to work.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://` as redis-py takes them, or
            `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB`; `rediss+sentinel://` if Redis and the sentinels use TLS,
            with the same options. User and password are those of Redis; for the sentinels use the options
            `sentinel_username` and `sentinel_password`.

    Raises:
        ValueError: the URL is malformed, or redis-py is not installed.

    Connects when it is first used.
    """

    def __init__(self, url: str) -> None:
        try:
            import redis.asyncio
        except ModuleNotFoundError as problem:
            raise ValueError("sessions in Redis need redis-py: pip install 'charloom[server]'") from problem
        parts = urlsplit(url)
        self.where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        """The URL as it may be shown: without a password."""
        self._errors = redis.exceptions
        try:
            self._sentinel = _sentinel(parts) if parts.scheme.endswith("+sentinel") else None
            new_pool = _pools(url) if self._sentinel is None else _pools_of(self._sentinel, parts)
            pool = new_pool()
            pool.make_connection()  # type: ignore[no-untyped-call]  # checks the options
        except (TypeError, ValueError) as problem:
            raise ValueError(f"{self.where} is not a URL of a Redis: {problem}") from problem
        self._new_client: Callable[[], Redis] = lambda: redis.asyncio.Redis(connection_pool=new_pool())
        self._client = self._new_client()
        self._calls = Counter["Redis"]()
        """By client, the number of commands in progress; also of clients that were replaced."""
        self._free = asyncio.Semaphore(min(_CONNECTIONS, pool.max_connections))

    def script(self, text: str) -> AsyncScript:
        """Make a script for `run`."""
        return self._client.register_script(text)

    async def run(self, script: AsyncScript, keys: list[str], values: list[Any]) -> Any:
        """Run a script on the Redis that takes writes; returns its result.

        Raises:
            StoreUnavailable: there is none, or it does not answer in time.
            StoreFull: it has no memory left.
        """
        return await self._patiently(lambda client: script(keys=keys, args=values, client=client))

    async def eviction(self) -> str:
        """The `maxmemory-policy`; empty if Redis has no memory limit; raises as `run`."""
        memory = await self._patiently(lambda client: client.info("memory"))
        return str(memory["maxmemory_policy"]) if memory["maxmemory"] else ""

    def refused(self, problem: StoreUnavailable | StoreFull) -> bool:
        """Whether an error of `run` is an answer of Redis, not the lack of one."""
        cause = problem.__cause__
        return isinstance(cause, (self._errors.ResponseError, self._errors.AuthenticationError))

    async def close(self) -> None:
        """Close all connections."""
        await self._client.connection_pool.disconnect()
        for one in () if self._sentinel is None else self._sentinel.sentinels:
            await one.connection_pool.disconnect()

    async def _patiently(self, command: Command) -> Any:
        try:
            return await asyncio.wait_for(self._until_taken(command), _PATIENCE)
        except asyncio.TimeoutError as problem:
            raise StoreUnavailable(f"no answer within {_PATIENCE:g} s") from problem
        except (self._errors.RedisError, OSError) as problem:
            full = "command not allowed when used memory" in str(problem)
            raise (StoreFull if full else StoreUnavailable)(said(problem)) from problem

    async def _until_taken(self, command: Command) -> Any:
        pauses = iter(_PAUSES)
        while True:
            try:
                async with self._free:
                    return await self._once(self._client, command)
            except self._errors.RedisError as problem:
                pause = next(pauses, None)
                if pause is None or not self._may_be_taken_elsewhere(problem):
                    raise
            await asyncio.sleep(pause)

    async def _once(self, client: Redis, command: Command) -> Any:
        self._calls[client] += 1
        try:
            return await command(client)
        except self._errors.RedisError as problem:
            if client is self._client and self._may_be_taken_elsewhere(problem):
                self._client = self._new_client()
            raise
        finally:
            self._calls[client] -= 1
            if client is not self._client and not self._calls[client]:
                del self._calls[client]
                with contextlib.suppress(self._errors.RedisError, OSError):  # the client is not needed any more
                    await client.connection_pool.disconnect()

    def _may_be_taken_elsewhere(self, problem: Exception) -> bool:
        errors = self._errors
        # The connections of sentinels turn READONLY into another error, with this one as its context.
        kinds = (errors.ReadOnlyError, errors.BusyLoadingError, errors.MasterDownError)
        of_clusters = (errors.ClusterDownError, errors.TryAgainError, errors.MovedError)
        if any(isinstance(one, (*kinds, *of_clusters)) for one in (problem, problem.__context__)):
            return True
        # For the others redis-py has no class, or removes their code.
        return bool(_REFUSED.search(str(problem))) or "Authentication required" in str(problem)


def _options() -> dict[str, Any]:
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return {
        "socket_timeout": _ANSWER,
        "socket_connect_timeout": _CONNECT,
        # Redis may have executed a command that it did not answer; repeating it could be wrong.
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }


def _pools(url: str) -> Callable[[], ConnectionPool]:
    from redis.asyncio import ConnectionPool

    return lambda: ConnectionPool.from_url(url, **_options())


def _sentinel(parts: SplitResult) -> Sentinel:
    from redis.asyncio.sentinel import Sentinel

    wanted = _wanted(parts)
    own = {name: wanted[f"sentinel_{name}"] for name in ("username", "password") if f"sentinel_{name}" in wanted}
    tls = {name: value for name, value in wanted.items() if name.startswith("ssl")}
    addresses = []
    for address in parts.netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"redis://{address}")
        if not one.hostname:
            raise ValueError("name the sentinels: HOST:PORT,HOST:PORT")
        addresses.append((one.hostname, one.port or 26379))
    options = {**_options(), **own, **tls}
    return Sentinel(addresses, sentinel_kwargs=options)  # type: ignore[no-untyped-call]


def _pools_of(sentinel: Sentinel, parts: SplitResult) -> Callable[[], ConnectionPool]:
    from redis.asyncio.sentinel import SentinelConnectionPool

    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("name the service that the sentinels watch: /SERVICE/DB")
    wanted = _wanted(parts._replace(path=f"/{database}"))
    own = {name: value for name, value in wanted.items() if name != "host" and not name.startswith("sentinel_")}
    options = {**_options(), **own}
    return lambda: SentinelConnectionPool(service, sentinel, **options)  # type: ignore[no-untyped-call]


def _wanted(parts: SplitResult) -> dict[str, Any]:
    """Parse the options in a URL of sentinels, as redis-py does in one of a Redis."""
    from redis.asyncio.connection import parse_url

    user = parts.netloc.rpartition("@")[0]
    options = dict(parse_url(parts._replace(scheme="redis", netloc=f"{user}@master").geturl()))
    return {**options, "ssl": True} if parts.scheme == "rediss+sentinel" else options


def said(problem: BaseException | None) -> str:
    """The message of an error of Redis, without details of scripts and of redis-py."""
    from redis.exceptions import MovedError

    if isinstance(problem, MovedError):  # its own message has only the slot's number and the address
        return f"the cluster has moved the sessions to {problem.host}:{problem.port}"
    return _SENTINELS.sub(r"\1:\2\3", _OF_SCRIPTS.sub("", str(problem or ""))).strip()
