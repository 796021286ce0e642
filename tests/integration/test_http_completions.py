"""POST /v1/completions, as the openai package and plain requests see it."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from charloom.bundle import Bundle, read_bundle
from charloom.client import Client
from charloom.engine.calls.price import JSON as JSON_PRICE
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.errors import DecoderFailure, Overloaded
from charloom.engine.loom.model import try_model
from charloom.engine.rates import Rates
from charloom.server.app import Server
from charloom.server.http import choices
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.integration.http_client import client, counted, events, refused, running
from tests.unit.bundle.bundle_files import change_manifest
from tests.waiting import eventually

PROMPT = "The def statement "


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


def completed(plain: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = plain.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_models_are_listed(api: openai.OpenAI, bundle: Bundle) -> None:
    (model,) = api.models.list().data
    assert model.id == bundle.manifest.name
    assert api.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError) as failed:
        api.models.retrieve("none")
    assert failed.value.code == "model_not_found"


def test_a_completion_is_the_text_that_grpc_gives(api: openai.OpenAI, grpc_client: Client) -> None:
    answer = api.completions.create(model="small", prompt=PROMPT, max_tokens=40, seed=7)
    expected = grpc_client.complete(PROMPT, max_tokens=40, seed=7)
    (choice,) = answer.choices
    assert choice.text == expected.text
    assert (choice.finish_reason, choice.logprobs) == ("length", None)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(PROMPT), 40)
    assert (answer.object, answer.model) == ("text_completion", "small")


def test_a_stream_is_the_same_text_and_ends_with_its_usage_alone(api: openai.OpenAI) -> None:
    """llama.cpp #15444: the chunk with the usage has no choices, and no other chunk has a usage."""
    whole = api.completions.create(model="small", prompt=PROMPT, max_tokens=300, seed=7)
    options: Any = {"include_usage": True}
    stream = api.completions.create(
        model="small", prompt=PROMPT, max_tokens=300, seed=7, stream=True, stream_options=options
    )
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "length"]
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    assert (last.choices, last.usage) == ([], whole.usage)
    assert {chunk.id for chunk in (*chunks, last)} == {last.id}


def test_a_stream_without_usage_has_none(plain: httpx.Client) -> None:
    answer = plain.post("/v1/completions", json={"prompt": PROMPT, "stream": True, "stream_options": {}})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(answer.text)
    assert done == "[DONE]"
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert not any("usage" in chunk for chunk in chunks)


