"""What is said of a body that is not of its form."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from charloom.server.http.bodies import Body, ReadingBody, parsed_json
from charloom.server.http.chat import MOST_MESSAGES, ChatBody
from charloom.server.http.completions import CompletionBody
from charloom.server.http.problems import Refused

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


@pytest.mark.parametrize(
    ("form", "body", "said"),
    [
        (CompletionBody, {"stop": 3}, "stop: Input should be a valid string"),
        (CompletionBody, {"stop": ["a", 3]}, "stop[1]: Input should be a valid string"),
        (ChatBody, {"messages": "hi"}, "messages: it is no list; give [...]"),
        (
            ChatBody,
            {"messages": [{"role": "user", "content": 3}]},
            "messages[0].content: Input should be a valid string",
        ),
        (
            ChatBody,
            {"messages": [{"role": "user", "content": [IMAGE]}]},
            "messages[0].content[0].type: Input should be 'text'",
        ),
        (
            ChatBody,
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text: Field required",
        ),
    ],
)
def test_a_value_of_several_kinds_is_told_by_the_kind_that_it_is(form: type[Body], body: Any, said: str) -> None:
    with pytest.raises(Refused) as refused:
        parsed_json(json.dumps(body).encode(), form)
    assert str(refused.value) == said
    assert refused.value.param == said.partition(":")[0]


@pytest.mark.parametrize(("given", "skips"), [({}, False), ("reject", False), ("refuse", False), ("skip", True)])
def test_unknown_characters_are_named_as_in_the_sdk_and_as_before(given: Any, skips: bool) -> None:
    content = json.dumps({"unknown_characters": given} if given else {}).encode()
    assert parsed_json(content, ReadingBody)[0].skip_unknown is skips


importlib.import_module("charloom.server.http.routes")  # and with it the forms of all bodies


def forms(form: type[Body]) -> Iterator[type[Body]]:
    """Those made of one."""
    for made in form.__subclasses__():
        yield made
        yield from forms(made)


FORMS = list(dict.fromkeys(forms(Body)))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_million_wrong_items_are_not_a_million_errors(form: type[Body]) -> None:
    schema = form.model_json_schema()
    for name, field in schema["properties"].items():
        for kind in field.get("anyOf", [field]):
            wrong: Any = [[None]] * 2000 if kind.get("type") == "array" else {str(number): [] for number in range(2000)}
            assert errors_of(form, {name: wrong}) < 10, name


def errors_of(form: type[Body], value: Any) -> int:
    try:
        form.model_validate(value)
    except ValidationError as problem:
        return problem.error_count()
    return 0


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_list_of_objects_has_a_bound(form: type[Body]) -> None:
    """Each takes Python's time to look at."""
    for name, field in form.model_json_schema()["properties"].items():
        for kind in field.get("anyOf", [field]):
            if "$ref" in kind.get("items", ()):
                assert kind["maxItems"] <= MOST_MESSAGES, name


def test_the_parts_of_all_messages_are_bounded_together() -> None:
    half = {"role": "user", "content": [{"type": "text", "text": ""}] * (MOST_MESSAGES // 2 - 1)}
    parsed_json(json.dumps({"messages": [half, half]}).encode(), ChatBody)
    for messages in ([half, half, {"role": "user", "content": ""}], [{"role": "user"}] * (MOST_MESSAGES + 1)):
        with pytest.raises(Refused) as refused:
            parsed_json(json.dumps({"messages": messages}).encode(), ChatBody)
        assert (refused.value.param, str(refused.value)) == (
            "messages",
            f"messages: they and their parts are {MOST_MESSAGES + 1}; give up to {MOST_MESSAGES}",
        )


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt": "\xed\xa0\x80"}',
        b'{"\xed\xa0\x80": 1}',
        b'{"prompt": "\\ud800"}',
        '{"prompt": "a"}'.encode("utf-16"),
        '{"prompt": "a"}'.encode("utf-32-le"),
        b'{"prompt": "\xc0\x80"}',
    ],
)
def test_what_is_no_utf_8_is_refused(content: bytes) -> None:
    with pytest.raises(Refused, match="the body is not JSON: ") as refused:
        parsed_json(content, CompletionBody)
    assert (refused.value.status, refused.value.reason) == (400, "NOT_JSON")


def test_utf_8_may_begin_with_its_mark() -> None:
    body, unknown = parsed_json('{"prompt": "\U0001f600"}'.encode("utf-8-sig"), CompletionBody)
    assert (body.prompt, unknown) == (["\U0001f600"], [])


def test_a_schema_at_the_interpreters_limit_is_nested_too_deeply() -> None:
    said = set()
    for depth in range(100, 1100):
        schema = '{"a":' * depth + "1" + "}" * depth
        try:
            parsed_json(f'{{"json_schema":{schema}}}'.encode(), CompletionBody)
        except Refused as refused:
            said.add(str(refused))
    assert said == {"json_schema: it is nested too deeply", "the body is nested too deeply"}
