"""Generation under constraints, through a real server and the SDK."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest

from charloom.bundle import Bundle, DecoderKind, read_bundle
from charloom.client import Cancelled, Client, FinishReason, InvalidArgument, InvalidValue
from charloom.engine.constraints import compiler
from charloom.engine.constraints.compiler import Compiler
from charloom.engine.constraints.constraint import BadConstraint, Constraint, Kind
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.waiting import eventually

FORM = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["new", "old", 'a "quoted" one']}, "maxItems": 3},
        "nested": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/pair"}]},
        "when": {"type": "string", "format": "date"},
        "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"},
    },
    "required": ["age", "nested", "code"],
    "additionalProperties": False,
    "$defs": {"pair": {"type": "array", "prefixItems": [{"type": "number"}, {"type": "boolean"}], "minItems": 2}},
}


@pytest.fixture(scope="module", params=DecoderKind, ids=lambda kind: kind.value)
def client(bundle: Bundle, request: pytest.FixtureRequest) -> Iterator[Client]:
    with (
        running_server([(bundle, open_decoder(bundle, kind=request.param))], ServerSettings(grace_seconds=0)) as server,
        Client(server.address) as client,
    ):
        yield client


def test_a_text_matches_ends_by_itself_and_says_what_it_cost(client: Client) -> None:
    pattern = r"[A-Z]{3,8}: [a-z ]+\."
    for seed in range(5):
        found = client.complete("The ", regex=pattern, max_tokens=40, seed=seed, logprobs=True)
        assert re.fullmatch(pattern, found.text)
        assert found.result.allowed_logprob is not None
        assert found.result.allowed_logprob == pytest.approx(
            sum(one.allowed_logprob for one in found.logprobs), abs=1e-3
        )
        assert found.result.allowed_logprob < -1
        assert found.result.stop is None
        assert (found.result.finish_reason is FinishReason.STOP) or found.result.usage.completion_tokens == 40
    assert client.complete("The ", max_tokens=3).result.allowed_logprob is None
    peeked = client.peek("The ", regex="[ab]")
    assert peeked.text in ("a", "b")
    assert peeked.allowed_logprob is not None
    assert peeked.allowed_logprob < 0
    assert client.peek("The ").allowed_logprob is None


def test_one_of_some_texts_is_chosen(client: Client) -> None:
    texts = ["statement", "state", "expression", "zebra"]
    found = {client.complete("a ", choices=texts, seed=seed).text for seed in range(20)}
    assert len(found) > 1
    assert found <= set(texts)
    best = [client.complete("a ", choices=[text], seed=0) for text in texts]
    assert [one.text for one in best] == texts
    assert all(one.result.finish_reason is FinishReason.STOP for one in best)


def test_a_form_is_filled_by_its_schema(client: Client) -> None:
    for seed in range(10):
        text = client.complete("", json_schema=FORM, max_tokens=250, seed=seed).text
        jsonschema.validate(json.loads(text), FORM)
    assert client.complete("", json_schema=json.dumps({"const": [1, "é"[:0]]}), seed=1).text == '[1, ""]'


def test_continuations_sessions_and_sealed_states_keep_to_it(client: Client) -> None:
    pattern = "(?:one|two|three)(?:, (?:one|two|three))*"
    with client.continuations("count ", n=6, regex=pattern, max_tokens=25, seed=3) as continuations:
        texts = [one.text for one in continuations.completions()]
    assert len(set(texts)) > 1
    assert all(re.fullmatch(pattern, text) for text in texts)
    alone = [client.complete("count ", regex=pattern, max_tokens=25, seed=3 + number).text for number in range(6)]
    assert texts == alone
    session = client.session(seed=3)
    with session.generate("count ", regex=pattern, max_tokens=25) as stream:
        assert "".join(stream) == texts[0]
    fork = session.fork()
    again = [one.complete(" and ", regex=pattern, max_tokens=25, seed=5).text for one in (session, fork)]
    assert again[0] == again[1]
    assert re.fullmatch(pattern, again[0])
    first = client.complete("count ", regex=pattern, max_tokens=25, seed=3, return_state=True)
    assert first.result.state is not None
    second = client.complete(" and ", regex=pattern, max_tokens=25, seed=5, state=first.result.state)
    assert second.text == again[0]


def test_resampled_continuations_match_and_tell_their_weights(client: Client) -> None:
    pattern = r"[A-Z]{3,8}: [a-z ]+\."
    session = client.session(seed=3)
    session.feed("The ")
    position = session.info.position
    with session.continuations(n=12, regex=pattern, max_tokens=40, resample=True) as continuations:
        pieces = list(continuations)
        found = continuations.completions()
    assert [piece for _, piece in sorted(pieces)] == [one.text for one in found]  # each in one piece
    assert all(re.fullmatch(pattern, one.text) for one in found)
    told = [one.result.resampled for one in found if one.result.resampled is not None]
    assert len(told) == 12
    assert sum(one.weight for one in told) == pytest.approx(1)
    assert len({one.ancestor for one in told}) < 12
    assert {one.times for one in told} == {told[0].times} != {0}
    assert {one.match_logprob for one in told} == {told[0].match_logprob}
    assert -40 < told[0].match_logprob < 0
    assert [one.result.seed for one in found] == [3 + number for number in range(12)]
    assert session.refresh().position == position
    again = session.continuations(n=12, regex=pattern, max_tokens=40, resample=True).completions()
    assert [one.text for one in again] == [one.text for one in found]
    plain = session.continuations(n=2, regex=pattern, max_tokens=40).completions()
    assert [one.result.resampled for one in plain] == [None, None]


@pytest.mark.parametrize(
    ("options", "lacks"), [({"n": 1, "regex": "a+"}, "takes several continuations"), ({"n": 4}, "takes a constraint")]
)
def test_resampling_takes_several_and_a_constraint(server_client: Client, options: dict[str, Any], lacks: str) -> None:
    with pytest.raises(InvalidArgument, match=lacks) as caught:
        server_client.continuations(resample=True, **options).completions()
    assert [name for name, _ in caught.value.violations] == ["resample"]


@pytest.mark.parametrize(
    ("options", "field", "message"),
    [
        ({"regex": "a(b"}, "constraint.regex", r"character 1: this \( is not closed"),
        ({"regex": "(?=a)b"}, "constraint.regex", "character 0: look-ahead cannot be kept"),
        ({"regex": r"(a)\1"}, "constraint.regex", "character 3: a back-reference"),
        ({"regex": r"[^\s\S]"}, "constraint.regex", "no text matches it"),
        ({"regex": "道+"}, "constraint.regex", "can write none of its texts, not even '道', for it lacks '道'"),
        ({"regex": "(a|b)*a(a|b){25}"}, "constraint.regex", "shorten"),
        ({"regex": "x{100000}"}, "constraint.regex", "repetitions make it too large"),
        ({"regex": "a" * 2_000_000}, "constraint.regex", "it has 2000000 characters; up to 65536"),
        ({"regex": "a{20}", "max_tokens": 19}, "max_tokens", "give at least 20"),
        ({"regex": "a+", "stop": "b"}, "stop", "the constraint says where the text ends"),
        ({"regex": "e", "forbidden_characters": "e"}, "constraint.regex", "for it lacks 'e'"),
        ({"regex": "a+", "min_tokens": 300}, "min_tokens", "more than the 256"),
        ({"choices": ["yes", "道"]}, r"constraint.choices\[1\]", "can never be generated"),
        ({"choices": [str(number) for number in range(1025)]}, "constraint.choices", "1025 texts are too many"),
        ({"choices": []}, "constraint.choices", "nothing to choose from"),
        ({"json_schema": "{"}, "constraint.json_schema", "character 1: it is no JSON"),
        ({"json_schema": {"type": "nope"}}, "constraint.json_schema", '#/type: "nope" is no type'),
        (
            {"json_schema": {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}},
            "constraint.json_schema",
            "#/\\$defs/a contains itself",
        ),
        ({"json_schema": {"type": "string", "pattern": "^.*$"}}, "constraint.json_schema", "#/pattern: it allows quot"),
        ({"regex": "(" * 30_000 + ")" * 30_000}, "constraint.regex", "nested too deeply"),
        ({"json_schema": "[" * 60_000}, "constraint.json_schema", "nested too deeply"),
        ({"choices": ["a" * 1000] * 66}, "constraint.choices", "it has 66000 characters"),
        ({"regex": "[ab]", "allowed_characters": "c"}, "constraint.regex", "for it lacks 'a'"),
        ({"regex": "a" * 10_000_000}, "request", "bytes; up to"),
        ({"json_schema": {"type": "integer", "multipleOf": 3}}, "constraint.json_schema", "multipleOf is not kept"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_any_work(
    server_client: Client, options: dict[str, object], field: str, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        server_client.complete("", **options)  # type: ignore[arg-type]
    assert any(re.fullmatch(field, name) for name, _ in caught.value.violations)


@pytest.fixture(scope="module")
def server_client(server: object) -> Iterator[Client]:
    with Client(server.address) as client:  # type: ignore[attr-defined]
        yield client


def test_the_sdk_refuses_two_constraints_and_what_is_no_schema(server_client: Client) -> None:
    with pytest.raises(InvalidValue, match="regex and choices: they exclude each other"):
        server_client.complete("", regex="a", choices=["a"])
    with pytest.raises(InvalidValue, match="json_schema: it cannot be written as JSON"):
        server_client.complete("", json_schema={"const": object()})


def test_json_has_no_endless_white_space(server_client: Client) -> None:
    """Also where the model likes nothing better than spaces: one may follow a colon or a comma, and none else."""
    item = {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}
    schema = {"type": "array", "items": item, "maxItems": 3}
    for seed in range(5):
        spaces = {" \n": 100.0}
        text = server_client.complete("", json_schema=schema, max_tokens=90, seed=seed, logit_bias=spaces).text
        jsonschema.validate(json.loads(text), schema)
        assert not re.search(r"\s\s|[^:,]\s|\n", text)


def test_min_tokens_changes_nothing_where_a_constraint_says_when_a_text_ends(server_client: Client) -> None:
    options: dict[str, Any] = {"regex": "[a-z]+", "max_tokens": 40}
    plain = [server_client.complete("a ", seed=seed, **options).text for seed in range(5)]
    assert min(map(len, plain)) < 40
    assert [server_client.complete("a ", seed=seed, min_tokens=40, **options).text for seed in range(5)] == plain


def test_a_call_that_is_cancelled_while_its_constraint_is_made_ends_the_process(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Compiler, "__init__", functools.partialmethod(Compiler.__init__, 100))

    def makes(process: psutil.Process) -> bool:
        try:
            return "charloom.engine.constraints.child" in process.cmdline()
        except psutil.NoSuchProcess:  # it has ended since it was listed
            return False

    def makers() -> list[psutil.Process]:
        return list(filter(makes, psutil.Process().children()))

    endless = r"(?:a?){300}(?:a|b){300}(?:(?:a|b)*a(?:a|b){15})"
    with (
        running_server([(bundle, open_decoder(bundle))], ServerSettings(grace_seconds=0)) as server,
        Client(server.address) as client,
        ThreadPoolExecutor() as threads,
    ):
        stream = client.generate("", regex=endless, resume=False)
        reading = threads.submit(list, stream)
        eventually(lambda: bool(makers()))
        stream.cancel()
        assert isinstance(reading.exception(60), Cancelled)
        eventually(lambda: not makers())
        assert client.complete("", regex="a").text == "a"


def test_penalties_and_filters_go_with_it(server_client: Client) -> None:
    found = server_client.complete("", regex="[ab]{40}", repetition_penalty=5, frequency_penalty=2, top_k=1)
    assert found.text.count("a") == found.text.count("b") == 20
    greedy = server_client.complete("a", regex="[a-z ]{5,}", temperature=0, max_tokens=60)
    assert greedy.text == server_client.complete("a", regex="[a-z ]{5,}", temperature=0, max_tokens=60).text


def test_skipping_leaves_out_texts_that_the_model_cannot_write(server_client: Client) -> None:
    assert server_client.complete("", choices=["道", "no"], unknown_characters="skip").text == "no"


def test_a_bundle_from_before_constraints_is_served_and_says_what_to_do() -> None:
    old = read_bundle(Path(__file__).parents[1] / "fixtures" / "written-by-0.1" / "bundle")
    with (
        running_server([(old, open_decoder(old))], ServerSettings(grace_seconds=0)) as server,
        Client(server.address) as client,
    ):
        assert len(client.complete("", max_tokens=10, seed=1).text) == 10
        with pytest.raises(InvalidArgument, match="export it again"):
            client.complete("", regex="a")


def test_a_constraint_is_made_once_and_remembered(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    async def make() -> None:
        one = Compiler()
        asked = [one.automaton(Constraint(Kind.REGEX, ("a+b",)), bundle.vocabulary, ()) for _ in range(5)]
        first, *others = await asyncio.gather(*asked)
        assert all(other is first for other in others)
        assert await one.automaton(Constraint(Kind.REGEX, ("a+c",)), bundle.vocabulary, ()) is not first
        assert await one.automaton(Constraint(Kind.REGEX, ("a+b",)), bundle.vocabulary, ()) is first
        monkeypatch.setattr(compiler, "REMEMBERED", first.nbytes)
        await one.automaton(Constraint(Kind.REGEX, ("ac",)), bundle.vocabulary, ())
        assert await one.automaton(Constraint(Kind.REGEX, ("a+b",)), bundle.vocabulary, ()) is not first

    asyncio.run(make())


def test_a_process_that_takes_too_long_is_ended_and_so_is_one_that_nobody_waits_for(bundle: Bundle) -> None:
    async def make() -> None:
        endless = Constraint(Kind.REGEX, (r"(?:a?){300}(?:a|b){300}(?:(?:a|b)*a(?:a|b){15})",))
        with pytest.raises(BadConstraint, match=r"it takes more than 1 s|needs more than"):
            await Compiler(seconds=1).automaton(endless, bundle.vocabulary, ())
        one = Compiler(seconds=100)
        task = asyncio.create_task(one.automaton(endless, bundle.vocabulary, ()))
        await asyncio.sleep(0.3)
        task.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 20

    asyncio.run(make())
