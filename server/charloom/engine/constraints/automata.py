"""Compiles a regular expression to the smallest deterministic automaton over the symbols of a model.

Characters that an expression does not distinguish form one class, and the automaton is first made over classes.

Axis letters: S states, V symbols, N characters, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from charloom.engine.constraints.characters import Characters, Classes, characters_of, classes_of, every_character
from charloom.engine.constraints.constraint import BadConstraint
from charloom.engine.constraints.nfa import Nfa
from charloom.engine.constraints.utf8 import over_bytes
from charloom.engine.decoding.automaton import Automaton, distances
from charloom.engine.decoding.decoder import NEVER, Int32s

MOST_ENTRIES = 2**23
"""Most entries of an automaton's table, states times symbols: 32 MiB."""
MOST_STATES = 2**17
"""Most states before the automaton is minimized."""


def automaton_of(pattern: str, symbols: Sequence[bytes], *, bytewise: bool) -> Automaton:
    """Compile an expression to the automaton of the texts that match it as a whole.

    Args:
        pattern: the expression
        symbols: the symbol of each token; empty: the token is forbidden
        bytewise: whether the symbols are the 256 bytes; else they consist of whole characters

    Raises:
        BadConstraint: the expression is not supported, or matches no text that can be written in these symbols.
    """
    nfa = Nfa(pattern)
    characters = every_character() if bytewise else characters_of(b"".join(symbols).decode())
    ways, accepting, classes = _determined(nfa, characters)
    made = minimal(ways, accepting)
    if made is None:
        raise BadConstraint(_unwritable(nfa, characters))
    states = len(made.distance)
    if states * len(symbols) > MOST_ENTRIES:
        raise BadConstraint(_too_large(states, len(symbols)))
    if bytewise:
        ways, accepting = over_bytes(made.next, made.distance == 0, classes.points, classes.number)
        for token, symbol in enumerate(symbols):
            if not symbol:
                ways[:, token] = -1
        if ways.size > 4 * MOST_ENTRIES:
            raise BadConstraint(_too_large(len(ways), len(symbols)))
    else:
        ways, accepting = _over_symbols(made, symbols, classes), made.distance == 0
    found = minimal(ways, accepting)
    if found is None:
        raise BadConstraint("the model has no symbols of which its texts are made")
    if found.next.size > MOST_ENTRIES:
        raise BadConstraint(_too_large(len(found.distance), len(symbols)))
    return found


def is_plain(pattern: str) -> bool:
    """Whether no text that matches has a quotation mark, a backslash or a control character."""
    ways, accepting, classes = _determined(Nfa(pattern), every_character())
    made = minimal(ways, accepting)
    special = [classes.of(chr(point)) for point in [*range(0x20), 0x22, 0x5C, *range(0x7F, 0xA0)]]
    return made is None or bool((made.next[:, special] < 0).all())


def _too_large(states: int, symbols: int) -> str:
    return (
        f"it needs {states} states, and a model of {symbols} symbols has room for {MOST_ENTRIES // symbols}; "
        "shorten its repetitions"
    )


def _determined(nfa: Nfa, characters: Characters) -> tuple[Int32s, npt.NDArray[np.bool_], Classes]:
    """The subset construction (Rabin and Scott, 1959): [S, C] the state after each class, [S] which states accept."""
    classes = classes_of(list(nfa.sets), characters)
    count = int(classes.number.max(initial=-1)) + 1
    start = nfa.closure([0])
    found, ways = {start: 0}, []
    waiting = [start]  # grows while the loop below iterates over it
    for state in waiting:
        after: dict[int, set[int]] = {}
        for node in state:
            if (read := nfa.reading[node]) is not None:
                for one in classes.members[read[0]]:
                    after.setdefault(one, set()).add(read[1])
        row = np.full(count, -1, np.int32)
        closures: dict[frozenset[int], frozenset[int]] = {}
        for one, nodes in after.items():
            key = frozenset(nodes)
            if key not in closures:
                closures[key] = nfa.closure(key)
            target = closures[key]
            if target not in found:
                if len(found) == MOST_STATES:
                    raise BadConstraint(f"it needs more than {MOST_STATES} states; shorten its repetitions")
                found[target] = len(found)
                waiting.append(target)
            row[one] = found[target]
        ways.append(row)
    return np.array(ways), np.array([nfa.end in state for state in waiting]), classes


