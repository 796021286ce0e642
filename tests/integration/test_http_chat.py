"""POST /v1/chat/completions, as the openai package and plain requests see it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2 as httpx
import openai
import pytest

from charloom.bundle import TRANSCRIPT, Bundle, ChatTemplate
from charloom.bundle.chat import Turn
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.integration.http_client import client, events, refused

SAID: Any = [{"role": "system", "content": "The manual."}, {"role": "user", "content": "What is it?"}]
AS_TEXT = TRANSCRIPT.prompt([("system", "The manual."), ("user", "What is it?")])
TEMPLATE = ChatTemplate(
    system=Turn(before="", after="\n"),
    user=Turn(before="q: ", after="\n"),
    assistant=Turn(before="a: ", after="\n"),
    stop=(" ",),
)


@pytest.fixture(scope="module")
def api(http_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{http_server.http_address}/v1", api_key="none", max_retries=0) as api:
        yield api


@pytest.fixture(scope="module")
def plain(http_server: Server) -> Iterator[httpx.Client]:
    with client(http_server) as plain:
        yield plain


def completed(plain: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = plain.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def test_a_model_without_a_template_reads_a_transcript(api: openai.OpenAI, plain: httpx.Client) -> None:
    """vLLM #7978: a base model that is called through chat. It is served, and /v1/models says how."""
    assert plain.get("/v1/models").json()["data"][0]["chat"] == "transcript"
    answer = api.chat.completions.create(model="small", messages=SAID, max_tokens=40, seed=7)
    expected = completed(plain, prompt=AS_TEXT, max_tokens=40, seed=7, stop="\nUser:")
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", expected["text"])
    assert (answer.object, choice.finish_reason) == ("chat.completion", expected["finish_reason"])
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(AS_TEXT)


def test_a_template_of_the_bundle_is_used(bundle: Bundle, decoder: Decoder) -> None:
    chatty = replace(bundle, manifest=bundle.manifest.model_copy(update={"chat": TEMPLATE}))
    settings = ServerSettings(grace_seconds=0, http_port=0)
    with running_server([(chatty, decoder)], settings) as server, client(server) as plain:
        assert plain.get("/v1/models/small").json()["chat"] == "template"
        body = {"messages": SAID, "max_tokens": 40, "seed": 7, "temperature": 1}
        choice = plain.post("/v1/chat/completions", json=body).json()["choices"][0]
        prompt = "The manual.\nq: What is it?\na: "
        expected = completed(plain, prompt=prompt, max_tokens=40, seed=7, stop=" ")
        assert choice["message"]["content"] == expected["text"]
        assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", " ")


def test_a_stream_is_the_same_message(api: openai.OpenAI) -> None:
    whole = api.chat.completions.create(model="small", messages=SAID, max_tokens=200, seed=7, stop="@")
    options: Any = {"include_usage": True}
    stream = api.chat.completions.create(
        model="small", messages=SAID, max_tokens=200, seed=7, stop="@", stream=True, stream_options=options
    )
    first, *chunks, last = list(stream)
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert (last.choices, last.usage) == ([], whole.usage)
    assert all("usage" not in chunk.model_fields_set for chunk in (first, *chunks))


async def test_the_asynchronous_client_reads_the_same(http_server: Server, api: openai.OpenAI) -> None:
    expected = api.chat.completions.create(model="small", messages=SAID, max_tokens=50, seed=3).choices[0].message
    base = f"http://{http_server.http_address}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as other:
        stream = await other.chat.completions.create(model="small", messages=SAID, max_tokens=50, seed=3, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == expected.content


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_those_of_completions(plain: httpx.Client, stream: bool) -> None:
    options = {"max_tokens": 20, "seed": 2, "temperature": 1}
    body = {"messages": SAID, "logprobs": True, "top_logprobs": 2, "stream": stream, **options}
    answer = plain.post("/v1/chat/completions", json=body)
    choices = [chunk["choices"][0] for chunk in events(answer.text)[:-1]] if stream else answer.json()["choices"]
    told = [entry for choice in choices for entry in (choice["logprobs"] or {"content": []})["content"]]
    columns = completed(plain, prompt=AS_TEXT, logprobs=2, stop="\nUser:", **options)["logprobs"]
    assert [entry["token"] for entry in told] == columns["tokens"]
    assert [entry["logprob"] for entry in told] == columns["token_logprobs"]
    assert [bytes(entry["bytes"]).decode() for entry in told] == columns["tokens"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in told)


def test_several_messages_and_a_content_of_parts(plain: httpx.Client) -> None:
    def said(**body: Any) -> list[str]:
        answer = plain.post("/v1/chat/completions", json={"seed": 5, "max_tokens": 20, **body})
        assert answer.status_code == 200, answer.text
        return [choice["message"]["content"] for choice in answer.json()["choices"]]

    three = said(messages=SAID, n=3)
    assert three == [said(messages=SAID, seed=seed)[0] for seed in (5, 6, 7)]
    parts = [{"type": "text", "text": "What "}, {"type": "text", "text": "is it?"}]
    developer = [{"role": "developer", "content": "The manual."}, {"role": "user", "content": parts}]
    assert said(messages=developer, max_completion_tokens=20, max_tokens=None) == three[:1]


def test_the_templates_own_stop_strings_do_not_count(plain: httpx.Client) -> None:
    body = {"messages": SAID, "max_tokens": 3, "stop": list("abcdefghijklmnop")}
    answer = plain.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    answer = plain.post("/v1/chat/completions", json={**body, "stop": list("abcdefghijklmnopq")})
    assert refused(answer)[2:] == ("stop", "stop: 17 strings are too many; give up to 16")


def test_the_assistants_last_message_goes_on(plain: httpx.Client) -> None:
    messages = [*SAID, {"role": "assistant", "content": "It is"}]
    answer = plain.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 20, "seed": 1})
    expected = completed(plain, prompt=f"{AS_TEXT}It is", max_tokens=20, seed=1, stop="\nUser:")
    assert answer.json()["choices"][0]["message"]["content"] == expected["text"]


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({}, "messages", "required"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "'system'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
        ({"messages": [{"role": "user", "content": "a\u2603b"}]}, "messages", "U+2603"),
        ({"messages": SAID, "top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"messages": SAID, "logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
        ({"messages": SAID, "n": 65}, "n", "from 1 to 64"),
        ({"messages": SAID, "max_tokens": 0}, "max_tokens", "from 1"),
        ({"messages": SAID, "stop": ["x"] * 100}, "stop", "too many"),
    ],
)
def test_a_wrong_field_is_named(plain: httpx.Client, body: dict[str, Any], param: str, says: str) -> None:
    status, code, field, message = refused(plain.post("/v1/chat/completions", json=body))
    assert (status, code, field) == (400, "invalid_request", param)
    assert says in message


def test_an_image_is_refused(plain: httpx.Client) -> None:
    content = [{"type": "image_url", "image_url": {"url": "http://example.org/x.png"}}]
    answer = plain.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": content}]})
    assert refused(answer)[0] == 400


def test_unknown_fields_are_named_wherever_they_stand(plain: httpx.Client) -> None:
    body = {"messages": [{**SAID[1], "mood": "good"}], "max_tokens": 1, "tools": []}
    answer = plain.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert "'tools', 'messages[0].mood'" in answer.headers["charloom-warning"]