async def test_the_asynchronous_client_reads_the_same(http_server: Server, api: openai.OpenAI) -> None:
    expected = api.completions.create(model="small", prompt=PROMPT, max_tokens=50, seed=3).choices[0].text
    base = f"http://{http_server.http_address}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as other:
        whole = await other.completions.create(model="small", prompt=PROMPT, max_tokens=50, seed=3)
        assert whole.choices[0].text == expected
        stream = await other.completions.create(model="small", prompt=PROMPT, max_tokens=50, seed=3, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == expected


def test_several_prompts_in_all_four_forms(plain: httpx.Client, bundle: Bundle) -> None:
    ids = bundle.vocabulary.encode(PROMPT).tolist()
    other = bundle.vocabulary.encode("class ").tolist()
    of_text = completed(plain, prompt=PROMPT, seed=1, max_tokens=20)["choices"]
    of_ids = completed(plain, prompt=ids, seed=1, max_tokens=20)["choices"]
    texts = completed(plain, prompt=[PROMPT, "class "], seed=1, max_tokens=20)
    lists = completed(plain, prompt=[ids, other], seed=1, max_tokens=20)
    assert of_text == of_ids
    assert texts["choices"] == lists["choices"]
    assert [choice["index"] for choice in texts["choices"]] == [0, 1]
    assert texts["choices"][0]["text"] == of_text[0]["text"]
    assert texts["usage"]["prompt_tokens"] == len(ids) + len(other)


def test_several_continuations_are_those_of_the_next_seeds(plain: httpx.Client) -> None:
    three = completed(plain, prompt=PROMPT, seed=5, n=3, max_tokens=20)
    alone = [completed(plain, prompt=PROMPT, seed=seed, max_tokens=20)["choices"][0]["text"] for seed in (5, 6, 7)]
    assert [choice["text"] for choice in three["choices"]] == alone
    assert three["usage"] == {"prompt_tokens": len(PROMPT), "completion_tokens": 60, "total_tokens": len(PROMPT) + 60}
    streamed: dict[int, str] = {}
    answer = plain.post("/v1/completions", json={"prompt": PROMPT, "seed": 5, "n": 3, "max_tokens": 20, "stream": True})
    for chunk in events(answer.text)[:-1]:
        (choice,) = chunk["choices"]
        streamed[choice["index"]] = streamed.get(choice["index"], "") + choice["text"]
    assert [streamed[index] for index in range(3)] == alone


def test_the_best_of_several_are_told(plain: httpx.Client) -> None:
    def mean(choice: dict[str, Any]) -> float:
        found = choice["logprobs"]["token_logprobs"]
        return sum(found) / len(found)

    every = completed(plain, prompt=PROMPT, seed=5, n=6, logprobs=0, max_tokens=12)["choices"]
    best = completed(plain, prompt=PROMPT, seed=5, n=2, best_of=6, max_tokens=12)
    ranked = sorted(every, key=mean, reverse=True)
    assert [choice["text"] for choice in best["choices"]] == [choice["text"] for choice in ranked[:2]]
    assert best["choices"][0]["logprobs"] is None
    assert best["usage"]["completion_tokens"] == 72


def test_logprobs_are_those_of_grpc_and_the_chosen_token_is_among_the_top_ones(
    plain: httpx.Client, grpc_client: Client
) -> None:
    (choice,) = completed(plain, prompt=PROMPT, max_tokens=30, seed=2, logprobs=3)["choices"]
    told = choice["logprobs"]
    expected = grpc_client.complete(PROMPT, max_tokens=30, seed=2, logprobs=True, top_logprobs=3)
    assert told["tokens"] == list(choice["text"])
    assert told["token_logprobs"] == [token.logprob for token in expected.logprobs]
    assert told["text_offset"] == list(range(len(PROMPT), len(PROMPT) + 30))
    for token, logprob, top in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True):
        assert top[token] == logprob  # the very same float
        assert len(top) in (3, 4)


@pytest.mark.parametrize("stream", [False, True])
def test_echo_tells_the_log_probabilities_of_the_prompt_too(
    plain: httpx.Client, grpc_client: Client, stream: bool
) -> None:
    """llama.cpp #27174 told those of the generated tokens alone; vLLM #2703 and #5890 failed on echo in a stream."""
    body = {"prompt": PROMPT, "max_tokens": 5, "echo": True, "logprobs": 2, "seed": 4, "stream": stream}
    answer = plain.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    pieces = [chunk["choices"][0] for chunk in events(answer.text)[:-1]] if stream else answer.json()["choices"]
    columns: dict[str, list[Any]] = {}
    for piece in pieces:
        for name, values in (piece["logprobs"] or {}).items():
            columns.setdefault(name, []).extend(values)
    text = "".join(piece["text"] for piece in pieces)
    assert text.startswith(PROMPT)
    assert columns["tokens"] == list(text)
    assert len(text) == len(PROMPT) + 5
    assert columns["text_offset"] == list(range(len(text)))
    scored = grpc_client.score(text)
    assert columns["token_logprobs"] == pytest.approx([token.logprob for token in scored.logprobs], abs=1e-6)


