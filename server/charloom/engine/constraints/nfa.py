"""From a regular expression to a nondeterministic automaton over sets of characters (Thompson, 1968, "Regular
expression search algorithm").

The syntax is that of Python's `re`, read by its own parser. An automaton over symbols knows what it has read and
nothing else: it cannot look around, nor compare with earlier text.
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
"""Of an automaton: repetitions are copies."""


class Nfa:
    """The automaton of an expression. Node 0 is the start; a node has ways that read nothing, or one that reads.

    Args:
        pattern: the expression, which has to match as a whole

    Raises:
        BadConstraint: it is no regular expression, too large, or has what no automaton can do.
    """

    def __init__(self, pattern: str) -> None:
        pattern = without_anchors(pattern)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # for what may come to mean something else
                re.compile(pattern)  # for what the parser alone does not refuse
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
        """By what they hold: their numbers."""
        self.free: list[list[int]] = []
        """Of each node, where it leads without reading."""
        self.reading: list[tuple[int, int] | None] = []
        """Of each node, the number of a set and where it leads with one of its characters."""
        self.end = self._sequence(parsed, self._node(), parsed.state.flags)

    def closure(self, nodes: Iterable[int]) -> frozenset[int]:
        """The nodes that read, and the end, that some nodes lead to without reading."""
        seen, waiting = set(nodes), list(nodes)
        while waiting:
            for node in self.free[waiting.pop()]:
                if node not in seen:
                    seen.add(node)
                    waiting.append(node)
        return frozenset(node for node in seen if self.reading[node] is not None or node == self.end)

    def _node(self, *before: int) -> int:
        """A new node, to which some lead without reading."""
        if len(self.free) == MOST_NODES:
            raise BadConstraint("its repetitions make it too large; lower their counts")
        self.free.append([])
        self.reading.append(None)
        new = len(self.free) - 1
        for node in before:
            self.free[node].append(new)
        return new

    def _sequence(self, items: Iterable[tuple[Any, Any]], at: int, flags: int) -> int:
        """Add some items, one after another, from a node on; returns the node behind them."""
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
            if added & _ALPHABETS:  # one takes the place of the other
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
