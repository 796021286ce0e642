"""Generation under constraints over HTTP, as the openai package and plain requests ask for it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import httpx2 as httpx
import openai
import pytest
from pydantic import BaseModel

from charloom.client import Client
from charloom.server.app import Server
from tests.integration.http_client import client, events, refused

PROMPT = "The def statement "
PATTERN = r"[A-Z]{3,8}: [a-z ]+\."
SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "old": {"type": "boolean"}}}
CHOICES = ["state", "statement", "zebra"]
SAID: Any = [{"role": "user", "content": "What is it?"}]


def as_openai(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "form", "schema": schema, "strict": True}}


@pytest.fixture(scope="module")
def api(http_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{http_server.http_address}/v1", api_key="none", max_retries=0) as api:
        yield api


@pytest.fixture(scope="module")
def plain(http_server: Server) -> Iterator[httpx.Client]:
    with client(http_server) as plain:
        yield plain


@pytest.fixture(scope="module")
def grpc_client(http_server: Server) -> Iterator[Client]:
    with Client(http_server.address) as grpc_client:
        yield grpc_client


@pytest.mark.parametrize(
    ("asked", "option"),
    [
        ({"structured_outputs": {"regex": PATTERN}}, {"regex": PATTERN}),
        ({"structured_outputs": {"choice": CHOICES}}, {"choices": CHOICES}),
        ({"structured_outputs": {"json": SCHEMA}}, {"json_schema": SCHEMA}),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, {"json_schema": SCHEMA}),
        ({"guided_regex": PATTERN}, {"regex": PATTERN}),
        ({"regex": PATTERN}, {"regex": PATTERN}),
        ({"choices": CHOICES}, {"choices": CHOICES}),
        ({"json_schema": SCHEMA}, {"json_schema": SCHEMA}),
        ({"guided_choice": CHOICES}, {"choices": CHOICES}),
        ({"guided_json": SCHEMA}, {"json_schema": SCHEMA}),
        ({"response_format": as_openai(SCHEMA)}, {"json_schema": SCHEMA}),
        ({"response_format": as_openai(json.dumps(SCHEMA))}, {"json_schema": SCHEMA}),
        ({"response_format": {"type": "text"}, "structured_outputs": {}}, {}),
    ],
)
def test_a_completion_is_the_text_that_grpc_gives(
    api: openai.OpenAI, grpc_client: Client, asked: dict[str, Any], option: dict[str, Any]
) -> None:
    answer = api.completions.create(model="small", prompt=PROMPT, max_tokens=60, seed=3, extra_body=asked)
    expected = grpc_client.complete(PROMPT, max_tokens=60, seed=3, **option)
    (choice,) = answer.choices
    assert choice.text == expected.text
    assert choice.finish_reason == expected.result.finish_reason.value.lower()
    assert (choice.model_extra or {}).get("allowed_logprob") == expected.result.allowed_logprob


def test_a_stream_tells_the_same_text_and_what_it_cost(plain: httpx.Client) -> None:
    body = {"prompt": PROMPT, "max_tokens": 60, "seed": 3, "guided_regex": PATTERN}
    whole = plain.post("/v1/completions", json=body).json()["choices"][0]
    *chunks, done = events(plain.post("/v1/completions", json={**body, "stream": True}).text)
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["text"]
    assert chunks[-1]["choices"][0]["allowed_logprob"] == pytest.approx(whole["allowed_logprob"])
    assert re.fullmatch(PATTERN, whole["text"])


def test_logprobs_tell_what_was_allowed_at_each_token(plain: httpx.Client, grpc_client: Client) -> None:
    asked = {"max_tokens": 40, "seed": 3, "guided_regex": PATTERN}
    expected = grpc_client.complete(PROMPT, max_tokens=40, seed=3, regex=PATTERN, logprobs=True)
    allowed = [one.allowed_logprob for one in expected.logprobs]
    answer = plain.post("/v1/completions", json={"prompt": PROMPT, "logprobs": 0, **asked}).json()["choices"][0]
    assert answer["logprobs"]["allowed_logprobs"] == pytest.approx(allowed)
    assert min(allowed) < -1
    echoed = plain.post("/v1/completions", json={"prompt": PROMPT, "logprobs": 0, "echo": True, **asked}).json()
    columns = echoed["choices"][0]["logprobs"]
    assert len(columns["allowed_logprobs"]) == len(columns["tokens"])
    assert columns["allowed_logprobs"][-len(allowed) :] == pytest.approx(allowed)
    chat = plain.post("/v1/chat/completions", json={"messages": SAID, "logprobs": True, **asked}).json()["choices"][0]
    entries = [one["allowed_logprob"] for one in chat["logprobs"]["content"]]
    assert sum(entries) == pytest.approx(chat["allowed_logprob"], abs=1e-3)
    free = plain.post("/v1/completions", json={"prompt": PROMPT, "logprobs": 0, "max_tokens": 3}).json()["choices"][0]
    assert "allowed_logprobs" not in free["logprobs"]


class Part(BaseModel):
    kind: Literal["def", "class"]
    lines: int | None


class Answer(BaseModel):
    word: Literal["yes", "no"]
    sure: bool
    parts: list[Part]


def test_the_openai_package_parses_a_message_into_a_model_of_pydantic(api: openai.OpenAI) -> None:
    for seed in range(5):
        answer = api.chat.completions.parse(
            model="small", messages=SAID, response_format=Answer, max_tokens=400, seed=seed, logprobs=True
        )
        (choice,) = answer.choices
        assert choice.message.parsed is not None
        assert choice.message.parsed == Answer.model_validate_json(choice.message.content or "")


def test_a_message_may_have_what_ends_a_turn(plain: httpx.Client) -> None:
    """The template's stop string does not count: the constraint says where the text ends."""
    body = {"messages": SAID, "max_tokens": 30, "structured_outputs": {"choice": ["a\nUser: b"]}}
    (choice,) = plain.post("/v1/chat/completions", json=body).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("a\nUser: b", "stop")