def test_an_echo_is_paid_for_as_often_as_an_answer_has_it_at_a_time(
    http_server: Server, plain: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, held = http_server.engine.budget, list[int]()
    monkeypatch.setattr(budget, "hold", held.append)

    def cost(**more: Any) -> int:
        """What reading the prompt holds, which comes before its continuations."""
        held.clear()
        body = {"prompt": PROMPT, "max_tokens": 1, "echo": True, "logprobs": 20, "seed": 1, **more}
        assert plain.post("/v1/completions", json=body).status_code == 200
        return held[0]

    once = cost()
    each = len(PROMPT) * (JSON_PRICE.token + 20 * JSON_PRICE.alternative)
    assert cost(n=9) > once + 8 * each
    assert cost(n=2, best_of=9) < once + 2 * each
    assert cost(n=9, stream=True) == once


def test_a_text_is_scored_by_echo_alone(plain: httpx.Client, grpc_client: Client) -> None:
    answer = completed(plain, prompt=PROMPT, max_tokens=0, echo=True, logprobs=1)
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == (PROMPT, "length")
    mean = -math.fsum(choice["logprobs"]["token_logprobs"]) / len(PROMPT)
    assert mean == pytest.approx(grpc_client.score(PROMPT).nats_per_token, abs=1e-9)
    assert answer["usage"]["completion_tokens"] == 0


def test_a_prompt_is_not_scored_for_a_call_that_is_refused(
    http_server: Server, plain: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = counted(http_server, monkeypatch)
    body = {"prompt": PROMPT, "echo": True, "logprobs": 0, "max_tokens": 2}
    assert refused(plain.post("/v1/completions", json={**body, "min_tokens": 3}))[2] == "min_tokens"
    assert read == []
    completed(plain, **body)
    assert sum(read) >= len(PROMPT)


@pytest.mark.parametrize("scored", [{"logprobs": 0}, {"max_tokens": 0}, {"logprobs": 0, "max_tokens": 0}], ids=str)
def test_a_prompt_is_scored_where_the_session_is_expected(plain: httpx.Client, scored: dict[str, int]) -> None:
    name = f"expected{len(scored)}{scored.get('max_tokens')}"
    assert plain.post("/v1/sessions", json={"session_id": name}).status_code == 201
    assert plain.post(f"/v1/sessions/{name}/feed", json={"text": "def it"}).status_code == 200
    body = {"session_id": name, "prompt": PROMPT, "max_tokens": 2, "echo": True, **scored}
    stale = plain.post("/v1/completions", json={**body, "expected_position": 3})
    assert refused(stale)[:2] == (409, "stale_position")
    assert plain.get(f"/v1/sessions/{name}").json()["position"] == 6
    (choice,) = completed(plain, **body, expected_position=6)["choices"]
    assert choice["text"].startswith(PROMPT)
    alone = plain.post("/v1/completions", json={**body, "session_id": None, "expected_position": 6})
    assert refused(alone)[:3] == (400, "invalid_request", "expected_position")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"return_state": True}, "return_state"),
        ({"min_tokens": 9}, "min_tokens"),
        ({"resample": True}, "resample"),
        ({"regex": "("}, "regex"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs.choice"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logit_bias": {"a": 101}}, "logit_bias['a']"),
        ({"allowed_characters": ""}, "allowed_characters"),
    ],
)
def test_nothing_is_dropped_where_nothing_is_generated(plain: httpx.Client, fields: dict[str, Any], param: str) -> None:
    answer = plain.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 0, "echo": True, **fields})
    assert refused(answer)[:3] == (400, "invalid_request", param)


def test_bias_is_by_token_id_and_by_characters(plain: httpx.Client, bundle: Bundle) -> None:
    token = int(bundle.vocabulary.encode("z")[0])
    for key in (str(token), f"{token:050}", "z"):
        (choice,) = completed(plain, prompt=PROMPT, max_tokens=8, logit_bias={key: 100})["choices"]
        assert choice["text"] == "z" * 8


def test_a_stop_string_ends_the_text_before_or_after_itself(plain: httpx.Client) -> None:
    text = completed(plain, prompt=PROMPT, seed=1, max_tokens=60)["choices"][0]["text"]
    stop = text[20:23]
    end = text.index(stop)
    (before,) = completed(plain, prompt=PROMPT, seed=1, max_tokens=60, stop=stop)["choices"]
    (after,) = completed(plain, prompt=PROMPT, seed=1, max_tokens=60, stop=[stop], include_stop_str_in_output=True)[
        "choices"
    ]
    assert (before["text"], before["finish_reason"], before["stop_reason"]) == (text[:end], "stop", stop)
    assert after["text"] == text[: end + 3]


def test_nulls_and_empty_objects_pass(plain: httpx.Client) -> None:
    fields = ("max_tokens", "logprobs", "stop", "seed", "suffix", "best_of", "n", "stream", "temperature", "user")
    completed(plain, prompt=PROMPT, logit_bias={}, stream_options={}, **dict.fromkeys(fields))


