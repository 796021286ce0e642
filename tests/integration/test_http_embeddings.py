"""POST /v1/embeddings: what the top layer holds after a text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import numpy as np
import openai
import pytest

from charloom.bundle import Bundle
from charloom.client import Client
from charloom.server.app import Server
from tests.integration.http_client import client, refused

TEXTS = ["The def statement", "The def statements", "class"]


@pytest.fixture(scope="module")
def plain(http_server: Server) -> Iterator[httpx.Client]:
    with client(http_server) as plain:
        yield plain


def test_they_are_the_output_of_the_top_layer_after_the_last_token(
    http_server: Server, plain: httpx.Client, bundle: Bundle
) -> None:
    """As the inspector shows it."""
    answer = plain.post("/v1/embeddings", json={"input": TEXTS, "model": "small"}).json()
    assert [entry["index"] for entry in answer["data"]] == [0, 1, 2]
    assert answer["usage"] == {"prompt_tokens": sum(map(len, TEXTS)), "total_tokens": sum(map(len, TEXTS))}
    with Client(http_server.address) as grpc_client:
        for text, entry in zip(TEXTS, answer["data"], strict=True):
            layers = grpc_client.inspect(text).layers
            hidden = np.asarray(layers[max(layers)].hidden)[-1]
            assert np.linalg.norm(entry["embedding"]) == pytest.approx(1, abs=1e-6)
            assert entry["embedding"] == pytest.approx(list(hidden / np.linalg.norm(hidden)), abs=1e-4)


def test_the_openai_package_reads_them_in_both_forms(http_server: Server) -> None:
    with openai.OpenAI(base_url=f"http://{http_server.http_address}/v1", api_key="none", max_retries=0) as api:
        packed = api.embeddings.create(model="small", input=TEXTS[0])  # it asks for base64 unless it is told otherwise
        numbers = api.embeddings.create(model="small", input=TEXTS[0], encoding_format="float")
    assert packed.data[0].embedding == pytest.approx(numbers.data[0].embedding, abs=1e-7)
    assert packed.usage.prompt_tokens == len(TEXTS[0])


def test_tokens_are_texts_too(plain: httpx.Client, bundle: Bundle) -> None:
    ids = bundle.vocabulary.encode(TEXTS[0]).tolist()
    assert plain.post("/v1/embeddings", json={"input": ids}).json() == (
        plain.post("/v1/embeddings", json={"input": TEXTS[0]}).json()
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input[0]"),
        ({"input": ["a", "\u2603"]}, "input[1]"),
        ({"input": [[1], [10**6]]}, "input[1]"),
        ({"input": ["a"] * 65}, "input"),
        ({"input": "a", "dimensions": 3}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_a_wrong_field_is_named(plain: httpx.Client, body: dict[str, Any], param: str) -> None:
    assert refused(plain.post("/v1/embeddings", json=body))[:3] == (400, "invalid_request", param)
