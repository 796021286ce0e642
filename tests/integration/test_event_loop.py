"""What one client asks for does not keep the server from others: nothing of a request's size is done in one go."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.limits import MOST_BIASES, MOST_CHARACTERS
from charloom.server.app import Server, open_server
from charloom.server.settings import ServerSettings
from charloom.v1 import generation_pb2, models_pb2, reading_pb2
from tests.integration.conftest import refused

LONGEST = 0.5
"""Seconds that the event loop may be away, but for those in which its thread waits for a processor that others have, or
this process does nothing; without parts it was away for two and more."""
SCHEDULING = Path("/proc/thread-self/schedstat")
"""Linux: nanoseconds that this thread has run, and has waited for a processor."""
LARGE = [("grpc.max_receive_message_length", 2**26), ("grpc.max_send_message_length", 2**26)]
TOKENS, TOP = 65_536, 20


class Heartbeat:
    """A task that notes the longest time between two of its turns on the event loop."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = self._now()
        self._task = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(0.005)
            self._note()

    def _note(self) -> None:
        before, self._last = self._last, self._now()
        # Neither measure has the seconds in which the machine, or whoever has the interpreter's lock, stood still.
        self.longest = max(self.longest, min(now - then for now, then in zip(self._last, before, strict=True)))

    def _now(self) -> tuple[float, float]:
        """The time, as if nobody else had needed the processors, and what this process has had of them."""
        waited = int(SCHEDULING.read_text().split()[1]) if SCHEDULING.exists() else 0
        return time.monotonic() - waited / 1e9, time.process_time()

    def stop(self) -> float:
        """The longest time, in seconds."""
        self._note()
        self._task.cancel()
        return self.longest


