"""JSON schemas as automata: any way through one is JSON that an independent validator accepts."""

from __future__ import annotations

import functools
import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charloom.engine.constraints.automata import automaton_of, is_plain
from charloom.engine.constraints.constraint import BadConstraint
from charloom.engine.constraints.json_schema import DEEPEST, regex_of_any_object, regex_of_schema
from charloom.engine.decoding.automaton import Automaton

SYMBOLS = [chr(point).encode() for point in [0x0A, *range(0x20, 0x7F), 0xE9, 0x201C, 0x201D, 0x4E00]]
NAMES = ["a", "b c", 'q"q', "é", "back\\slash"]
VALUES: list[Any] = [None, True, False, 0, -3, 2.5, "", "x", 'say "no"', "tab\t", [1, []], {"k": [None]}]

LEAVES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "number"}, {"type": ["integer", "null"]}]),
    st.tuples(st.integers(0, 2), st.integers(0, 3)).map(
        lambda two: {"type": "string", "minLength": two[0], "maxLength": two[0] + two[1]}
    ),
    st.sampled_from(["uuid", "date", "time", "date-time"]).map(lambda name: {"type": "string", "format": name}),
    st.sampled_from(["^[a-z]{2}$", "^(no|yes)[0-9]*$", "^$", "^“[a-z]*”$"]).map(
        lambda one: {"type": "string", "pattern": one}
    ),
    st.tuples(st.integers(-30, 30), st.integers(0, 40)).map(
        lambda two: {"type": "integer", "minimum": two[0], "exclusiveMaximum": two[0] + two[1] + 1}
    ),
    st.lists(st.sampled_from(VALUES), min_size=1, max_size=4).map(lambda values: {"enum": values}),
    st.sampled_from(VALUES).map(lambda value: {"const": value}),
)


def _object(parts: list[dict[str, Any]], required: int) -> dict[str, Any]:
    properties = dict(zip(NAMES, parts, strict=False))
    needed = [name for number, name in enumerate(properties) if required >> number & 1]
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


def _tuple(first: list[dict[str, Any]], more: dict[str, Any] | bool, fewest: int, most: int) -> dict[str, Any]:
    return {"type": "array", "prefixItems": first, "items": more, "minItems": fewest, "maxItems": fewest + most}


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
        st.builds(_object, st.lists(inner, max_size=4), st.integers(0, 15)),
        st.builds(_tuple, st.lists(inner, min_size=1, max_size=2), inner, st.integers(0, 2), st.integers(0, 2)),
        st.builds(lambda one, low: {"type": "array", "items": one, "minItems": low}, inner, st.integers(0, 3)),
    ),
    max_leaves=5,
)
LONGEST = 400


def made(schema: object) -> Automaton:
    return automaton_of(regex_of_schema(json.dumps(schema), is_plain), SYMBOLS, bytewise=False)


def text_of(automaton: Automaton, draw: random.Random) -> str:
    """A way through an automaton, which turns to the nearest end where it becomes long."""
    state, tokens = 0, [0] * 0
    while automaton.distance[state] or draw.random() < 0.8:
        ways = np.flatnonzero(automaton.next[state] >= 0)
        if len(tokens) > LONGEST:
            nearer = automaton.distance[automaton.next[state][ways]] < max(1, automaton.distance[state])
            ways = ways[nearer]
        if not len(ways):
            break
        tokens.append(draw.choice(ways.tolist()))
        state = int(automaton.next[state, tokens[-1]])
    assert not automaton.distance[state]
    return b"".join(SYMBOLS[token] for token in tokens).decode()


@settings(max_examples=150, deadline=None)
@given(SCHEMAS, st.randoms(use_true_random=False))
def test_a_text_of_any_schema_is_json_that_it_allows(schema: dict[str, Any], draw: random.Random) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
    automaton = made(schema)
    for _ in range(10):
        validator.validate(json.loads(text_of(automaton, draw)))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([value for value in VALUES if value != "tab\t"]), st.lists(st.sampled_from(VALUES), max_size=3))
def test_every_value_of_an_enumeration_is_allowed_as_json_writes_it(value: Any, others: list[Any]) -> None:
    automaton = made({"enum": [*others, value]})
    written = json.dumps(value, ensure_ascii=False)
    state = automaton.after([SYMBOLS.index(character.encode()) for character in written])
    assert state is not None
    assert automaton.distance[state] == 0


def longest_text(automaton: Automaton) -> int:
    """Of an automaton without circles, in tokens.

    Raises:
        RecursionError: it goes round.
    """

    @functools.cache
    def longest(state: int) -> int:
        after = {int(one) for one in automaton.next[state] if one >= 0}
        return max((1 + longest(one) for one in after), default=0)

    return longest(0)


