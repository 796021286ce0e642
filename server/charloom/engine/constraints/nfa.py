"""Translates a regular expression to a nondeterministic automaton over sets of characters (Thompson, 1968, "Regular
expression search algorithm").

The syntax is that of Python's `re`, parsed by its own parser. Look-around and back-references are not supported,
because a finite automaton can neither look ahead nor compare with earlier text.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable
from typing import Any

from charloom.engine.constraints.characters import CharacterSet
from charloom.engine.constraints.constraint import BadConstraint
from charloom.engine.constraints.regex_syntax import without_anchors

if sys.version_info >= (3, 11):
    from re import _constants as ops  # type: ignore[attr-defined]
    from re import _parser as parser  # type: ignore[attr-defined]
else:
    import sre_constants as ops
    import sre_parse as parser

_ALPHABETS = re.ASCII | re.UNICODE
MOST_NODES = 200_000
"""Most nodes of an automaton; each repetition adds a copy of its nodes."""


class Nfa:
    """The automaton of an expression. Node 0 is the start; a node has empty transitions, or one that reads a character.

    Args:
        pattern: the expression, which has to match as a whole

    Raises:
        BadConstraint: it is no regular expression, too large, or has something that no automaton can do.
    """

    def __init__(self, pattern: str) -> None:
        pattern = without_anchors(pattern)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # refuses syntax that may change its meaning
                re.compile(pattern)  # refuses what the parser alone accepts
                parsed = parser.parse(pattern)
        except re.error as problem:
            raise BadConstraint(problem.msg, "" if problem.pos is None else f"character {problem.pos}") from problem
        except (FutureWarning, DeprecationWarning) as problem:
            raise BadConstraint(f"{problem}; escape what is meant as it is") from problem
        except (OverflowError, RecursionError) as problem:
            raise BadConstraint("it is nested too deeply, or repeats too often") from problem
        except ValueError as problem:  # `int` of thousands of digits; flags such as those of (?a)(?u)
            raise BadConstraint("it repeats too often, or its flags exclude each other") from problem
        self.sets: dict[CharacterSet, int] = {}
        """The numbers of the character sets."""
        self.free: list[list[int]] = []
        """By node, the targets of its empty transitions."""
        self.reading: list[tuple[int, int] | None] = []
        """By node, the transition that reads: the number of a set, and the target."""
        self.end = self._sequence(parsed, self._node(), parsed.state.flags)

    def closure(self, nodes: Iterable[int]) -> frozenset[int]:
        """The nodes reachable by empty transitions: only those that read, and the end."""
        seen, waiting = set(nodes), list(nodes)
        while waiting:
            for node in self.free[waiting.pop()]:
                if node not in seen:
                    seen.add(node)
                    waiting.append(node)
        return frozenset(node for node in seen if self.reading[node] is not None or node == self.end)

    def _node(self, *before: int) -> int:
        """Add a node with empty transitions from the nodes `before`; returns it."""
        if len(self.free) == MOST_NODES:
            raise BadConstraint("its repetitions make it too large; lower their counts")
        self.free.append([])
        self.reading.append(None)
        new = len(self.free) - 1
        for node in before:
            self.free[node].append(new)
        return new

    def _sequence(self, items: Iterable[tuple[Any, Any]], at: int, flags: int) -> int:
        """Add some items, one after another, from node `at` on; returns the node after them."""
        for kind, value in items:
            at = self._item(kind, value, at, flags)
        return at

    def _item(self, kind: Any, value: Any, at: int, flags: int) -> int:
        if kind is ops.LITERAL:
            return self._read((kind, value), at=at, flags=flags)
        if kind is ops.NOT_LITERAL:
            return self._read((ops.NEGATE, None), (ops.LITERAL, value), at=at, flags=flags)
        if kind is ops.IN:
            return self._read(*value, at=at, flags=flags)
        if kind is ops.ANY:
            newline = () if flags & re.DOTALL else ((ops.LITERAL, ord("\n")),)
            return self._read((ops.NEGATE, None), *newline, at=at, flags=flags)
        if kind is ops.SUBPATTERN:
            _, added, removed, items = value
            if added & _ALPHABETS:  # ASCII and UNICODE replace each other
                flags &= ~_ALPHABETS
            return self._sequence(items, at, (flags | added) & ~removed)
        if kind is ops.BRANCH:
            return self._node(*[self._sequence(items, self._node(at), flags) for items in value[1]])
        if kind in (ops.MAX_REPEAT, ops.MIN_REPEAT):
            return self._repeated(*value, at=at, flags=flags)
        raise BadConstraint(f"{str(kind).lower().replace('_', ' ')} cannot be kept while a text is generated")

    def _repeated(self, fewest: int, most: Any, items: Any, *, at: int, flags: int) -> int:
        for _ in range(fewest):
            at = self._sequence(items, at, flags)
        if most is ops.MAXREPEAT:
            loop = self._node(at)
            self.free[self._sequence(items, loop, flags)].append(loop)
            return self._node(loop)
        ways = [at]
        for _ in range(most - fewest):
            at = self._sequence(items, self._node(at), flags)
            ways.append(at)
        return self._node(*ways)

    def _read(self, *members: Any, at: int, flags: int) -> int:
        characters = CharacterSet(members, flags & (re.IGNORECASE | re.ASCII))
        number = self.sets.setdefault(characters, len(self.sets))
        begin, end = self._node(at), self._node()
        self.reading[begin] = (number, end)
        return end
