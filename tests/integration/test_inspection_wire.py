"""Looking inside the network, over the wire: through generated stubs, the SDK and the command."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from charloom.bundle import INSPECTOR_FILE, Bundle, read_bundle
from charloom.cli.main import main
from charloom.client import AsyncClient, Client, FailedPrecondition
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server
from charloom.server.testing import running_server
from charloom.v1 import reading_pb2, reading_pb2_grpc, sessions_pb2, sessions_pb2_grpc, text_pb2
from tests.integration.conftest import refused
from tests.unit.bundle.bundle_files import change_manifest
from tests.waiting import eventually

Reading = reading_pb2_grpc.ReadingServiceStub
Sessions = sessions_pb2_grpc.SessionServiceStub
FIELDS = ("input_gate", "forget_gate", "candidate", "output_gate", "cell", "hidden")


def inspect(reading: Reading, text: str, **fields: Any) -> list[reading_pb2.InspectResponse]:
    return list(reading.Inspect(reading_pb2.InspectRequest(text=text, **fields)))


def test_each_token_has_its_layers_its_probability_and_what_comes_next(reading: Reading, bundle: Bundle) -> None:
    answers = inspect(reading, "The cat", top_next=3, distribution=True)
    assert b"".join(answer.token.symbol for answer in answers) == b"The cat"
    assert [answer.position for answer in answers] == list(range(1, 8))
    scored = reading.Score(reading_pb2.ScoreRequest(text="The cat")).logprobs
    symbols = [bundle.vocabulary.symbol(token) for token in range(bundle.vocabulary.size)]
    for answer, one in zip(answers, scored, strict=True):
        assert answer.token.symbol == one.chosen.symbol
        assert answer.token.logprob == pytest.approx(one.chosen.logprob, abs=1e-5)
        assert [layer.layer for layer in answer.layers] == [0, 1]
        assert {len(getattr(layer, field)) for layer in answer.layers for field in FIELDS} == {48}
        for layer in answer.layers:
            named = {gate.name: list(gate.values) for gate in layer.gates}
            assert list(named) == ["input", "forget", "candidate", "output"]
            assert list(named.values()) == [list(getattr(layer, field)) for field in FIELDS[:4]]
        assert sum(map(math.exp, answer.distribution)) == pytest.approx(1, abs=1e-5)
        told = dict(zip(symbols, answer.distribution, strict=True))
        assert [other.logprob for other in answer.next] == sorted(told.values(), reverse=True)[:3]
        assert all(told[other.symbol] == other.logprob for other in answer.next)
    for before, after in itertools.pairwise(answers):
        assert after.token.logprob == dict(zip(symbols, before.distribution, strict=True))[after.token.symbol]
        for old, new in zip(before.layers, after.layers, strict=True):
            i, f, g, o, c, h = (np.array(getattr(new, field)) for field in FIELDS)
            np.testing.assert_allclose(c, f * np.array(old.cell) + i * g, atol=1e-6)
            np.testing.assert_allclose(h, o * np.tanh(c), atol=1e-6)
    plain = inspect(reading, "The cat", layers=[1])
    assert [one.layers[0] for one in plain] == [one.layers[1] for one in answers]
    assert not any(one.next or one.distribution for one in plain)


def test_a_session_is_read_and_stays_as_it_is(reading: Reading, sessions: Sessions) -> None:
    whole = inspect(reading, "The cat is.")
    mine = (("charloom-tenant", "inspecting"),)
    session = sessions.CreateSession(sessions_pb2.CreateSessionRequest(), metadata=mine).session
    sessions.FeedSession(sessions_pb2.FeedSessionRequest(session_id=session.id, text="The cat"), metadata=mine)
    request = reading_pb2.InspectRequest(text=" is.", session_id=session.id)
    for _ in range(2):
        rest = list(reading.Inspect(request, metadata=mine))
        assert [one.position for one in rest] == [8, 9, 10, 11]
        for one, other in zip(rest, whole[7:], strict=True):
            for left, right in zip(one.layers, other.layers, strict=True):
                for field in FIELDS:
                    np.testing.assert_allclose(getattr(left, field), getattr(right, field), atol=1e-5)
    got = sessions.GetSession(sessions_pb2.GetSessionRequest(session_id=session.id), metadata=mine).session
    assert (got.position, got.version) == (7, 1)
    assert refused(lambda: list(reading.Inspect(request)))[:2] == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"text": "日"}, "text"),
        ({"text": "a" * 4097}, "text"),
        ({"layers": [2]}, "layers[0]"),
        ({"top_next": 21}, "top_next"),
        ({"unknown_characters": 9}, "unknown_characters"),
    ],
)
def test_what_cannot_be_done_is_refused(reading: Reading, fields: dict[str, Any], field: str) -> None:
    code, _, violations, _ = refused(lambda: list(reading.Inspect(reading_pb2.InspectRequest(**fields))))
    assert (code, set(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, {field})


def test_nothing_to_read_is_an_empty_stream(reading: Reading) -> None:
    assert inspect(reading, "") == []
    assert inspect(reading, "日", unknown_characters=text_pb2.UNKNOWN_CHARACTERS_SKIP) == []
    assert refused(lambda: inspect(reading, "a", model="none"))[:2] == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")


def test_who_leaves_early_leaves_nothing_behind(server: Server, reading: Reading) -> None:
    for _ in range(20):
        stream = reading.Inspect(reading_pb2.InspectRequest(text="abc " * 1000))
        next(stream)
        stream.cancel()
        eventually(lambda: server.engine.inspections.running == 0)
    assert len(inspect(reading, "abc")) == 3


def test_a_bundle_without_an_inspector_says_what_to_do(
    copied: Callable[[], Path], decoder: Decoder, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied()
    (path / INSPECTOR_FILE).unlink()
    change_manifest(path, lambda manifest: manifest["files"].pop(INSPECTOR_FILE))
    with running_server([(read_bundle(path), decoder)]) as server, Client(server.address) as client:
        with pytest.raises(FailedPrecondition, match=r"no inspector\.onnx; export the model again") as caught:
            client.inspect("a")
        assert caught.value.reason == "MODEL_NOT_INSPECTABLE"
        assert main(["inspect", "a", "--target", server.address]) == 1
        assert "export the model again, without --no-inspector" in capsys.readouterr().err


async def test_the_sdk_and_the_command_show_the_same(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    async with AsyncClient(server.address) as client:
        found = await client.inspect("The cat is.", layers=[0], distributions=True)
    assert np.asarray(found.layers[0].forget_gate).shape == (11, 48)
    with Client(server.address) as blocking:
        assert blocking.inspect("The cat is.", layers=[0], distributions=True) == found
    words = ["inspect", "The cat is.", "--layer", "0", "--gate", "forget", "--units", "5,40"]
    assert main([*words, "--target", server.address, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    expected = np.asarray(found.layers[0].forget_gate).T
    assert told["units"] == {"5": expected[5].tolist(), "40": expected[40].tolist()}
    assert told["bits"] == pytest.approx([-token.logprob / math.log(2) for token in found.tokens])
    assert main([*words, "--target", server.address]) == 0
    assert "small, layer 0: forget gate f\n" in capsys.readouterr().out
    for wrong in ("-1", "2"):
        assert main(["inspect", "a", "--layer", wrong, "--target", server.address]) == 1
        assert f"charloom inspect: --layer {wrong}: small has layers 0 to 1\n" in capsys.readouterr().err
