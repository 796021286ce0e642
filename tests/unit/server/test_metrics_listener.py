"""The listener of metrics, where the system has no thread to give, and where clients are slow."""

from __future__ import annotations

import socket
import threading

import httpx2 as httpx
import pytest
from prometheus_client import CollectorRegistry

from charloom.server.telemetry import metrics_listener
from charloom.server.telemetry.metrics_listener import MOST_SCRAPES, MetricsListener


async def test_scrapes_are_answered_again_once_there_are_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("there is no thread to give")

    listener = MetricsListener(CollectorRegistry(), "127.0.0.1", 0)
    await listener.start()
    try:
        with monkeypatch.context() as full:
            full.setattr(threading.Thread, "start", no_thread)
            for _ in range(MOST_SCRAPES):
                with socket.create_connection(("127.0.0.1", listener.port), timeout=60) as refused:
                    assert refused.recv(1) == b""
        answer = httpx.get(f"http://{listener.address}/metrics", trust_env=False)
        assert answer.status_code == 200
    finally:
        await listener.close(0)


async def test_who_asks_a_byte_at_a_time_keeps_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_listener, "SCRAPE_SECONDS", 0.5)
    listener = MetricsListener(CollectorRegistry(), "127.0.0.1", 0)
    await listener.start()
    try:
        # The timeout of the socket is not what ends it.
        assert listener._server is not None
        monkeypatch.setattr(listener._server.RequestHandlerClass, "timeout", 3600)
        with socket.create_connection(("127.0.0.1", listener.port), timeout=60) as slow:
            slow.sendall(b"GET /metrics HTTP/1.1\r\nx: ")
            assert slow.recv(1) == b""
    finally:
        await listener.close(0)