def _over_symbols(automaton: Automaton, symbols: Sequence[bytes], classes: Classes) -> Int32s:
    """[S, V] the state after each symbol, where symbols consist of whole characters."""
    dead = len(automaton.distance)
    after = np.vstack([np.where(automaton.next < 0, dead, automaton.next), np.full((1, automaton.next.shape[1]), dead)])
    ways = np.full((dead, len(symbols)), -1, np.int32)
    for token, symbol in enumerate(symbols):
        reached = np.arange(dead)
        for character in symbol.decode():
            reached = after[reached, classes.of(character)]
        if symbol:
            ways[:, token] = np.where(reached == dead, -1, reached)
    return ways


def minimal(ways: Int32s, accepting: npt.NDArray[np.bool_]) -> Automaton | None:
    """The automaton with the fewest states for the same texts, its start first; None if there is no text.

    Moore's algorithm (1956, "Gedanken-experiments on sequential machines"). The first partition is by the distance to
    an end, which equivalent states have in common, so that the states of long chains are separated at once.

    Args:
        ways: [S, V] the state after a symbol, or -1; state 0 is the start
        accepting: [S] whether a text may end there
    """
    distance = distances(ways, accepting)
    kept = _reached(ways) & (distance < NEVER)
    if not kept[0]:
        return None
    place = np.full(len(ways) + 1, -1, np.int32)
    place[:-1][kept] = np.arange(kept.sum())
    ways, distance = place[ways[kept]], distance[kept]
    # Symbols with equal transitions count once.
    different = {column.tobytes(): column for column in np.ascontiguousarray(ways.T)}
    classes, count = np.unique(distance, return_inverse=True)[1].astype(np.int64), 0
    while True:
        old = np.append(classes, -1)  # of the states, and at index -1 of forbidden symbols
        first = np.unique(classes, return_index=True)[1]
        for column in different.values():
            _, first, classes = np.unique(
                classes * (len(ways) + 1) + old[column], return_index=True, return_inverse=True
            )
        if len(first) == count:
            break
        count = len(first)
    order = np.argsort(first, kind="stable")  # the start's class first
    renumbered = np.empty(count, np.int32)
    renumbered[order] = np.arange(count)
    members = first[order]
    ways = ways[members]
    return Automaton(np.where(ways < 0, -1, renumbered[classes[ways]]).astype(np.int32), distance[members])


def _reached(ways: Int32s) -> npt.NDArray[np.bool_]:
    """[S]: which states can be reached from the start."""
    reached = np.zeros(len(ways), bool)
    reached[0] = True
    found = np.array([0])
    while len(found):
        after = np.unique(ways[found])
        found = after[(after >= 0) & ~reached[after]]
        reached[found] = True
    return reached


def _unwritable(nfa: Nfa, characters: Characters) -> str:
    """The message for an expression none of whose texts can be written with these characters."""
    ways, accepting, classes = _determined(nfa, every_character())
    made = minimal(ways, accepting)
    if made is None:
        return "no text matches it"
    state, text = 0, ""
    while made.distance[state]:
        after = made.next[state][classes.number]
        nearer = (after >= 0) & (made.distance[after] < made.distance[state])
        known = nearer & np.isin(classes.points, characters.points)
        place = int((known if known.any() else nearer).argmax())
        text, state = text + chr(classes.points[place]), int(after[place])
    lacking = "".join(sorted({character for character in text if character not in characters.text}))
    return f"the model can write none of its texts, not even {text[:80]!r}, for it lacks {lacking!r}"
