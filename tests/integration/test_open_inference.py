"""The Open Inference Protocol, by the stock client of Triton, which is in this process before our own messages are."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton  # type: ignore[import-untyped]
import tritonclient.grpc.aio as triton_aio  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from charloom import inference
from charloom.bundle import Bundle
from charloom.client import Client
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server
from charloom.server.identity.key_file import KeyFileEditor, made, utc_now
from charloom.server.identity.scopes import Scope
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.integration.model_versions import Folder
from tests.integration.open_inference import REFUSED, Change, text_of, with_parameter
from tests.integration.open_inference import texts as texts_by
from tests.waiting import eventually


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(server.address) as client:
        yield client


@pytest.fixture
def charloom(server: Server) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def texts(*values: str) -> list[Any]:
    return texts_by(triton, *values)


def infer(client: Any, model: str, text: str, parameters: dict[str, Any] | None = None, **more: Any) -> Any:
    return client.infer(model, texts(text), parameters={"max_tokens": 12, "seed": 7, **(parameters or {})}, **more)


class Stream:
    """A stream of the blocking client, and what it brings."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._found: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(lambda result, error: self._found.put((result, error)))

    def ask(self, model: str, text: str, request_id: str, parameters: dict[str, Any], **more: Any) -> None:
        self._client.async_stream_infer(model, texts(text), request_id=request_id, parameters=parameters, **more)

    def next(self) -> tuple[Any, Any]:
        return self._found.get(timeout=60)

    def answers(self, count: int) -> dict[str, list[Any]]:
        """All responses to so many requests, by request id."""
        found: dict[str, list[Any]] = {}
        while count:
            result, error = self.next()
            assert error is None, error
            response = result.get_response()
            found.setdefault(response.id, []).append(result)
            count -= response.parameters["triton_final_response"].bool_param
        return found


@pytest.fixture
def stream(client: Any) -> Iterator[Stream]:
    yield Stream(client)
    client.stop_stream(cancel_requests=True)


def test_the_server_and_its_models_describe_themselves(client: Any, bundle: Bundle) -> None:
    name = bundle.manifest.name
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(name)
    assert not client.is_model_ready("another")
    assert not client.is_model_ready(name, "1")
    server = client.get_server_metadata()
    assert server.name == "charloom"
    assert "sequence(string_id)" in server.extensions
    model = client.get_model_metadata(name)
    assert list(model.versions) == [bundle.manifest.digest[:12]]
    assert [(one.name, one.datatype, list(one.shape)) for one in model.inputs] == [("text_input", "BYTES", [1])]
    assert [one.name for one in model.outputs] == ["text_output", "finish_reason", "position"]
    assert client.is_model_ready(name, model.versions[0])
    (listed,) = client.get_model_repository_index().models
    assert (listed.name, listed.version, listed.state) == (name, model.versions[0], "READY")


def test_the_whole_text_is_that_of_the_sdk(client: Any, charloom: Client, bundle: Bundle) -> None:
    result = infer(client, bundle.manifest.name, "the ", request_id="one")
    expected = charloom.complete("the ", max_tokens=12, seed=7)
    assert text_of(result) == expected.text
    assert result.as_numpy("finish_reason")[0] == b"length"
    assert result.as_numpy("position")[0] == 16
    assert result.get_response().id == "one"


def test_parameters_come_as_any_of_their_types(client: Any, charloom: Client, bundle: Bundle) -> None:
    expected = charloom.complete("the ", max_tokens=12, seed=7, temperature=0.5, top_k=3, stop=["e", "zz"]).text
    given = {"temperature": "0.5", "top_k": 3.0, "max_tokens": "12", "stop": '["e", "zz"]'}
    assert text_of(infer(client, bundle.manifest.name, "the ", given)) == expected
    cold = charloom.complete("the ", max_tokens=12, seed=7, temperature=0).text
    assert text_of(infer(client, bundle.manifest.name, "the ", {"temperature": 0})) == cold


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"regex": "[a-z]{3} [a-z]+"}, {"regex": "[a-z]{3} [a-z]+"}),
        ({"choices": '["state", "zebra"]'}, {"choices": ["state", "zebra"]}),
        ({"json_schema": '{"type": "integer", "minimum": 0}'}, {"json_schema": {"type": "integer", "minimum": 0}}),
    ],
)
def test_a_text_matches_what_a_parameter_says(
    client: Any, charloom: Client, bundle: Bundle, given: dict[str, str], options: dict[str, Any]
) -> None:
    result = infer(client, bundle.manifest.name, "the ", given)
    expected = charloom.complete("the ", max_tokens=12, seed=7, **options)
    assert text_of(result) == expected.text
    assert result.as_numpy("finish_reason")[0].decode() == expected.result.finish_reason.value


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"regex": "a", "choices": "b"}, "already what the text is to match"),
        ({"regex": "(?=a)"}, r"parameters\['regex'\].*look-ahead"),
        ({"regex": 5}, "is not a text"),
    ],
)
def test_a_constraint_that_cannot_be_kept_is_told(
    client: Any, bundle: Bundle, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message):
        infer(client, bundle.manifest.name, "the ", given)