@pytest.mark.parametrize(
    "asked", [{"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}]
)
def test_any_json_object_is_one_and_is_not_nested_deeply(plain: httpx.Client, asked: dict[str, Any]) -> None:
    body = {"prompt": "", "max_tokens": 80, "n": 16, "seed": 1, "temperature": 2, **asked}
    choices = plain.post("/v1/completions", json=body).json()["choices"]
    found = [json.loads(choice["text"]) for choice in choices]
    assert all(isinstance(one, dict) for one in found)
    assert any(found)
    assert max(map(depth, found)) <= 3


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@pytest.mark.parametrize("stream", [False, True])
def test_resampled_continuations_are_those_of_grpc(plain: httpx.Client, grpc_client: Client, stream: bool) -> None:
    asked = {"prompt": PROMPT, "max_tokens": 60, "seed": 3, "n": 6, "guided_regex": PATTERN, "resample": True}
    answer = plain.post("/v1/completions", json={**asked, "stream": stream})
    expected = grpc_client.continuations(PROMPT, n=6, resample=True, max_tokens=60, seed=3, regex=PATTERN).completions()
    if stream:
        told = [chunk["choices"][0] for chunk in events(answer.text)[:-1]]
        texts = {one["index"]: one["text"] for one in told if one["text"]}
        choices = sorted((one for one in told if one["finish_reason"]), key=lambda one: one["index"])
        assert [texts[number] for number in range(6)] == [one.text for one in expected]
    else:
        choices = answer.json()["choices"]
        assert [one["text"] for one in choices] == [one.text for one in expected]
    assert [one["resampled"] for one in choices] == [
        dataclasses.asdict(one.result.resampled) for one in expected if one.result.resampled is not None
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"resample": True, "guided_regex": PATTERN}, "resample"),
        ({"resample": True, "n": 3}, "resample"),
        ({"resample": True, "n": 2, "best_of": 3, "guided_regex": PATTERN}, "best_of"),
    ],
)
def test_resampling_takes_several_and_a_constraint(plain: httpx.Client, body: dict[str, Any], field: str) -> None:
    answer = plain.post("/v1/completions", json={"prompt": PROMPT, **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


def test_continuations_and_sessions_keep_to_it(plain: httpx.Client, grpc_client: Client) -> None:
    body = {"prompt": PROMPT, "max_tokens": 40, "seed": 5, "guided_regex": PATTERN}
    several = plain.post("/v1/completions", json={**body, "n": 3, "best_of": 5}).json()["choices"]
    assert len({choice["text"] for choice in several}) == 3
    assert all(re.fullmatch(PATTERN, choice["text"]) for choice in several)
    assert plain.post("/v1/sessions", json={"session_id": "constrained", "seed": 5}).status_code == 201
    asked = {**body, "session_id": "constrained"}
    first = plain.post("/v1/completions", json=asked).json()["choices"][0]
    assert first["text"] == grpc_client.complete(PROMPT, max_tokens=40, seed=5, regex=PATTERN).text
    second = plain.post("/v1/completions", json={**asked, "prompt": ""}).json()["choices"][0]
    assert re.fullmatch(PATTERN, second["text"])
    assert second["position"] == first["position"] + len(second["text"])


@pytest.mark.parametrize(
    ("asked", "param", "says"),
    [
        ({"structured_outputs": {"regex": "a(b"}}, "structured_outputs.regex", "character 1: this ( is not closed"),
        ({"guided_regex": "(?=a)b"}, "guided_regex", "look-ahead"),
        ({"guided_choice": []}, "guided_choice", "nothing to choose from"),
        ({"guided_choice": ["a", "道"]}, "guided_choice[1]", "can never be generated"),
        ({"guided_choice": "a"}, "guided_choice", "it is no list; give [...]"),
        ({"guided_json": "{"}, "guided_json", "it is no JSON"),
        ({"guided_json": [1]}, "guided_json", "is no object"),
        ({"structured_outputs": {"json": {"type": "nope"}}}, "structured_outputs.json", '#/type: "nope" is no type'),
        ({"structured_outputs": {"grammar": "root ::= a"}}, "structured_outputs.grammar", "grammars are not kept"),
        ({"guided_grammar": "root ::= a"}, "guided_grammar", "grammars are not kept"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "guided_regex says already"),
        ({"guided_regex": "a", "regex": "a"}, "guided_regex", "regex says already"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "response_format", "guided_regex says"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "needs a schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.schema",
            "required",
        ),
        ({"response_format": as_openai({"oneOf": []})}, "response_format.json_schema.schema", "#: oneOf is not kept"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type", "'text', 'json_object' or"),
        ({"guided_regex": "a{20}", "max_tokens": 19}, "max_tokens", "give at least 20"),
        ({"guided_regex": "a+", "stop": "b"}, "stop", "the constraint says where the text ends"),
    ],
)
@pytest.mark.parametrize("route", ["/v1/completions", "/v1/chat/completions"])
def test_what_cannot_be_kept_is_named(
    plain: httpx.Client, route: str, asked: dict[str, Any], param: str, says: str
) -> None:
    said = {"messages": SAID} if "chat" in route else {"prompt": PROMPT}
    status, code, field, message = refused(plain.post(route, json={**said, **asked}))
    assert (status, code) == (400, "invalid_request")
    assert field is not None
    assert field.startswith(param)
    assert says in message


def test_what_means_nothing_in_a_constraint_is_named(plain: httpx.Client) -> None:
    asked = {"regex": "a", "whitespace_pattern": " "}
    answer = plain.post("/v1/completions", json={"structured_outputs": asked})
    assert answer.json()["choices"][0]["text"] == "a"
    assert "'structured_outputs.whitespace_pattern'" in answer.headers["charloom-warning"]