def test_unknown_fields_are_named(plain: httpx.Client) -> None:
    """Ollama #16117 drops them in silence."""
    body = {"prompt": PROMPT, "max_tokens": 1, "tempreture": 2, "stream_options": {"include_usge": True}}
    for stream in (False, True):
        answer = plain.post("/v1/completions", json={**body, "stream": stream})
        assert answer.status_code == 200
        assert "'tempreture', 'stream_options.include_usge'" in answer.headers["charloom-warning"]
    assert "charloom-warning" not in plain.post("/v1/completions", json={"max_tokens": 1}).headers


def test_a_session_goes_on_and_a_state_too(plain: httpx.Client, grpc_client: Client, bundle: Bundle) -> None:
    whole = completed(plain, prompt=PROMPT, max_tokens=40, seed=9)["choices"][0]
    grpc_client.session(id="of-http", seed=9, keep=True)
    first = completed(plain, prompt=PROMPT, max_tokens=15, session_id="of-http")["choices"][0]
    second = completed(plain, max_tokens=25, session_id="of-http")["choices"][0]
    assert first["text"] + second["text"] == whole["text"]
    assert second["position"] == whole["position"] == len(PROMPT) + 40
    first = completed(plain, prompt=PROMPT, max_tokens=15, seed=9, return_state=True)["choices"][0]
    second = completed(plain, max_tokens=25, state=first["state"])["choices"][0]
    assert first["text"] + second["text"] == whole["text"]
    biased = completed(plain, max_tokens=3, state=first["state"], logit_bias={"0": 100})["choices"][0]
    assert biased["text"] == 3 * bundle.vocabulary.decode([0])


def test_a_call_uses_one_version_of_its_model_whatever_is_loaded_meanwhile(
    bundle: Bundle, decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(bundle.path, tmp_path / "2")
    change_manifest(path, lambda manifest: manifest.update(training={"version": "2"}))
    new = read_bundle(path)
    tried = try_model(new, decoder, 4)
    with running_server([(bundle, decoder)], ServerSettings(grace_seconds=0, http_port=0)) as server:
        admit = Rates.admit

        async def meanwhile(rates: Rates) -> None:
            if server.engine.model("").digest != new.manifest.digest:
                server.engine.serve(tried, 0)
            await admit(rates)

        monkeypatch.setattr(Rates, "admit", meanwhile)
        with client(server) as plain:
            asked: dict[str, Any] = {"prompt": ["a", "b"], "max_tokens": 1, "echo": True, "logprobs": 1}
            assert completed(plain, **asked)["system_fingerprint"] == bundle.manifest.digest
            assert completed(plain, **asked)["system_fingerprint"] == new.manifest.digest


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
        ({"max_tokens": 0}, "max_tokens", "0 is for one continuation with echo"),
        ({"max_tokens": 10**30}, "max_tokens", "less than"),
        ({"max_tokens": "5"}, "max_tokens", "valid integer"),
        ({"n": 65}, "n", "from 1 to 64"),
        ({"n": 8, "best_of": 65}, "best_of", "from 8 to 64"),
        ({"n": 2, "best_of": 1}, "best_of", "from 2 to 64"),
        ({"best_of": 2, "stream": True}, "best_of", "once all have ended"),
        ({"prompt": ["a"] * 33, "n": 2}, "prompt", "66 texts"),
        ({"prompt": []}, "prompt", "empty list"),
        ({"prompt": [[1], "a"]}, "prompt", "list of token ids"),
        ({"prompt": [1.5]}, "prompt", "list of token ids"),
        ({"prompt": [-1]}, "prompt", "list of token ids"),
        ({"prompt": [5, 100_000]}, "prompt[1]", "100000 is not allowed"),
        ({"prompt": "a\u2603b"}, "prompt", "U+2603) at 1"),
        ({"stop": ["x"] * 100}, "stop", "100 strings are too many"),
        ({"logprobs": 21}, "logprobs", "from 0 to 20"),
        ({"logprobs": True}, "logprobs", "valid integer"),
        ({"temperature": -2}, "temperature", "-2 is not allowed"),
        ({"logit_bias": {"100000": 1}}, "logit_bias", "no token '100000'"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias", "no token '9999"),
        ({"logit_bias": {"a": 101}}, "logit_bias['a']", "101 is not allowed"),
        ({"logit_bias": {"a": "much"}}, "logit_bias.a", "valid number"),
        ({"suffix": "end"}, "suffix", "forwards only"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"state": "?"}, "state", "not base64"),
        ({"session_id": "s", "prompt": ["a", "b"]}, "prompt", "one prompt"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "valid boolean"),
        ({"unknown_characters": "drop"}, "unknown_characters", "'reject', 'refuse' or 'skip'"),
    ],
)
def test_a_wrong_field_is_named(plain: httpx.Client, body: dict[str, Any], param: str, says: str) -> None:
    status, code, field, message = refused(plain.post("/v1/completions", json=body))
    assert (status, code, field) == (400, "invalid_request", param)
    assert says in message


