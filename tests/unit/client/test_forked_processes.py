"""Clients that a process has made before it is forked, as preforking web servers do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from charloom.client import Client
from tests.unit.client.fake_answers import PIECES, TEXT
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.shared_streams import Streams, holding, noted

streams = noted

FORKING = """
import os, sys
from charloom.client import Client

client = Client(sys.argv[1], shared_stream=sys.argv[2] == "shared", timeout=60)
print(client.complete("in the parent").text)
sys.stdout.flush()
child = os.fork()
if not child:
    print(client.complete("in the child").text)
    print(client.model("small").name, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(client.complete("in the parent").text)
"""


@pytest.mark.parametrize("kind", ["shared", "own"])
def test_the_child_uses_its_parents_client(server: FakeServer, kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING, server.target, kind],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "1"},
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, [TEXT, TEXT, "small", TEXT]), done.stderr


@pytest.mark.parametrize("shared_stream", [True, False])
def test_what_is_the_parents_is_not_waited_for(
    server: FakeServer, streams: Streams, client: Client, shared_stream: bool
) -> None:
    server.answers["Generate"] = holding(server, "long")
    text = client.generate("long")
    assert next(text) == PIECES[0]
    connection = client._connection
    channel = connection._channel
    for lock in (connection._lock, connection._shared._lock):  # of a thread that is not in the child
        lock.acquire()
    connection.forget_parent()
    assert client.complete("Hi").text == TEXT
    assert connection._channel is not channel
    assert streams.begun == 2 * shared_stream
    if shared_stream:
        text.result()
        assert (text.text, text.resumptions) == (TEXT, 1)
    server.ended.set()
    channel.close()
