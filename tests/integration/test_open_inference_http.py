"""The Open Inference Protocol over HTTP, by the stock client of Triton, and by hand where that client does no wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]
import tritonclient.http.aio as triton_aio  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from charloom.bundle import Bundle
from charloom.client import Client
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.integration.http_client import client as http_client
from tests.integration.open_inference import REFUSED, Change, text_of, texts, with_parameter

LENGTH = "inference-header-content-length"


@pytest.fixture
def client(http_server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(http_server.http_address) as client:
        yield client


@pytest.fixture
def charloom(http_server: Server) -> Iterator[Client]:
    with Client(http_server.address) as client:
        yield client


@pytest.fixture(scope="module")
def plain(http_server: Server) -> Iterator[httpx.Client]:
    with http_client(http_server) as plain:
        yield plain


@pytest.fixture
def path(bundle: Bundle) -> str:
    return f"/v2/models/{bundle.manifest.name}/infer"


def infer(client: Any, model: str, text: str, parameters: dict[str, Any] | None = None, **more: Any) -> Any:
    return client.infer(
        model, texts(triton, text), parameters={"max_tokens": 12, "seed": 7, **(parameters or {})}, **more
    )


def asked(text: Any = "the ", **tensor: Any) -> dict[str, Any]:
    """A request in JSON."""
    one = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [text], **tensor}
    return {"inputs": [one], "parameters": {"max_tokens": 5, "seed": 7}}


def test_the_server_and_its_models_describe_themselves(client: Any, bundle: Bundle) -> None:
    name, version = bundle.manifest.name, bundle.manifest.digest[:12]
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(name)
    assert client.is_model_ready(name, version)
    assert not client.is_model_ready("another")
    assert not client.is_model_ready(name, "1")
    server = client.get_server_metadata()
    assert server["name"] == "charloom"
    assert {"sequence(string_id)", "binary_tensor_data"} <= set(server["extensions"])
    model = client.get_model_metadata(name, version)
    assert model == client.get_model_metadata(name)
    assert model["versions"] == [version]
    assert model["inputs"] == [{"name": "text_input", "datatype": "BYTES", "shape": [1]}]
    assert [one["name"] for one in model["outputs"]] == ["text_output", "finish_reason", "position"]
    assert client.get_model_repository_index() == [{"name": name, "version": version, "state": "READY", "reason": ""}]


def test_a_server_that_stops_is_live_and_not_ready(bundle: Bundle, decoder: Decoder) -> None:
    with (
        running_server([(bundle, decoder)], ServerSettings(grace_seconds=0, http_port=0)) as server,
        triton.InferenceServerClient(server.http_address) as client,
    ):
        server.engine.draining.set()
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready(bundle.manifest.name)


@pytest.mark.parametrize("binary_input", [True, False], ids=["bytes", "json"])
@pytest.mark.parametrize("binary_output", [True, False, None], ids=["as bytes", "as json", "as all"])
def test_the_whole_text_is_that_of_the_sdk(
    client: Any, charloom: Client, bundle: Bundle, binary_input: bool, binary_output: bool | None
) -> None:
    outputs = None
    if binary_output is not None:
        names = ("position", "text_output", "finish_reason")
        outputs = [triton.InferRequestedOutput(name, binary_data=binary_output) for name in names]
    result = client.infer(
        bundle.manifest.name,
        texts(triton, "the ", binary_data=binary_input),
        outputs=outputs,
        request_id="one",
        parameters={"max_tokens": "12", "seed": 7.0},
    )
    assert text_of(result) == charloom.complete("the ", max_tokens=12, seed=7).text
    assert result.as_numpy("finish_reason")[0] in (b"length", "length")
    assert result.as_numpy("position")[0] == 16
    response = result.get_response()
    assert (response["id"], response["model_version"]) == ("one", bundle.manifest.digest[:12])
    assert ["data" in output for output in response["outputs"]] == [binary_output is False] * 3


def test_outputs_may_differ_in_their_form(client: Any, bundle: Bundle) -> None:
    outputs = [
        triton.InferRequestedOutput("position", binary_data=False),
        triton.InferRequestedOutput("text_output", binary_data=True),
    ]
    result = infer(client, bundle.manifest.name, "the ", outputs=outputs)
    assert result.get_output("position")["data"] == [16]
    assert result.get_output("text_output")["parameters"] == {"binary_data_size": 4 + 12}
    assert len(text_of(result)) == 12
    assert result.get_output("finish_reason") is None


@pytest.mark.parametrize("identity", [5, "somebody"], ids=["number", "name"])
def test_a_sequence_is_a_session_from_its_start_to_its_end(
    client: Any, charloom: Client, bundle: Bundle, identity: int | str
) -> None:
    model, cold = bundle.manifest.name, {"temperature": 0}
    whole = charloom.complete("the ", max_tokens=24, seed=7, temperature=0).text
    first = infer(client, model, "the ", cold, sequence_id=identity, sequence_start=True)
    assert first.get_response()["parameters"] == {"sequence_id": identity}
    assert f"sequence-{identity}" in {session.id for session in charloom.sessions()}
    second = infer(client, model, "", cold, sequence_id=identity, sequence_end=True)
    assert text_of(first) + text_of(second) == whole
    assert f"sequence-{identity}" not in {session.id for session in charloom.sessions()}


async def test_the_asyncio_client_carries_a_sequence(http_server: Server, charloom: Client, bundle: Bundle) -> None:
    found = ""
    async with triton_aio.InferenceServerClient(http_server.http_address) as client:
        assert await client.is_server_ready()
        assert [one["name"] for one in await client.get_model_repository_index()] == [bundle.manifest.name]
        for part in range(2):
            result = await client.infer(
                bundle.manifest.name,
                texts(triton_aio, "the " if part == 0 else ""),
                parameters={"max_tokens": 20, "temperature": 0},
                sequence_id="aio",
                sequence_start=part == 0,
                sequence_end=part == 1,
            )
            found += text_of(result)
    assert found == charloom.complete("the ", max_tokens=40, temperature=0).text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *REFUSED,
        (lambda asked, triton: asked.update(model_name=""), "there is nothing at this path"),
        (with_parameter(temperature=float("nan")), "NaN is no number of JSON"),
        (lambda asked, triton: asked.update(request_compression_algorithm="gzip"), "the body is compressed ('gzip')"),
    ],
)
def test_what_cannot_be_accepted_is_told(client: Any, bundle: Bundle, change: Change, message: str) -> None:
    asked: dict[str, Any] = {"model_name": bundle.manifest.name, "inputs": texts(triton, "the "), "parameters": {}}
    change(asked, triton)
    with pytest.raises(InferenceServerException) as problem:
        client.infer(**asked)
    assert message in str(problem.value)
    assert problem.value.status() in ("400", "404", "415")


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        (asked(), [1]),
        (asked(shape=[1, 1]), [1, 1]),
        (asked(["the "], shape=[1, 1]), [1, 1]),
    ],
    ids=["a list", "flat", "nested"],
)
def test_json_is_answered_with_json_whatever_its_content_type(
    plain: httpx.Client, charloom: Client, path: str, body: dict[str, Any], shape: list[int]
) -> None:
    for kind in ("application/json", "text/plain", ""):
        answer = plain.post(path, content=json.dumps(body), headers={"content-type": kind})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert LENGTH not in answer.headers
        text, finish, position = answer.json()["outputs"]
        expected = charloom.complete("the ", max_tokens=5, seed=7).text
        assert text == {"name": "text_output", "datatype": "BYTES", "shape": [1], "data": [expected]}
        assert finish["data"] == ["length"]
        assert position == {"name": "position", "datatype": "INT64", "shape": [1], "data": [9]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "inputs: Field required"),
        ({"inputs": 5}, "inputs: "),
        ({"inputs": [asked()["inputs"][0]] * 9}, "inputs: "),
        ({"inputs": [{}]}, "inputs[0].name: Field required"),
        (asked(shape=[-1]), "inputs[0].shape[0]: "),
        (asked(shape=[1] * 9), "inputs[0].shape: "),
        (asked(shape=[2]), "the shape [2] and 1 values"),
        (asked(data=None), "the shape [1] and 0 values"),
        (asked(data=["a", "b"]), "2 values"),
        (asked(data="the "), "inputs[0].data: "),
        (asked(5), "its data are no strings"),
        (asked([["the "]]), "its data are no strings"),
        (asked(datatype="FP32", data=[1.0]), "it is of 'FP32'; text is BYTES"),
        (asked(parameters={"binary_data_size": 0}), "it has data, and binary_data_size too"),
        (asked(parameters={"binary_data_size": -1}), "inputs[0].parameters.binary_data_size: "),
        ({**asked(), "parameters": {"max_tokens": None}}, "parameters.max_tokens: it is neither"),
        ({**asked(), "parameters": {"max_tokens": [5]}}, "parameters.max_tokens: it is neither"),
        ({**asked(), "parameters": {f"p{number}": 1 for number in range(65)}}, "parameters: "),
        ({**asked(), "parameters": {"binary_data_output": "yes"}}, "'yes' is not true or false"),
        ({**asked(), "parameters": {"seed": 1e30}}, "seed"),
        ({**asked(), "outputs": [{"name": "position", "parameters": {"binary_data": 1}}]}, "binary_data: "),
    ],
)
def test_json_that_is_no_request_is_told(plain: httpx.Client, path: str, body: Any, message: str) -> None:
    answer = plain.post(path, json=body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]
    assert answer.headers["x-request-id"]


ONE = b"\x04\0\0\0the "


@pytest.mark.parametrize(
    ("size", "octets", "message"),
    [
        (8, ONE[:-1], "7 bytes follow the JSON, and binary_data_size says 8"),
        (8, b"", "0 bytes follow the JSON, and binary_data_size says 8"),
        (8, ONE + b"!", "9 bytes follow the JSON, and binary_data_size says 8"),
        (None, ONE, "8 bytes follow the JSON, and binary_data_size says 0"),
        (3, ONE[:3], "cut off"),
        (7, ONE[:7], "cut off"),
        (4, b"\xff\xff\xff\xff", "cut off"),
        (16, ONE + ONE, "has more than the 1"),
        (5, b"\x01\0\0\0\xff", "not UTF-8"),
        (0, b"", "0 values"),
    ],
)
def test_bytes_that_are_no_text_are_told(
    plain: httpx.Client, path: str, size: int | None, octets: bytes, message: str
) -> None:
    head = json.dumps(asked(data=None, parameters={"binary_data_size": size})).encode()
    answer = plain.post(path, content=head + octets, headers={LENGTH: str(len(head))})
    assert answer.status_code == 400
    assert message in answer.json()["error"]


@pytest.mark.parametrize("length", ["100000", "-1", "1e2", "", "9" * 5000, "\u00b2".encode().decode("latin-1")])
def test_a_length_beyond_the_body_is_told(plain: httpx.Client, path: str, length: str) -> None:
    headers = [(b"content-type", b"application/json"), (LENGTH.encode(), length.encode("latin-1"))]
    answer = plain.post(path, content=json.dumps(asked()), headers=headers)
    assert answer.status_code == 400
    assert "is no length of a part of the body" in answer.json()["error"]


def test_a_length_within_the_json_is_told(plain: httpx.Client, path: str) -> None:
    answer = plain.post(path, content=json.dumps(asked()), headers={LENGTH: "20"})
    assert answer.status_code == 400
    assert "the body is not JSON" in answer.json()["error"]


def test_fields_that_mean_nothing_are_named(plain: httpx.Client, path: str) -> None:
    answer = plain.post(path, json={**asked(parameters={"shared_memory_region": "r"}), "more": 1})
    assert answer.status_code == 200
    assert "'inputs[0].parameters.shared_memory_region'" in answer.headers["charloom-warning"]
    assert "'more'" in answer.headers["charloom-warning"]


@pytest.mark.parametrize(
    ("method", "target", "host", "status", "message"),
    [
        ("GET", "/v2/logging", "localhost", 404, "there is nothing at this path"),
        ("POST", "/v2", "localhost", 405, "this path answers GET"),
        ("GET", "/v2/models/another", "localhost", 404, "no model 'another'"),
        ("GET", "/v2?page=1", "localhost", 400, "no parameter 'page'"),
        ("GET", "/v2", "evil.example", 421, "the name in Host"),
    ],
)
def test_every_error_under_the_path_is_a_text(
    plain: httpx.Client, method: str, target: str, host: str, status: int, message: str
) -> None:
    answer = plain.request(method, target, headers={"host": host})
    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_the_index_takes_a_body_or_none(plain: httpx.Client, bundle: Bundle) -> None:
    for body in (b"", b"{}", b'{"ready": true}'):
        (one,) = plain.post("/v2/repository/index", content=body).json()
        assert one["name"] == bundle.manifest.name
    assert plain.post("/v2/repository/index", json={"ready": 1}).status_code == 400