def test_white_space_has_an_end() -> None:
    """At most one space, after a colon or a comma: a model that likes spaces cannot fill its text with them."""
    truth = {"type": "boolean"}
    schema = {"type": "object", "properties": {"a": truth, "b": {"type": "array", "prefixItems": [truth, truth]}}}
    automaton = made(schema | {"required": ["a", "b"]})
    assert longest_text(automaton) == len('{"a": false, "b": [false, false]}')
    draw = random.Random(1)
    assert not any("  " in text_of(automaton, draw) or "\n" in text_of(automaton, draw) for _ in range(200))
    with pytest.raises(RecursionError):
        longest_text(made({"type": "string"}))


def test_any_object_is_one_and_is_not_nested_deeply() -> None:
    automaton = automaton_of(regex_of_any_object(), SYMBOLS, bytewise=False)
    draw = random.Random(2)
    found = [json.loads(text_of(automaton, draw)) for _ in range(300)]
    assert all(isinstance(one, dict) for one in found)
    assert max(map(depth, found)) <= DEEPEST
    for text in ("{}", '{"a": [1, {"b": "c"}], "d": -2.5}', '{"a":{"b":{"c":null}}}'):
        state = automaton.after([SYMBOLS.index(character.encode()) for character in text])
        assert state is not None
        assert automaton.distance[state] == 0
    assert automaton.after([SYMBOLS.index(one.encode()) for one in '{"a":{"b":{"c":{']) is None


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (True, "#: a schema that says what is allowed is an object"),
        ({}, "#: anything would be allowed here"),
        ({"type": "object", "properties": {"a": {}}}, "#/properties/a: anything would be allowed here"),
        ({"allOf": [{"type": "null"}]}, "#: allOf is not kept; write its parts as one"),
        ({"type": "array"}, "#: anything would be allowed in this array"),
        ({"type": "array", "items": {"type": "null"}, "uniqueItems": True}, "#: uniqueItems is not kept"),
        ({"$ref": "https://example.com/a"}, "#: only references into the schema itself"),
        ({"$ref": "#"}, "#: # contains itself"),
        ({"$ref": "#/$defs/b"}, "#: there is no #/\\$defs/b"),
        ({"type": "string", "format": "email"}, "#/format: of formats"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "#/maxLength: it is less than minLength"),
        ({"type": "string", "pattern": "^“[^”]*”$"}, "#/pattern: it allows quotation marks"),
        ({"type": "string", "pattern": "^é\n?$"}, "#/pattern: it allows quotation marks, backslashes or control"),
        ({"type": ["integer", "number"], "minimum": 0}, "#: minimum is not kept"),
        ({"type": "array", "items": 0, "maxItems": 1}, "#/items: a schema that says what is allowed is an object"),
        ({"type": "integer", "minimum": 5}, "#: a lowest number other than 0 needs a highest one"),
        ({"type": "object", "properties": {}, "required": ["a"]}, '#/required: "a" is none of its properties'),
        ({"enum": []}, "#/enum: it is to be a list"),
        ({"type": "object", "properties": {}, "required": [["a"]]}, r'#/required: \["a"\] is none of its properties'),
        ({"type": "string", "format": ["date"]}, "#/format: of formats"),
        ({"type": "string", "maxLength": 10**400}, "it is nested too deeply, or repeats too often"),
        ({"type": "integer", "exclusiveMinimum": 10**4000 - 1}, "a lowest number other than 0 needs a highest one"),
        ({"type": "null", "\ud800" * 900: 1}, r"^#: (\\ud800){66}\\ud8\.\.\.$"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_its_place(schema: object, message: str) -> None:
    with pytest.raises(BadConstraint, match=message):
        made(schema)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"const": ' + "1" * 5000 + "}", "it has a number of 5000 digits; up to 4000 are allowed"),
        ('{"enum": [1, -1e999]}', "'-1e999' is too large for a number"),
        ('{"const": NaN}', "NaN is no JSON"),
        ('{"enum": [1, -Infinity]}', "-Infinity is no JSON"),
    ],
)
def test_a_number_that_python_cannot_write_as_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadConstraint, match=f"^{message}"):
        regex_of_schema(text, is_plain)


def test_a_whole_number_may_have_many_digits() -> None:
    long, longest = "1" + "0" * 400, "9" * 4000
    automaton = made({"type": "integer", "enum": [int(long)]})
    assert text_of(automaton, random.Random(1)) == long
    assert regex_of_schema(f'{{"minimum": {longest}, "maximum": {longest}, "type": "integer"}}', is_plain) == (
        f"(?:(?:{longest}))"
    )


def test_a_schema_that_is_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(300):
        schema = {"type": "array", "items": schema, "maxItems": 1}
    with pytest.raises(BadConstraint, match=r"nested too deeply|too large"):
        made(schema)
