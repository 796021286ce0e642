"""What becomes of calls that need the decoder more than once when their server is asked to stop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx2 as httpx
import pytest

from charloom.bundle import Bundle, DecoderKind
from charloom.client import Client, Unavailable
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.server.app import Server
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    reading_pb2,
    reading_pb2_grpc,
    watching_pb2,
    watching_pb2_grpc,
)
from tests.integration.conftest import refused
from tests.unit.engine.looms import Slow
from tests.unit.export.classifier_runs import classifier_bundle
from tests.waiting import eventually

Call = Callable[[Server], Any]


def resampled(server: Server) -> Any:
    with Client(server.address) as client:
        texts = client.continuations("The ", n=4, regex="[a-z ]{40}", max_tokens=40, resample=True, seed=1)
        return [one.text for one in texts.completions()]


def several(server: Server) -> Any:
    """Their prompt is read first, for all of them."""
    with Client(server.address) as client:
        return [one.text for one in client.continuations("The def ", n=3, max_tokens=20, seed=1).completions()]


def suggested(server: Server) -> Any:
    with Client(server.address) as client:
        return client.suggest("The ", boundary="length", max_tokens=6)


def ranked(server: Server) -> Any:
    with httpx.Client(base_url=f"http://{server.http_address}", timeout=60) as plain:
        body = {"prompt": "The ", "candidates": ["def", "class"]}
        return [one["logprob"] for one in plain.post("/v1/rank", json=body).raise_for_status().json()["data"]]


def scored(server: Server) -> Any:
    """Texts of which each is sent when the one before has its score."""
    with grpc.insecure_channel(server.address) as channel:
        sent: queue.Queue[Any] = queue.Queue()
        sent.put(reading_pb2.ScoreManyRequest(start=reading_pb2.ScoreManyStart()))
        scores = []
        answers = reading_pb2_grpc.ReadingServiceStub(channel).ScoreMany(iter(sent.get, None))
        try:
            for text in ("one", "two", "three", "four"):
                sent.put(reading_pb2.ScoreManyRequest(texts=reading_pb2.ScoreManyTexts(texts=[text])))
                scores.append(next(answers).scores[0].logprob)
        finally:
            sent.put(None)
        return scores, list(answers)


@pytest.fixture
def slow(decoder: Decoder) -> Iterator[Slow]:
    slow = Slow(decoder)
    yield slow
    if slow.gate is not None:
        slow.gate.set()


def begin(pool: ThreadPoolExecutor, slow: Slow, call: Callable[[], Any]) -> Future[Any]:
    """Begin a call; it is in its first step, until the gate opens."""
    slow.entered.clear()
    slow.gate = threading.Event()
    running = pool.submit(call)
    assert slow.entered.wait(60)
    return running


@pytest.mark.parametrize("call", [resampled, several, suggested, ranked, scored])
def test_a_call_that_has_begun_takes_all_its_steps_within_the_grace(bundle: Bundle, slow: Slow, call: Call) -> None:
    def while_it_stops(server: Server) -> None:
        eventually(server.engine.draining.is_set)
        try:
            with pytest.raises(Unavailable) as told, Client(server.address) as client:
                client.score("The ")
            assert told.value.reason == "DRAINING"
        finally:
            assert slow.gate is not None
            slow.gate.set()

    with ThreadPoolExecutor(2) as pool:
        with running_server([(bundle, slow)], ServerSettings(grace_seconds=60, http_port=0)) as server:
            expected = call(server)
            running = begin(pool, slow, lambda: call(server))
            opened = pool.submit(while_it_stops, server)
        opened.result()
        assert running.result() == expected


def test_when_the_grace_is_over_it_ends_at_its_next_step(bundle: Bundle, slow: Slow) -> None:
    with ThreadPoolExecutor(2) as pool:
        with running_server([(bundle, slow)], ServerSettings(grace_seconds=0.2)) as server:
            slow.seconds = 0.02

            def endless() -> Any:
                with Client(server.address) as client:
                    return client.suggest("The ", boundary="length", max_tokens=256, count=1, beam=64)

            running = begin(pool, slow, endless)
            assert slow.gate is not None
            gate = slow.gate
            opened = pool.submit(lambda: (eventually(server.engine.draining.is_set), gate.set()))
        opened.result()
        with pytest.raises(Unavailable) as told:
            running.result()
        assert told.value.reason == "DRAINING"


def test_a_watch_has_the_verdicts_of_what_it_sent_and_is_told_to_go_elsewhere(bundle: Bundle, slow: Slow) -> None:
    sent: queue.Queue[Any] = queue.Queue()
    lines = [watching_pb2.WatchLine(source="a", text="a line"), watching_pb2.WatchLine(source="b", text="another")]
    with ThreadPoolExecutor(2) as pool:
        with running_server([(bundle, slow)], ServerSettings(grace_seconds=60)) as server:
            channel = grpc.insecure_channel(server.address)
            sent.put(watching_pb2.WatchRequest(start=watching_pb2.WatchStart(name="web")))
            sent.put(watching_pb2.WatchRequest(lines=watching_pb2.WatchLines(lines=lines)))
            answers = watching_pb2_grpc.WatchingServiceStub(channel).Watch(iter(sent.get, None))
            running = begin(pool, slow, lambda: next(answers))
            assert slow.gate is not None
            gate = slow.gate
            opened = pool.submit(lambda: (eventually(server.engine.draining.is_set), gate.set()))
        opened.result()
        assert len(running.result().verdicts) == 2
        assert refused(lambda: next(answers))[:2] == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        sent.put(None)
        channel.close()


def scoring(channel: grpc.Channel, sent: queue.Queue[Any]) -> Any:
    sent.put(reading_pb2.ScoreManyRequest(start=reading_pb2.ScoreManyStart()))
    sent.put(reading_pb2.ScoreManyRequest(texts=reading_pb2.ScoreManyTexts(texts=["one"])))
    return reading_pb2_grpc.ReadingServiceStub(channel).ScoreMany(iter(sent.get, None))


def labelling(channel: grpc.Channel, sent: queue.Queue[Any]) -> Any:
    sent.put(classification_pb2.ClassifyManyRequest(start=classification_pb2.ClassifyManyStart()))
    sent.put(classification_pb2.ClassifyManyRequest(texts=classification_pb2.ClassifyManyTexts(texts=["one"])))
    return classification_pb2_grpc.ClassificationServiceStub(channel).ClassifyMany(iter(sent.get, None))


def labelling_one(channel: grpc.Channel, sent: queue.Queue[Any]) -> Any:
    sent.put(classification_pb2.ClassifyStreamRequest(start=classification_pb2.ClassifyStart()))
    sent.put(classification_pb2.ClassifyStreamRequest(text="one"))
    return classification_pb2_grpc.ClassificationServiceStub(channel).ClassifyStream(iter(sent.get, None))


@pytest.mark.parametrize("open_call", [scoring, labelling, labelling_one])
def test_a_call_whose_client_sends_nothing_more_is_told_to_go_elsewhere(
    bundle: Bundle, decoder: Decoder, tmp_path: Path, open_call: Callable[[grpc.Channel, queue.Queue[Any]], Any]
) -> None:
    classifier = classifier_bundle(tmp_path, decoders=[DecoderKind.ONNX_INT8])
    models = [(bundle, decoder), (classifier, open_decoder(classifier))]
    sent: queue.Queue[Any] = queue.Queue()
    with ThreadPoolExecutor(1) as pool:
        with running_server(models, ServerSettings(grace_seconds=60)) as server:
            channel = grpc.insecure_channel(server.address)
            answers = open_call(channel, sent)
            next(answers)
            refusal = pool.submit(refused, lambda: list(answers))
        assert refusal.result()[:2] == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        sent.put(None)
        channel.close()
