"""Checks everything that a server needs at its start, by reading it as the server would, without changing anything."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from charloom.bundle import Bundle, BundleError
from charloom.engine.loom.model import require_different_names, try_model
from charloom.engine.sessions.stores.open_store import look_at_store
from charloom.server.audit import require_log
from charloom.server.identity.certificates import watched_certificates
from charloom.server.identity.open_gate import gate_of
from charloom.server.identity.sealing_keys import SealingKeys
from charloom.server.identity.signatures import read_trusted_keys
from charloom.server.open_runtime import (
    budget_of,
    memory_of_process,
    open_models,
    records_of,
    require_memory,
    sealing_keys,
    weights_without_model,
)
from charloom.server.settings import ServerSettings
from charloom.server.telemetry.tracing import open_export
from charloom.server.unix_socket import require_place, socket_path


class UsableSettings(ServerSettings):
    """Settings that may have mistakes: a value that cannot be used counts as not given."""

    refused: ClassVar[bool] = False


class Finding(NamedTuple):
    """Something that was checked, and the result."""

    what: str
    said: str
    problem: Exception | None = None
    """Why a server cannot start with it; None if it can."""


def look(what: str, found: Callable[[], str]) -> Finding:
    """Make a finding: the text that `found` returns, or the error that it raises."""
    try:
        return Finding(what, found())
    except (BundleError, ValueError, OSError) as problem:
        return Finding(what, str(problem).removeprefix(f"{what}: "), problem)


def look_at_everything(paths: Sequence[Path], settings: ServerSettings) -> Iterator[Finding]:
    """Check everything that a server with these settings would use, and yield the findings one by one.

    Args:
        paths: of the bundles
        settings: what a server would be started with
    """
    if settings.trusted_keys is not None:
        trusted = settings.trusted_keys
        keys = look("--trusted-keys", lambda: f"{len(read_trusted_keys(trusted))} of them in {trusted}")
        yield keys
        if keys.problem is not None:  # reported once, and not again for each bundle
            settings = settings.model_copy(update={"trusted_keys": None})
    opened: list[Bundle] = []
    for path in paths:
        yield look(f"bundle {path}", lambda path=path: _bundle(path, settings, opened))  # type: ignore[misc]
    if len(opened) > 1:
        yield look("names of models", lambda: _names(opened))
    if settings.model_weights and len(opened) == len(paths):
        yield Finding("--model-weights", weights_without_model(settings, opened) or settings.model_weights)
    if opened:
        yield look("memory", lambda: _memory(settings))
    if settings.tls_cert is not None and settings.tls_key is not None:
        yield look("certificate", lambda: _certificate(settings))
    if settings.keys is not None:
        without_tokens = settings.model_copy(update={"jwt_keys": None})
        yield look("--keys", lambda: _read(gate_of(without_tokens), f"as in {settings.keys}"))
    if settings.jwt_keys is not None and settings.jwt_issuer is not None and settings.jwt_audience is not None:
        tokens_only = settings.model_copy(update={"keys": None})
        yield look("--jwt-keys", lambda: _read(gate_of(tokens_only), f"as at {settings.jwt_keys}"))
    if settings.sealing_keys is not None:
        sealing = settings.sealing_keys
        keys = look("--sealing-keys", lambda: f"{len(SealingKeys(sealing))} of them in {sealing}")
        yield keys
        if keys.problem is not None:
            settings = settings.model_copy(update={"sealing_keys": None})
    if settings.audit_log is not None:
        audit = settings.audit_log
        yield look("--audit-log", lambda: _audit_log(audit))
    yield look("--store", lambda: _store(settings))
    yield look("--host", lambda: _address(settings.host, settings.port))
    if settings.http_port is not None:
        http = settings.http_port
        yield look("--http-host", lambda: _port(settings.http_host, http))
    if settings.traces:
        yield look("--traces", _export)
    if settings.metrics_port is not None:
        metrics = settings.metrics_port
        yield look("--metrics-host", lambda: _port(settings.metrics_host, metrics))


def _bundle(path: Path, settings: ServerSettings, opened: list[Bundle]) -> str:
    [(bundle, decoder)] = open_models([path], settings)
    first = try_model(bundle, decoder, settings.max_rows).first
    opened.append(bundle)
    cell = bundle.manifest.cell
    depends = "" if first.batch_invariant else "; texts may depend on the load (batch invariance fails here)"
    return (
        f"{bundle.manifest.name}, {cell.layers} x {cell.hidden_size} {cell.kind.value}, {decoder.kind} on "
        f"{decoder.device}{depends}"
    )


def _names(bundles: Sequence[Bundle]) -> str:
    require_different_names(bundles)
    return ", ".join(bundle.manifest.name for bundle in bundles)


def _memory(settings: ServerSettings) -> str:
    limit = memory_of_process(settings)
    left = budget_of(limit)
    if limit is None or left is None:
        return "nobody says how much there is; calls may use any amount"
    require_memory(settings, left)
    return f"{left / 2**20:,.0f} of {limit / 2**20:,.0f} MiB for calls and sessions"


def _certificate(settings: ServerSettings) -> str:
    watched = watched_certificates(settings)
    assert watched is not None  # for the settings name one, and its key with it
    return f"{settings.tls_cert}, valid until {watched.value().expires.isoformat()}"


def _audit_log(path: Path) -> str:
    require_log(path)
    return str(path)


def _store(settings: ServerSettings) -> str:
    return asyncio.run(look_at_store(settings.store, records_of(settings, sealing_keys(settings))))


def _export() -> str:
    export = open_export()
    export.close()
    return f"by the exporter {export.name}"


def _read(_: object, said: str) -> str:
    return said


def _address(host: str, port: int) -> str:
    path = socket_path(host)
    if path is None:
        return _port(host, port)
    require_place(path)
    return str(path)


def _port(host: str, port: int) -> str:
    """Check an address. A port that is in use is no mistake: the server that is to be restarted may have it."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE:
            return f"{where}, which is in use now"
        raise OSError(f"cannot listen on {where}: {problem.strerror}") from problem
    return where
