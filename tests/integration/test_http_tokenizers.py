"""The routes that translate between texts and tokens, as lm-evaluation-harness and others call them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2 as httpx
import pytest

from charloom.bundle import Bundle, Vocabulary
from charloom.client import Client
from charloom.server.app import Server
from charloom.server.http import tokenizers
from charloom.server.http.logprobs import token_text
from charloom.server.http.start import START
from tests.integration.http_client import client, refused

TEXT = "The def statement\n"


@pytest.fixture(scope="module")
def plain(http_server: Server) -> Iterator[httpx.Client]:
    with client(http_server) as plain:
        yield plain


def test_a_text_becomes_tokens_and_is_itself_again(plain: httpx.Client, bundle: Bundle) -> None:
    """As the harness asks: its `RemoteTokenizer` sends exactly these fields."""
    told = plain.post("/tokenize", json={"prompt": TEXT, "add_special_tokens": False}).json()
    assert told["tokens"] == bundle.vocabulary.encode(TEXT).tolist()
    assert (told["count"], told["token_strs"]) == (len(TEXT), None)
    assert plain.post("/detokenize", json={"tokens": told["tokens"]}).json() == {"prompt": TEXT}


def test_texts_of_tokens_are_made_only_for_who_asks_for_them(
    plain: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counted(vocabulary: Vocabulary, token: int) -> str:
        made.append(token)
        return token_text(vocabulary, token)

    monkeypatch.setattr(tokenizers, "token_text", counted)
    plain.post("/tokenize", json={"prompt": TEXT}).raise_for_status()
    assert made == []
    plain.post("/tokenize", json={"prompt": TEXT, "return_token_strs": True}).raise_for_status()
    assert len(made) == len(TEXT)


def test_tokens_are_told_as_texts(plain: httpx.Client) -> None:
    assert plain.post("/tokenize", json={"prompt": TEXT, "return_token_strs": True}).json()["token_strs"] == list(TEXT)


def test_the_tokens_are_those_that_completions_take(plain: httpx.Client) -> None:
    tokens = plain.post("/tokenize", json={"prompt": TEXT}).json()["tokens"]
    body = {"max_tokens": 20, "seed": 3}
    of_tokens = plain.post("/v1/completions", json={**body, "prompt": tokens}).json()
    assert of_tokens["choices"] == plain.post("/v1/completions", json={**body, "prompt": TEXT}).json()["choices"]


def test_what_the_tokens_are_is_told(plain: httpx.Client, bundle: Bundle) -> None:
    told = plain.get("/tokenizer_info").json()
    assert (told["unit"], told["vocab_size"]) == (bundle.manifest.unit.value, bundle.manifest.vocabulary_size)
    assert (told["bos_token"], told["eos_token"]) == (START, None)
    assert plain.get(f"/tokenizer_info?model={bundle.manifest.name}").json() == told
    assert refused(plain.get("/tokenizer_info?model=none"))[:2] == (404, "model_not_found")


def test_characters_that_the_model_lacks_are_named_or_left_out(plain: httpx.Client) -> None:
    status, code, param, message = refused(plain.post("/tokenize", json={"prompt": "a\u2603b"}))
    assert (status, code, param) == (400, "invalid_request", "prompt")
    assert "U+2603) at 1" in message
    assert plain.post("/tokenize", json={"prompt": "a\u2603b", "unknown_characters": "skip"}).json()["count"] == 2


@pytest.mark.parametrize(("tokens", "param"), [([5, 100_000], "tokens[1]"), ([-1], "tokens[0]"), ("abc", "tokens")])
def test_tokens_that_do_not_exist_are_named(plain: httpx.Client, tokens: object, param: str) -> None:
    assert refused(plain.post("/detokenize", json={"tokens": tokens}))[:3] == (400, "invalid_request", param)


def test_a_body_lacks_what_it_must_have(plain: httpx.Client) -> None:
    for route, field in (("/tokenize", "prompt"), ("/detokenize", "tokens")):
        assert refused(plain.post(route, json={}))[:3] == (400, "invalid_request", field)


def test_the_start_is_a_token_that_is_read_as_nothing(http_server: Server, plain: httpx.Client, bundle: Bundle) -> None:
    """As lm-evaluation-harness scores a text: the `bos_token` before it, one token generated and left out again."""
    tokens = bundle.vocabulary.encode(TEXT).tolist()
    (start,) = plain.post("/tokenize", json={"prompt": START}).json()["tokens"]
    assert plain.post("/tokenize", json={"prompt": TEXT, "add_special_tokens": True}).json()["tokens"] == [
        start,
        *tokens,
    ]
    assert plain.post("/detokenize", json={"tokens": [start, *tokens]}).json()["prompt"] == TEXT
    body = {"prompt": [[start, *tokens]], "temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": True, "seed": 1234}
    (choice,) = plain.post("/v1/completions", json=body).json()["choices"]
    told = choice["logprobs"]
    assert (told["tokens"][:2], told["text_offset"][:2]) == ([START, TEXT[0]], [0, 0])
    assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
    with Client(http_server.address) as grpc_client:
        expected = [token.logprob for token in grpc_client.score(TEXT).logprobs]
    assert told["token_logprobs"][1:-1] == pytest.approx(expected, abs=1e-6)
    assert choice["text"][:-1] == TEXT


def test_the_start_is_refused_anywhere_else(plain: httpx.Client, bundle: Bundle) -> None:
    start = bundle.vocabulary.size
    for body in ({"prompt": [0, start]}, {"prompt": [start, start]}):
        assert refused(plain.post("/v1/completions", json=body))[0] == 400
    done = plain.post("/v1/sessions", json={"session_id": "midway"})
    assert done.status_code == 201
    body = {"prompt": [start, 1], "session_id": "midway"}
    assert refused(plain.post("/v1/completions", json=body))[:3] == (400, "invalid_request", "prompt[0]")
