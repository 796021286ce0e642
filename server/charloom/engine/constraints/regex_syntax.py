"""Refuses unsupported syntax of regular expressions, with its place.

Look-around, back-references and the like are not supported, because a finite automaton can neither look ahead nor
compare with earlier text.
"""

from __future__ import annotations

from charloom.engine.constraints.constraint import BadConstraint

_GROUPS = {
    "?=": "look-ahead",
    "?!": "look-ahead",
    "?<=": "look-behind",
    "?<!": "look-behind",
    "?P=": "a back-reference",
    "?>": "an atomic group",
    "?(": "a condition",
}
_ESCAPES = dict.fromkeys("bB", "a word boundary") | dict.fromkeys("AZ", "an anchor")
_ESCAPES |= dict.fromkeys("123456789", "a back-reference")
_ANCHOR = "the whole text has to match anyway; leave it out"


def without_anchors(pattern: str) -> str:
    """Check a pattern, and remove its ^ and $, which are redundant because the whole text has to match.

    Raises:
        BadConstraint: it has something that no automaton can do, or an unbalanced bracket.
    """
    begin = pattern.startswith("^")
    end = len(pattern) - 1 if _ends_with_dollar(pattern) else len(pattern)
    groups: list[int] = []
    opened = -1
    """Start of the character class that contains the present place; -1: none does."""
    at = int(begin)
    while at < end:
        character, step = pattern[at], 1
        if character == "\\":
            step = 2
            if opened < 0 and (found := _ESCAPES.get(pattern[at + 1 : at + 2])):
                raise _unsupported(found, at)
        elif opened >= 0:
            if character == "]":
                opened = -1
        elif character == "[":
            opened = at
            step = _class_opening(pattern, at)
        elif character == "(":
            if found := next((words for sign, words in _GROUPS.items() if pattern.startswith(sign, at + 1)), ""):
                raise _unsupported(found, at)
            groups.append(at)
        elif character == ")":
            if not groups:
                raise BadConstraint("this ) closes no group", f"character {at}")
            groups.pop()
        elif character in "^$":
            raise BadConstraint(f"{character} stands inside; {_ANCHOR}", f"character {at}")
        at += step
    if opened >= 0 or groups:
        opened = opened if opened >= 0 else groups[-1]
        raise BadConstraint(f"this {pattern[opened]} is not closed", f"character {opened}")
    return pattern[int(begin) : end]


def _unsupported(found: str, at: int) -> BadConstraint:
    words = _ANCHOR if found == "an anchor" else "write it without"
    return BadConstraint(f"{found} cannot be kept while a text is generated; {words}", f"character {at}")


def _ends_with_dollar(pattern: str) -> bool:
    """Whether its last character is an anchor."""
    before = pattern[:-1]
    return pattern.endswith("$") and (len(before) - len(before.rstrip("\\"))) % 2 == 0


def _class_opening(pattern: str, at: int) -> int:
    """Length of the opening of the character class at this place: [, ^ and a first ], which is a member."""
    size = 2 if pattern.startswith("^", at + 1) else 1
    return size + 1 if pattern.startswith("]", at + size) else size