@pytest.fixture(autouse=True, scope="module")
def collected() -> Iterator[None]:
    """What is there already is not for the garbage collector, which holds the event loop: as in `charloom serve`."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
async def server(bundle: Bundle, decoder: Decoder) -> AsyncIterator[Server]:
    """On the event loop of the test."""
    server = await open_server([(bundle, decoder)], ServerSettings(host="127.0.0.1", port=0, grace_seconds=0))
    await server.start()
    await ask(server, "ModelService/ListModels", models_pb2.ListModelsRequest())  # so that gRPC is loaded
    yield server
    await server.stop()


async def ask(server: Server, method: str, request: Message) -> bytes:
    """The bytes of an answer: reading them would hold the interpreter, and with it the event loop of the server."""

    def call() -> bytes:
        with grpc.insecure_channel(server.address, options=LARGE) as channel:
            return channel.unary_unary(f"/charloom.v1.{method}")(request.SerializeToString())

    return await asyncio.to_thread(call)


async def test_one_task_waits_for_the_next_call_of_whatever_method(server: Server) -> None:
    """gRPC has one for each method that is registered by itself, and with each call it waits anew for all of them."""
    names = Counter(getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())
    assert names["AioServer._server_main_loop"] == 1
    assert names["AioServer._request_call"] + names["AioServer._request_registered_call"] <= 1


async def test_a_long_text_is_scored_with_alternatives_while_the_event_loop_turns(server: Server) -> None:
    beat = Heartbeat()
    request = reading_pb2.ScoreRequest(text="the " * (TOKENS // 4), top_logprobs=TOP)
    found = await ask(server, "ReadingService/Score", request)
    assert beat.stop() < LONGEST
    answer = reading_pb2.ScoreResponse.FromString(found)
    assert [len(one.top) for one in answer.logprobs] == [TOP] * TOKENS
    assert answer.nats_per_token == pytest.approx(-sum(one.chosen.logprob for one in answer.logprobs) / TOKENS)


async def test_a_long_completion_with_alternatives_is_made_while_the_event_loop_turns(server: Server) -> None:
    beat = Heartbeat()
    options = generation_pb2.GenerationOptions(max_tokens=TOKENS // 2, logprobs=True, top_logprobs=TOP, n=2)
    found = await ask(server, "GenerationService/Complete", generation_pb2.CompleteRequest(options=options))
    assert beat.stop() < LONGEST
    answer = generation_pb2.CompleteResponse.FromString(found)
    assert len(answer.completions) == 2
    for one in answer.completions:
        assert "".join(token.chosen.symbol.decode() for token in one.logprobs) == one.text
        assert len(one.text) == one.result.usage.completion_tokens == TOKENS // 2


async def test_a_slow_reader_gets_a_large_piece_with_alternatives_while_the_event_loop_turns(server: Server) -> None:
    options = generation_pb2.GenerationOptions(max_tokens=TOKENS // 2, logprobs=True, top_logprobs=TOP)
    request = generation_pb2.GenerateRequest(options=options).SerializeToString()
    async with grpc.aio.insecure_channel(server.address, options=LARGE) as channel:
        beat = Heartbeat()
        call = channel.unary_stream("/charloom.v1.GenerationService/Generate")(request)
        pieces = []
        async for piece in call:
            pieces.append(piece)
            if len(pieces) < 5:
                await asyncio.sleep(0.2)
        assert beat.stop() < LONGEST
    answers = [generation_pb2.GenerateResponse.FromString(piece) for piece in pieces]
    assert sum(len(answer.logprobs) for answer in answers) == TOKENS // 2
    assert [answer.HasField("result") for answer in answers] == [False] * (len(answers) - 1) + [True]


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        ({"logit_bias": [generation_pb2.LogitBias(characters="a", bias=1)] * 100_000}, "logit_bias"),
        ({"logit_bias": [generation_pb2.LogitBias(characters="a", bias=1)] * (MOST_BIASES + 1)}, "logit_bias"),
        ({"logit_bias": [generation_pb2.LogitBias(characters="a" * 1000, bias=1)] * 66}, "logit_bias"),
        ({"allowed_characters": "a" * (MOST_CHARACTERS + 1)}, "allowed_characters"),
        ({"forbidden_characters": "a" * (MOST_CHARACTERS + 1)}, "forbidden_characters"),
    ],
)
async def test_sampling_parameters_without_end_are_refused_at_once(
    server: Server, sampling: dict[str, object], field: str
) -> None:
    options = generation_pb2.GenerationOptions(sampling=generation_pb2.Sampling(**sampling))  # type: ignore[arg-type]
    beat = Heartbeat()
    with pytest.raises(grpc.RpcError) as failed:
        await ask(server, "GenerationService/Complete", generation_pb2.CompleteRequest(options=options))
    assert beat.stop() < LONGEST
    code, _, violations, _ = refused(lambda: _raise(failed.value))
    assert (code, set(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, {f"sampling.{field}"})


async def test_as_many_biases_as_are_allowed_are_added(server: Server) -> None:
    biases = [generation_pb2.LogitBias(characters="e", bias=0.09)] * MOST_BIASES
    sampling = generation_pb2.Sampling(logit_bias=biases)
    request = generation_pb2.CompleteRequest(options=generation_pb2.GenerationOptions(sampling=sampling, max_tokens=8))
    beat = Heartbeat()
    found = await ask(server, "GenerationService/Complete", request)
    assert beat.stop() < LONGEST
    assert generation_pb2.CompleteResponse.FromString(found).completions[0].text == "e" * 8


@pytest.mark.parametrize("field", ["logit_bias", "stop"])
async def test_a_request_of_many_empty_entries_is_not_even_read(server: Server, field: str) -> None:
    """Each takes two bytes on the wire and tens of them in memory."""
    sampling = field == "logit_bias"
    number = {"logit_bias": 8, "stop": 10}[field]
    entries = bytes([number << 3 | 2, 0]) * 2**24
    if sampling:
        entries = b"\x32" + _varint(len(entries)) + entries
    request = b"\x0a" + _varint(len(entries)) + entries

    def call() -> None:
        with grpc.insecure_channel(server.address, options=LARGE) as channel:
            channel.unary_unary("/charloom.v1.GenerationService/Complete")(request)

    beat = Heartbeat()
    with pytest.raises(grpc.RpcError) as failed:
        await asyncio.to_thread(call)
    assert beat.stop() < LONGEST
    code, _, violations, _ = refused(lambda: _raise(failed.value))
    assert (code, set(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, {"request"})


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def _raise(problem: Exception) -> None:
    raise problem