def test_only_the_outputs_that_are_wanted_are_told(client: Any, bundle: Bundle) -> None:
    result = infer(client, bundle.manifest.name, "", outputs=[triton.InferRequestedOutput("position")])
    assert [output.name for output in result.get_response().outputs] == ["position"]


@pytest.mark.parametrize("identity", [5, "somebody"], ids=["number", "name"])
def test_a_sequence_is_a_session_from_its_start_to_its_end(
    client: Any, charloom: Client, bundle: Bundle, identity: int | str
) -> None:
    model = bundle.manifest.name
    whole = charloom.complete("the ", max_tokens=24, seed=7, temperature=0).text
    cold = {"temperature": 0}
    first = infer(client, model, "the ", cold, sequence_id=identity, sequence_start=True)
    assert f"sequence-{identity}" in {session.id for session in charloom.sessions()}
    second = infer(client, model, "", cold, sequence_id=identity, sequence_end=True)
    assert text_of(first) + text_of(second) == whole
    assert f"sequence-{identity}" not in {session.id for session in charloom.sessions()}
    with pytest.raises(InferenceServerException, match="START flag"):
        infer(client, model, "", cold, sequence_id=identity)


def test_a_start_in_the_middle_begins_anew(client: Any, bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    """And says nothing in the log of its own accord, which a client could fill with it."""
    caplog.set_level("INFO")
    texts_of = [
        text_of(infer(client, bundle.manifest.name, "the ", sequence_id=9, sequence_start=True)) for _ in range(2)
    ]
    assert texts_of[0] == texts_of[1]
    assert "started again" not in caplog.text


@pytest.mark.parametrize(
    ("text", "given"), [("\u2603", {}), ("the ", {"regex": "("}), ("the ", {"temperature": -1})], ids=repr
)
def test_a_start_that_is_refused_begins_nothing_and_ends_no_sequence(
    client: Any, charloom: Client, bundle: Bundle, text: str, given: dict[str, Any]
) -> None:
    model = bundle.manifest.name
    before = infer(client, model, "the ", sequence_id=21, sequence_start=True).as_numpy("position")[0]
    for identity in (21, 22):
        with pytest.raises(InferenceServerException):
            infer(client, model, text, given, sequence_id=identity, sequence_start=True)
    assert "sequence-22" not in {session.id for session in charloom.sessions()}
    after = infer(client, model, "", sequence_id=21, sequence_end=True).as_numpy("position")[0]
    assert after == before + 12


def test_a_sequence_keeps_its_version_when_its_model_is_replaced(
    folder: Folder, started: Callable[..., tuple[Server, Client]]
) -> None:
    server, _ = started()
    with triton.InferenceServerClient(server.address) as client:

        def version() -> str:
            return str(client.get_model_metadata("small").versions[0])

        old = version()
        infer(client, "small", "the ", sequence_id=1, sequence_start=True, model_version=old)
        folder.add("2")
        eventually(lambda: version() != old)
        for asked in (old, ""):
            answer = infer(client, "small", "", sequence_id=1, model_version=asked).get_response()
            assert answer.model_version == old
        with pytest.raises(InferenceServerException, match=f"goes on in version '{old}', not '{version()}'"):
            infer(client, "small", "", sequence_id=1, model_version=version())
        with pytest.raises(InferenceServerException, match=f"is here in version '{version()}', not '{old}'"):
            infer(client, "small", "", sequence_id=1, sequence_start=True, model_version=old)
        last = infer(client, "small", "", sequence_id=1, sequence_end=True, model_version=old)
        assert last.as_numpy("position")[0] == 4 + 4 * 12


def test_a_stream_brings_the_text_in_pieces_and_says_which_is_the_last(
    stream: Stream, charloom: Client, bundle: Bundle
) -> None:
    stream.ask(bundle.manifest.name, "the ", "long", {"max_tokens": 3000, "seed": 7})
    (results,) = stream.answers(1).values()
    assert "".join(map(text_of, results)) == charloom.complete("the ", max_tokens=3000, seed=7).text
    assert len(results) > 1
    finals = [result.get_response().parameters["triton_final_response"].bool_param for result in results]
    assert finals == [False] * (len(results) - 1) + [True]
    assert results[-1].as_numpy("finish_reason")[0] == b"length"
    assert [int(result.as_numpy("position")[0]) for result in results][-1] == 3004


def test_a_stream_can_have_the_whole_text_at_once(stream: Stream, bundle: Bundle) -> None:
    stream.ask(bundle.manifest.name, "the ", "whole", {"max_tokens": 3000, "stream": False})
    (results,) = stream.answers(1).values()
    assert len(results) == 1
    assert len(text_of(results[0])) == 3000


def test_a_short_request_does_not_wait_for_a_long_one(stream: Stream, bundle: Bundle) -> None:
    stream.ask(bundle.manifest.name, "", "long", {"max_tokens": 60_000})
    assert stream.next()[0].get_response().id == "long"
    stream.ask(bundle.manifest.name, "", "short", {"max_tokens": 1})
    seen: list[Any] = []
    while not seen or seen[-1].id != "short":
        result, error = stream.next()
        assert error is None
        seen.append(result.get_response())
    assert not any(one.parameters["triton_final_response"].bool_param for one in seen if one.id == "long")


def test_sequences_interleave_on_one_stream_and_each_keeps_its_order(
    stream: Stream, charloom: Client, bundle: Bundle
) -> None:
    model, count = bundle.manifest.name, 4
    for part in range(3):
        for number in range(1, count + 1):
            stream.ask(
                model,
                f"{'abcd'[number - 1]} " if part == 0 else "",
                f"{number}",
                {"max_tokens": 20, "temperature": 0},
                sequence_id=100 + number,
                sequence_start=part == 0,
                sequence_end=part == 2,
            )
    found = stream.answers(3 * count)
    for number in range(1, count + 1):
        expected = charloom.complete(f"{'abcd'[number - 1]} ", max_tokens=60, temperature=0).text
        assert "".join(map(text_of, found[f"{number}"])) == expected


def test_an_error_names_its_request_and_the_stream_goes_on(stream: Stream, bundle: Bundle) -> None:
    stream.ask("another", "", "bad", {})
    result, error = stream.next()
    assert result is None
    assert "no model 'another'" in str(error)
    stream.ask(bundle.manifest.name, "", "good", {"max_tokens": 1})
    assert list(stream.answers(1)) == ["good"]


def test_each_request_of_a_stream_counts_as_a_call(bundle: Bundle, decoder: Decoder) -> None:
    settings, model = ServerSettings(grace_seconds=0, tenant_calls=2), bundle.manifest.name
    with (
        running_server([(bundle, decoder)], settings) as server,
        triton.InferenceServerClient(server.address) as client,
    ):
        stream = Stream(client)
        stream.ask(model, "", "long", {"max_tokens": 60_000})
        assert stream.next()[0].get_response().id == "long"
        stream.ask(model, "", "one too many", {"max_tokens": 1})
        error = None
        while error is None:
            _, error = stream.next()
        assert "your limit of calls is 2" in str(error)
        calls = server.engine.totals.methods["inference.GRPCInferenceService/ModelInfer"]
        eventually(lambda: calls.ended == {("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"): 1})
        assert calls.running == 1
        client.stop_stream(cancel_requests=True)
        eventually(lambda: calls.running == 0)


def test_a_client_that_goes_away_stops_what_it_asked_for(server: Server, bundle: Bundle) -> None:
    def live() -> int:
        return sum(model.loom.live for model in server.engine.models)

    with triton.InferenceServerClient(server.address) as client:
        stream = Stream(client)
        for number in range(3):
            stream.ask(bundle.manifest.name, "", str(number), {"max_tokens": 60_000})
        stream.next()
        client.stop_stream(cancel_requests=True)
    eventually(lambda: live() == 0)


async def test_the_asyncio_client_streams(server: Server, charloom: Client, bundle: Bundle) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for part in range(2):
            yield {
                "model_name": bundle.manifest.name,
                "inputs": texts("the " if part == 0 else ""),
                "parameters": {"max_tokens": 20, "temperature": 0},
                "sequence_id": "aio",
                "sequence_start": part == 0,
                "sequence_end": part == 1,
            }

    async with triton_aio.InferenceServerClient(server.address) as client:
        assert await client.is_server_ready()
        found = ""
        async for result, error in client.stream_infer(requests()):
            assert error is None
            found += text_of(result)
    assert found == charloom.complete("the ", max_tokens=40, temperature=0).text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *REFUSED,
        (lambda asked, triton: asked.update(model_name=""), "model_name: it is empty"),
        (with_parameter(temperature=float("nan")), "not a number"),
    ],
)
def test_what_cannot_be_accepted_is_told(client: Any, bundle: Bundle, change: Change, message: str) -> None:
    asked: dict[str, Any] = {"model_name": bundle.manifest.name, "inputs": texts("the "), "parameters": {}}
    change(asked, triton)
    with pytest.raises(InferenceServerException) as problem:
        client.infer(**asked)
    assert message in str(problem.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\x04\0\0", "cut off"),
        (b"\xff\xff\xff\xff", "cut off"),
        (b"\x01\0\0\0a\x01\0\0\0b", "has more than the 1"),
        (b"\x01\0\0\0\xff", "not UTF-8"),
    ],
)
def test_raw_content_that_is_no_text_is_told(server: Server, bundle: Bundle, raw: bytes, message: str) -> None:
    request = inference.ModelInferRequest(model_name=bundle.manifest.name, raw_input_contents=[raw])
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as problem:
            call(request.SerializeToString(), timeout=60)
    assert message in problem.value.details()  # type: ignore[attr-defined]


