"""POST /v1/inspect: what the units do, as gRPC's Inspect tells it."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest

from charloom.bundle import Bundle
from charloom.client import Client
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server
from charloom.server.process_memory import memory_in_use
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.integration.http_client import client, connection, counted, head, put_back, refused, running
from tests.waiting import eventually

TEXT = "The def statement"
ARRAYS = ["input", "forget", "candidate", "output", "h", "c"]


@pytest.fixture(scope="module")
def plain(http_server: Server) -> Iterator[httpx.Client]:
    with client(http_server) as plain:
        yield plain


def inspected(api: httpx.Client, **body: Any) -> Any:
    answer = api.post("/v1/inspect", json={"text": TEXT, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_it_tells_what_grpc_tells(http_server: Server, plain: httpx.Client) -> None:
    found = inspected(plain)
    assert (found["model"], found["units"], "".join(found["tokens"])) == ("small", 48, TEXT)
    assert found["positions"] == list(range(1, len(TEXT) + 1))
    told = {(one["layer"], one["name"]): np.array(one["values"]) for one in found["activations"]}
    assert list(told) == [(layer, name) for layer in (0, 1) for name in ARRAYS]
    with Client(http_server.address) as grpc_client:
        same = grpc_client.inspect(TEXT)
    assert found["token_logprobs"] == [token.logprob for token in same.tokens]
    for layer, shown in same.layers.items():
        for name, values in {**shown.gates, "h": shown.hidden, "c": shown.cell}.items():
            assert np.array_equal(told[layer, name], np.asarray(values)), (layer, name)


def test_numbers_come_packed_and_of_what_is_asked_for(plain: httpx.Client) -> None:
    (whole,) = inspected(plain, layers=[1], arrays=["c"])["activations"]
    (packed,) = inspected(plain, layers=[1], arrays=["c"], encoding_format="base64")["activations"]
    values = np.frombuffer(base64.b64decode(packed["values"]), "<f4").reshape(len(TEXT), 48)
    assert np.array_equal(values, np.array(whole["values"], np.float32))


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_an_answer_that_nobody_reads_is_held_in_the_budget(bundle: Bundle, decoder: Decoder, encoding: str) -> None:
    settings = ServerSettings(grace_seconds=0, http_port=0, memory_bytes=2**30 + memory_in_use())
    with running_server([(bundle, decoder)], settings) as server:
        body = json.dumps({"text": "x" * 4000, "encoding_format": encoding}).encode()
        lines = ("Content-Type: application/json", f"Content-Length: {len(body)}")
        with connection(server) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(head(server, "POST /v1/inspect", *lines) + body)
            assert sock.recv(15) == b"HTTP/1.1 200 OK"
            assert running(server) == 1, "its answer is larger than what systems keep for a client"
            length = 4000 * 2 * 6 * 48 * (4 if encoding == "base64" else 8)
            assert server.engine.budget.held > length
        eventually(lambda: running(server) == 0)
        eventually(lambda: server.engine.budget.held == 0)


def test_it_reads_on_from_a_session_and_leaves_it_there(plain: httpx.Client) -> None:
    whole = inspected(plain, arrays=["h"], layers=[0])
    plain.post("/v1/sessions", json={"session_id": "read"})
    plain.post("/v1/sessions/read/feed", json={"text": TEXT[:7]})
    rest = inspected(plain, session_id="read", text=TEXT[7:], arrays=["h"], layers=[0])
    assert rest["positions"] == whole["positions"][7:]
    assert rest["activations"][0]["values"] == whole["activations"][0]["values"][7:]
    assert plain.get("/v1/sessions/read").json()["position"] == 7


def test_models_say_what_there_is_to_ask_for(plain: httpx.Client) -> None:
    cell = plain.get("/v1/models/small").json()["cell"]
    assert cell == {"kind": "lstm", "layers": 2, "units": 48, "gates": ARRAYS[:4], "arrays": ARRAYS[4:]}


def test_an_empty_text_has_nothing_to_show(plain: httpx.Client) -> None:
    found = inspected(plain, text="", layers=[0], arrays=["h"])
    assert (found["tokens"], found["activations"]) == ([], [{"layer": 0, "name": "h", "values": []}])


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({}, "text", "required"),
        ({"text": "x", "arrays": ["h", "memory"]}, "arrays[1]", "the model has input, forget, candidate, output, h, c"),
        ({"text": "x", "layers": [2]}, "layers[0]", "2 is not allowed; from 0 to 1"),
        ({"text": "x" * 4097}, "text", "more than 4096"),
        ({"text": "x", "encoding_format": "hex"}, "encoding_format", "'float' or 'base64'"),
        ({"text": "\u2603"}, "text", "change them, or skip them: unknown_characters"),
    ],
    ids=range(6),
)
def test_what_cannot_be_shown_is_refused(plain: httpx.Client, body: dict[str, Any], param: str, says: str) -> None:
    status, _, named, message = refused(plain.post("/v1/inspect", json=body))
    assert (status, named) == (400, param)
    assert says in message


def test_an_answer_that_would_be_too_large_is_refused_before_anything_is_read(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ServerSettings(grace_seconds=0, http_port=0, max_message_bytes=16 * 2**20, max_prompt_characters=4096)
    with running_server([(bundle, decoder)], settings) as server, client(server) as api:
        answer = api.post("/v1/inspect", json={"text": "x" * 4000})
        assert refused(answer)[::2] == (400, "text")
        most = (16 * 2**20 - 2**21) // (2 * 6 * 48 * 26)
        assert f"up to {most} tokens fit" in answer.text
        inspected(api, text="x" * most)
        put_back(api, "read", TEXT)
        read = counted(server, monkeypatch)
        for body in ({"text": "x" * 4000}, {"text": "x", "arrays": ["memory"]}):
            assert refused(api.post("/v1/inspect", json={"session_id": "read", **body}))[0] == 400
        assert read == []
        inspected(api, session_id="read", text="x")
        assert sum(read) > 1
        assert server.engine.inspections.running == 0
