"""From what the text of a call is to match to its automaton, or to why it cannot be kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from charloom.bundle import UnknownSymbolsError, Vocabulary
from charloom.controls import CONSTRAINT_INPUTS
from charloom.engine.calls.requests import CheckedRequest, GenerationRequest
from charloom.engine.constraints.compiler import Compiler
from charloom.engine.constraints.constraint import BadConstraint, Constraint, Kind
from charloom.engine.errors import InvalidRequest, shown
from charloom.engine.limits import LONGEST_CONSTRAINT, MOST_CHOICES


async def with_automaton(
    checked: CheckedRequest,
    request: GenerationRequest,
    compiler: Compiler,
    vocabulary: Vocabulary,
    lacks: frozenset[str] = frozenset(),
) -> CheckedRequest:
    """The checked request with the automaton of its constraint, if it has one.

    Args:
        checked: the request in terms of tokens
        request: as it was made
        compiler: makes automata
        vocabulary: of the model
        lacks: what its decoder was exported without; see `Decoder.lacks`

    Raises:
        InvalidRequest: the constraint cannot be kept, or not within max_tokens.
    """
    constraint = request.constraint
    if constraint is None:
        return checked
    _check(request, constraint, lacks)
    if constraint.kind is Kind.CHOICES:
        constraint = _spellable(constraint, request.skip_unknown, vocabulary)
    never = [] if checked.bias is None else np.flatnonzero(np.isneginf(checked.bias)).tolist()
    try:
        automaton = await compiler.automaton(constraint, vocabulary, tuple(never))
    except BadConstraint as problem:
        raise InvalidRequest(constraint.field, str(problem)) from problem
    if automaton.least_tokens > checked.max_tokens:
        raise InvalidRequest(
            "max_tokens",
            f"{checked.max_tokens} is too few for any text that the constraint allows; give at least "
            f"{automaton.least_tokens}",
        )
    return replace(checked, automaton=automaton)


def _check(request: GenerationRequest, constraint: Constraint, lacks: frozenset[str]) -> None:
    if not lacks.isdisjoint(CONSTRAINT_INPUTS):
        raise InvalidRequest(
            constraint.field,
            "the model was exported before there were constraints; export it again (charloom export --from OLD NEW), "
            "or leave this out",
        )
    if request.stop:
        raise InvalidRequest("stop", "the constraint says where the text ends; leave one of the two out")
    if not constraint.content:
        raise InvalidRequest(constraint.field, "there is nothing to choose from; give at least one text")
    if len(constraint.content) > MOST_CHOICES:
        raise InvalidRequest(
            constraint.field, f"{len(constraint.content)} texts are too many; give up to {MOST_CHOICES}"
        )
    if (length := sum(map(len, constraint.content))) > LONGEST_CONSTRAINT:
        raise InvalidRequest(constraint.field, f"it has {length} characters; up to {LONGEST_CONSTRAINT} are allowed")


def _spellable(constraint: Constraint, skip_unknown: bool, vocabulary: Vocabulary) -> Constraint:
    """Those of the texts to choose from that the model can write, in its form."""
    kept = []
    for number, text in enumerate(constraint.content):
        try:
            vocabulary.spell(text)
        except UnknownSymbolsError as problem:
            if not skip_unknown:
                raise InvalidRequest(
                    f"{constraint.field}[{number}]",
                    f"{shown(text)} can never be generated: {problem}; leave it out, or ask to skip such texts",
                ) from problem
        else:
            kept.append(vocabulary.normalisation.apply(text))
    if not kept:
        raise InvalidRequest(constraint.field, "the model can write none of these texts; give one that it can")
    return replace(constraint, content=tuple(kept))