def test_typed_contents_are_answered_with_typed_contents(server: Server, bundle: Bundle) -> None:
    request = inference.ModelInferRequest(model_name=bundle.manifest.name)
    tensor = request.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1])
    tensor.contents.bytes_contents.append(b"the ")
    request.parameters["max_tokens"].int64_param = 5
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer = inference.ModelInferResponse.FromString(call(request.SerializeToString(), timeout=60))
    assert len(answer.outputs[0].contents.bytes_contents[0]) == 5
    assert list(answer.outputs[2].contents.int64_contents) == [9]
    assert not answer.raw_output_contents


def test_a_sequence_belongs_to_the_tenant_of_its_key(bundle: Bundle, decoder: Decoder, tmp_path: Any) -> None:
    file, keys = tmp_path / "keys.json", []
    for tenant in ("one", "two"):
        text, key = made(tenant, tuple(Scope), utc_now(), None)
        keys.append({"authorization": f"Bearer {text}"})
        with KeyFileEditor(file).editing(create=True) as editing:
            editing.content = editing.content.model_copy(update={"keys": (*editing.content.keys, key)})
    settings = ServerSettings(grace_seconds=0, keys=file)
    with (
        running_server([(bundle, decoder)], settings) as server,
        triton.InferenceServerClient(server.address) as client,
    ):
        model = bundle.manifest.name
        with pytest.raises(InferenceServerException):
            client.is_server_ready()
        infer(client, model, "the ", sequence_id=1, sequence_start=True, headers=keys[0])
        with pytest.raises(InferenceServerException, match="START flag"):
            infer(client, model, "", sequence_id=1, headers=keys[1])
        infer(client, model, "", sequence_id=1, headers=keys[0])


def test_many_sequences_at_once(server: Server, charloom: Client, bundle: Bundle) -> None:
    model = bundle.manifest.name
    expected = charloom.complete("the ", max_tokens=30, temperature=0).text

    def one(number: int) -> str:
        with triton.InferenceServerClient(server.address) as client:
            parameters = {"max_tokens": 10, "temperature": 0}
            return "".join(
                text_of(
                    client.infer(
                        model,
                        texts("the " if part == 0 else ""),
                        parameters=parameters,
                        sequence_id=1000 + number,
                        sequence_start=part == 0,
                        sequence_end=part == 2,
                    )
                )
                for part in range(3)
            )

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, range(16))) == {expected}
