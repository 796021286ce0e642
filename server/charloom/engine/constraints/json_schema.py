"""Translates a JSON schema to a regular expression that matches only JSON that the schema allows.

Unsupported keywords are refused with their name and place, never ignored. White space is limited: one space may follow
a colon or a comma. Properties come in the order of the schema, and there are no others than those that it names.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from charloom.engine.constraints.constraint import BadConstraint
from charloom.engine.constraints.regex_syntax import without_anchors
from charloom.engine.errors import shown

LONGEST_REGEX = 2**20
"""Characters of the expression; references can make a short schema a long expression."""
LONGEST_NUMBER = 4_000
"""Digits of a whole number; Python refuses to print one of more than 4,300."""
MOST_NUMBERS = 10_000
"""Most whole numbers between two bounds."""

_CHARACTER = r'(?:[^"\\\x00-\x1f\x7f-\x9f]|\\["\\/bfnrt])'
_INTEGER = "(?:0|[1-9][0-9]*)"
_NUMBER = rf"-?{_INTEGER}(?:\.[0-9]+)?"
_FORMATS = {
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "date": "[1-9][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])",
    "time": "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z",
}
_FORMATS["date-time"] = f"{_FORMATS['date']}T{_FORMATS['time']}"
_NOTES = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
_NOTES |= {"$schema", "$id", "$comment", "$defs", "definitions"}
"""Keywords that do not restrict the values."""
_KEYWORDS: dict[str, set[str]] = {
    "string": {"minLength", "maxLength", "pattern", "format"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": set(),
    "boolean": set(),
    "null": set(),
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}
Plain = Callable[[str], bool]
"""Whether no text that matches a pattern has a quotation mark, a backslash or a control character."""


def regex_of_schema(text: str, is_plain: Plain) -> str:
    """Translate a schema to a regular expression.

    Args:
        text: the schema, as JSON
        is_plain: checks a `pattern`

    Raises:
        BadConstraint: it is no schema, or has something unsupported.
    """
    try:
        schema = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_no_number)
        return _Schema(schema, is_plain).regex(schema, "#", ())
    except json.JSONDecodeError as problem:
        raise BadConstraint(f"it is no JSON: {problem.msg}", f"character {problem.pos}") from problem
    except RecursionError as problem:
        raise BadConstraint("it is nested too deeply") from problem


DEEPEST = 3
"""Depth of nested objects and arrays, if there is no schema."""


def regex_of_any_object() -> str:
    """The regular expression for any JSON object, nested up to `DEEPEST` levels."""
    value = inner = _any([f'"{_CHARACTER}*"', _NUMBER, "true", "false", "null"])
    for _ in range(DEEPEST):
        pair = f'"{_CHARACTER}*": ?{inner}'
        made = rf"\{{(?:{pair}(?:, ?{pair})*)?\}}"
        inner = _any([value, made, rf"\[(?:{inner}(?:, ?{inner})*)?\]"])
    return made


class _Schema:
    def __init__(self, root: Any, is_plain: Plain) -> None:
        self._root, self._is_plain = root, is_plain

    def regex(self, schema: Any, where: str, within: tuple[str, ...]) -> str:
        """Translate a part of the schema.

        Args:
            schema: the part
            where: its JSON pointer
            within: the references that led here
        """
        if not isinstance(schema, Mapping):
            raise BadConstraint("a schema that says what is allowed is an object", where)
        rules = {name: value for name, value in schema.items() if name not in _NOTES}
        if "$ref" in rules:
            made = self._reference(rules, where, within)
        elif "anyOf" in rules:
            self._alone("anyOf", rules, where)
            options = self._list(rules, "anyOf", where)
            made = _any(self.regex(one, f"{where}/anyOf/{i}", within) for i, one in enumerate(options))
        elif "enum" in rules or "const" in rules:
            made = self._values(rules, where)
        else:
            made = self._typed(rules, where, within)
        if len(made) > LONGEST_REGEX:
            raise BadConstraint("all its references together make it too large", where)
        return made

    def _reference(self, rules: Mapping[str, Any], where: str, within: tuple[str, ...]) -> str:
        self._alone("$ref", rules, where)
        target = rules["$ref"]
        if not isinstance(target, str) or not re.match(r"#(/|$)", target):
            raise BadConstraint('only references into the schema itself are followed: "#/$defs/..."', where)
        if target in within or target == "#":
            raise BadConstraint(f"{target} contains itself; nest it as deeply as it is to be", where)
        part = self._root
        for name in target.split("/")[1:]:
            key = name.replace("~1", "/").replace("~0", "~")
            if not isinstance(part, Mapping) or key not in part:
                raise BadConstraint(f"there is no {target}", where)
            part = part[key]
        return self.regex(part, target, (*within, target))

    def _values(self, rules: Mapping[str, Any], where: str) -> str:
        name = "enum" if "enum" in rules else "const"
        self._alone(name, {key: value for key, value in rules.items() if key != "type"}, where)
        values = self._list(rules, "enum", where) if name == "enum" else [rules["const"]]
        for value in values:
            if "type" in rules and not any(_is(value, kind) for kind in self._types(rules, where)):
                raise BadConstraint(f"{json.dumps(value)} is not of its type", f"{where}/{name}")
        return _any(re.escape(json.dumps(value, ensure_ascii=False)) for value in values)

    def _typed(self, rules: Mapping[str, Any], where: str, within: tuple[str, ...]) -> str:
        if "type" not in rules:
            known = {"oneOf": "use anyOf", "allOf": "write its parts as one"}
            advice = next((f"{key} is not kept; {words}" for key, words in known.items() if key in rules), "")
            raise BadConstraint(advice or "anything would be allowed here; give it a type", where)
        types = self._types(rules, where)
        kept = {"type"}.union(*(_KEYWORDS[one] for one in types))
        if "number" in types:
            kept -= _KEYWORDS["integer"]  # bounds would apply to the other numbers too, where they are not supported
        if unknown := sorted(rules.keys() - kept):
            raise BadConstraint(f"{unknown[0]} is not kept; leave it out", where)
        return _any(self._of_type(one, rules, where, within) for one in types)

    def _of_type(self, kind: str, rules: Mapping[str, Any], where: str, within: tuple[str, ...]) -> str:
        if kind == "string":
            return f'"{self._string(rules, where)}"'
        if kind == "integer":
            return self._integer(rules, where)
        if kind == "array":
            return rf"\[{self._items(rules, where, within)}\]"
        if kind == "object":
            return rf"\{{{self._properties(rules, where, within)}\}}"
        return {"number": _NUMBER, "boolean": "true|false", "null": "null"}[kind]

    def _string(self, rules: Mapping[str, Any], where: str) -> str:
        lengths = {"minLength", "maxLength"} & rules.keys()
        given = [*(("length",) if lengths else ()), *({"pattern", "format"} & rules.keys())]
        if len(given) > 1:
            raise BadConstraint(f"{' and '.join(sorted(given))} are not kept together", where)
        if "format" in rules:
            name = rules["format"]
            if not isinstance(name, str) or name not in _FORMATS:
                raise BadConstraint(f"of formats, {', '.join(_FORMATS)} are kept; use a pattern", f"{where}/format")
            return _FORMATS[name]
        if "pattern" in rules:
            return self._pattern(rules["pattern"], f"{where}/pattern")
        return f"{_CHARACTER}{self._bounds(rules, 'minLength', 'maxLength', where)}"

    def _pattern(self, pattern: Any, where: str) -> str:
        if not isinstance(pattern, str) or not (pattern.startswith("^") and pattern.endswith("$")):
            raise BadConstraint("a pattern is to begin with ^ and to end with $", where)
        try:
            whole = f"(?:{without_anchors(pattern)})"
            plain = self._is_plain(whole)
        except BadConstraint as problem:
            raise BadConstraint(str(problem), where) from problem
        if not plain:
            raise BadConstraint(
                "it allows quotation marks, backslashes or control characters, which stand otherwise in JSON; "
                "name the characters that it may have",
                where,
            )
        return whole

    def _integer(self, rules: Mapping[str, Any], where: str) -> str:
        def bounds(name: str, exclusive: str, step: int) -> list[int]:
            found = self._bound(rules, name, where), self._bound(rules, exclusive, where)
            return [value + past for value, past in zip(found, (0, step), strict=True) if value is not None]

        lowest = max(bounds("minimum", "exclusiveMinimum", 1), default=None)
        highest = min(bounds("maximum", "exclusiveMaximum", -1), default=None)
        if highest is None:
            if lowest not in (None, 0):
                raise BadConstraint("a lowest number other than 0 needs a highest one", where)
            return _INTEGER if lowest == 0 else f"-?{_INTEGER}"
        if lowest is None or not 0 <= highest - lowest < MOST_NUMBERS:
            raise BadConstraint(f"a highest number needs a lowest one, with up to {MOST_NUMBERS} numbers", where)
        return _any(str(number) for number in range(lowest, highest + 1))

    def _items(self, rules: Mapping[str, Any], where: str, within: tuple[str, ...]) -> str:
        first = self._list(rules, "prefixItems", where) if "prefixItems" in rules else []
        made = [self.regex(one, f"{where}/prefixItems/{i}", within) for i, one in enumerate(first)]
        fewest, most = self._count(rules, "minItems", where) or 0, self._count(rules, "maxItems", where)
        more = rules.get("items", None)
        if more is None and most is None and not first:
            raise BadConstraint("anything would be allowed in this array; give it items", where)
        if more is None or more is False:
            most = len(first) if most is None else min(most, len(first))
        if fewest > (most if most is not None else fewest):
            raise BadConstraint("no array has so many items", f"{where}/minItems")
        if most is not None and len(first) > most:
            made = made[:most]
        result = ""
        if more is not None and more is not False and (most is None or most > len(made)):
            one = f"(?:{self.regex(more, f'{where}/items', within)})"
            low = max(0, fewest - len(made))
            high = "" if most is None else str(most - len(made))
            if made:
                result = f"(?:, ?{one}){{{low},{high}}}"
            else:
                rest = f"{one}(?:, ?{one}){{{max(0, low - 1)},{'' if high == '' else int(high) - 1}}}"
                result = rest if low else f"(?:{rest})?"
        for place in range(len(made) - 1, -1, -1):
            result = f"{', ?' if place else ''}(?:{made[place]}){result}"
            if place >= fewest:
                result = f"(?:{result})?"
        return result

    def _properties(self, rules: Mapping[str, Any], where: str, within: tuple[str, ...]) -> str:
        properties = rules.get("properties", {})
        if not isinstance(properties, Mapping):
            raise BadConstraint("it is to be an object", f"{where}/properties")
        if not isinstance(rules.get("additionalProperties", False), bool):
            raise BadConstraint("properties that are not named are not kept", f"{where}/additionalProperties")
        required = self._list(rules, "required", where) if "required" in rules else []
        if missing := [name for name in required if not isinstance(name, str) or name not in properties]:
            raise BadConstraint(f"{json.dumps(missing[0])} is none of its properties", f"{where}/required")
        pairs = []
        for name, part in properties.items():
            pointer = f"{where}/properties/{name.replace('~', '~0').replace('/', '~1')}"
            key = re.escape(json.dumps(name, ensure_ascii=False))
            pairs.append((f"{key}: ?(?:{self.regex(part, pointer, within)})", name in required))
        # From the last property back: `after` matches the rest if a property comes before it, `first` if none does.
        after, first = "", ""
        for pair, needed in reversed(pairs):
            first = f"{pair}{after}" if needed else _any([f"{pair}{after}", first])
            after = f", ?{pair}{after}" if needed else f"(?:, ?{pair})?{after}"
        return first

    def _alone(self, name: str, rules: Mapping[str, Any], where: str) -> None:
        if others := sorted(rules.keys() - {name}):
            raise BadConstraint(f"{others[0]} beside {name} is not kept; leave one of them out", where)

    def _types(self, rules: Mapping[str, Any], where: str) -> Sequence[str]:
        types = rules["type"] if isinstance(rules["type"], list) else [rules["type"]]
        for one in types:
            if not isinstance(one, str) or one not in _KEYWORDS:
                raise BadConstraint(f"{json.dumps(one)} is no type", f"{where}/type")
        if not types:
            raise BadConstraint("nothing is allowed here", f"{where}/type")
        return types

    def _list(self, rules: Mapping[str, Any], name: str, where: str) -> Sequence[Any]:
        if not isinstance(rules[name], list) or not (rules[name] or name in ("required", "prefixItems")):
            raise BadConstraint("it is to be a list", f"{where}/{name}")
        values: Sequence[Any] = rules[name]
        return values

    def _bounds(self, rules: Mapping[str, Any], low: str, high: str, where: str) -> str:
        lowest, highest = self._count(rules, low, where) or 0, self._count(rules, high, where)
        if highest is not None and highest < lowest:
            raise BadConstraint(f"it is less than {low}", f"{where}/{high}")
        return f"{{{lowest},{'' if highest is None else highest}}}"

    def _count(self, rules: Mapping[str, Any], name: str, where: str) -> int | None:
        value = self._bound(rules, name, where)
        if value is not None and value < 0:
            raise BadConstraint("it is to be 0 or more", f"{where}/{name}")
        return value

    def _bound(self, rules: Mapping[str, Any], name: str, where: str) -> int | None:
        value = rules.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise BadConstraint("it is to be a whole number", f"{where}/{name}")
        return value


def _any(options: Any) -> str:
    """The expression that matches any of these."""
    return "(?:" + "|".join(options) + ")"


def _is(value: Any, kind: str) -> bool:
    types: dict[str, Any] = {"string": str, "boolean": bool, "null": type(None), "array": list, "object": dict}
    if kind in types:
        return isinstance(value, types[kind])
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return kind == "number" or isinstance(value, int) or value.is_integer()


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise BadConstraint(f"it has a number of {len(digits)} digits; up to {LONGEST_NUMBER} are allowed")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise BadConstraint(f"{shown(digits)} is too large for a number with a point or an exponent")
    return value


def _no_number(name: str) -> Any:
    raise BadConstraint(f"{name} is no JSON; leave it out")