def test_errors_are_the_exceptions_of_the_openai_package(api: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as failed:
        api.completions.create(model="small", prompt="\u2603")
    assert failed.value.param == "prompt"
    assert failed.value.request_id
    with pytest.raises(openai.NotFoundError):
        api.completions.create(model="none", prompt="a")
    with pytest.raises(openai.APITimeoutError):
        api.with_options(timeout=0.05).completions.create(model="small", prompt="a", max_tokens=60_000)


def test_an_error_in_a_stream_is_an_exception_of_the_openai_package(
    api: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaking(*told: Any) -> AsyncIterator[bytes]:
        events = choices.streamed(*told)
        yield await anext(events)
        raise DecoderFailure("it broke")

    monkeypatch.setattr("charloom.server.http.completions.streamed", breaking)
    stream = api.completions.create(model="small", prompt=PROMPT, max_tokens=500, seed=1, stream=True)
    assert next(stream).choices[0].text
    with pytest.raises(openai.APIError, match="it broke") as failed:
        next(stream)
    assert failed.value.code == "decoder_failure"


async def test_an_asynchronous_reader_that_is_cancelled_leaves_the_batch(http_server: Server) -> None:
    base = f"http://{http_server.http_address}/v1"
    reading = asyncio.Event()

    async def read() -> None:
        async with openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as other:
            async for _ in await other.completions.create(model="small", prompt="a", max_tokens=60_000, stream=True):
                reading.set()

    task = asyncio.create_task(read())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    eventually(lambda: http_server.engine.models[0].loom.live == 0 and running(http_server) == 0)


def test_the_openai_package_tries_again_when_there_was_too_much_to_do(
    http_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def busy_at_first(share: object) -> None:
        tried.append(0.0)
        if len(tried) == 1:
            raise Overloaded("busy", 0.01)

    monkeypatch.setattr(http_server.engine.models[0].loom, "admit", busy_at_first)
    with openai.OpenAI(base_url=f"http://{http_server.http_address}/v1", api_key="none", max_retries=1) as patient:
        assert patient.completions.create(model="small", prompt="a", max_tokens=3, seed=1).choices[0].text
    assert len(tried) >= 2


def test_a_client_that_leaves_a_stream_leaves_the_batch(api: openai.OpenAI, http_server: Server) -> None:
    (model,) = http_server.engine.models
    with api.completions.create(model="small", prompt="a", max_tokens=60_000, stream=True) as stream:
        next(iter(stream))
        eventually(lambda: model.loom.live == 1)
    eventually(lambda: model.loom.live == 0 and running(http_server) == 0)


def test_a_session_that_is_used_is_a_conflict(plain: httpx.Client, grpc_client: Client, api: openai.OpenAI) -> None:
    grpc_client.session(id="used", keep=True)
    extra = {"session_id": "used"}
    long = {"max_tokens": 60_000, "logprobs": 20}  # more than fits on the way to who does not read
    with api.completions.create(model="small", prompt="a", stream=True, extra_body=extra | long) as stream:
        next(iter(stream))
        status, code, _, _ = refused(plain.post("/v1/completions", json=extra))
        assert (status, code) == (409, "session_busy")
    eventually(lambda: plain.post("/v1/completions", json={**extra, "max_tokens": 1}).status_code == 200)
