"""The constraint that a body asks for, by the field names of the SDK, of vLLM, or of OpenAI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from charloom.engine.constraints.constraint import Constraint, Kind
from charloom.engine.constraints.json_schema import regex_of_any_object
from charloom.engine.errors import InvalidRequest
from charloom.server.http.bodies import Body, Items


def _json_of(schema: Any) -> str:
    if isinstance(schema, str):
        return schema
    if isinstance(schema, dict):
        try:
            return json.dumps(schema, ensure_ascii=False)
        except RecursionError:  # it was read where the interpreter had room for one more
            raise ValueError("it is nested too deeply") from None
    raise ValueError("it is no object; give {...}, or a string of JSON")


JsonSchema = Annotated[str, PlainValidator(_json_of, json_schema_input_type=dict[str, Any] | str)]
"""A schema as JSON; in a body it is an object, or JSON in a string."""
NO_GRAMMAR = "grammars are not kept; write a regular expression, or a JSON schema"


class StructuredOutputs(Body):
    """The constraint in vLLM's form: one of these fields."""

    json_: JsonSchema | None = Field(None, alias="json", description="a JSON schema")
    regex: str | None = Field(None, description="a regular expression in the syntax of Python's `re`")
    choice: Items[str] | None = Field(None, description="one of these texts")
    json_object: bool = Field(False, description="any JSON object, nested up to three deep")
    grammar: str | None = Field(None, description="refused: it may need more than a finite automaton")


class NamedSchema(Body):
    """A JSON schema in OpenAI's form."""

    name: str = Field("", description="taken, as others take it, and not used")
    description: str = Field("", description="likewise")
    strict: bool = Field(True, description="likewise: the text always is what the schema allows")
    schema_: JsonSchema = Field(alias="schema")


class ResponseFormat(Body):
    """The format of the text in OpenAI's form."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class MatchingBody(Body):
    """The constraint by the SDK's field names; at most one of them may be set."""

    regex: str | None = Field(None, description="a regular expression in the syntax of Python's `re`")
    choices: Items[str] | None = Field(None, description="texts, of which the whole text is one")
    json_schema: JsonSchema | None = Field(None, description="a JSON schema")

    def constraints(self) -> Iterator[Constraint]:
        """All constraints that the body asks for, each under the name of its field.

        Raises:
            InvalidRequest: one of them cannot be satisfied.
        """
        if self.json_schema is not None:
            yield Constraint(Kind.JSON_SCHEMA, (self.json_schema,), "json_schema")
        if self.regex is not None:
            yield Constraint(Kind.REGEX, (self.regex,), "regex")
        if self.choices is not None:
            yield Constraint(Kind.CHOICES, tuple(self.choices), "choices")


class ConstrainedBody(MatchingBody):
    """The constraint by the field names of the SDK, vLLM and OpenAI."""

    structured_outputs: StructuredOutputs | None = Field(None, description="what the whole text is to match")
    guided_json: JsonSchema | None = Field(None, description="`structured_outputs.json` under its older name")
    guided_regex: str | None = Field(None, description="`structured_outputs.regex` under its older name")
    guided_choice: Items[str] | None = Field(None, description="`structured_outputs.choice` under its older name")
    guided_grammar: str | None = Field(None, description="refused, as `structured_outputs.grammar` is")
    response_format: ResponseFormat | None = Field(None, description="text, JSON, or JSON that a schema allows")
    resample: bool = Field(False, description="with `n`: whether the texts are resampled by what was left of each")

    def constraints(self) -> Iterator[Constraint]:
        """As of `MatchingBody`."""
        yield from super().constraints()
        outputs = self.structured_outputs or StructuredOutputs()
        for prefix, schema, regex, choice, grammar in (
            ("structured_outputs.", outputs.json_, outputs.regex, outputs.choice, outputs.grammar),
            ("guided_", self.guided_json, self.guided_regex, self.guided_choice, self.guided_grammar),
        ):
            if grammar is not None:
                raise InvalidRequest(f"{prefix}grammar", NO_GRAMMAR)
            if schema is not None:
                yield Constraint(Kind.JSON_SCHEMA, (schema,), f"{prefix}json")
            if regex is not None:
                yield Constraint(Kind.REGEX, (regex,), f"{prefix}regex")
            if choice is not None:
                yield Constraint(Kind.CHOICES, tuple(choice), f"{prefix}choice")
        if outputs.json_object:
            yield Constraint(Kind.REGEX, (regex_of_any_object(),), "structured_outputs.json_object")
        answer = self.response_format
        if answer is not None and answer.type == "json_object":
            yield Constraint(Kind.REGEX, (regex_of_any_object(),), "response_format")
        if answer is not None and answer.type == "json_schema":
            if answer.json_schema is None:
                raise InvalidRequest(
                    "response_format.json_schema", "the type json_schema needs a schema; give one here"
                )
            yield Constraint(Kind.JSON_SCHEMA, (answer.json_schema.schema_,), "response_format.json_schema.schema")


def constraint_of(body: MatchingBody) -> Constraint | None:
    """The constraint of a body; None without one.

    Raises:
        InvalidRequest: there is more than one, or it cannot be satisfied.
    """
    found = [*body.constraints()]
    if len(found) > 1:
        raise InvalidRequest(found[1].field, f"{found[0].field} says already what the text is to match; leave one out")
    return found[0] if found else None
