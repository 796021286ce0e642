"""Checks the constraint of a call, and gets its automaton."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from charloom.bundle import Vocabulary
from charloom.controls import CONSTRAINT_INPUTS
from charloom.engine.calls.requests import CheckedRequest, GenerationRequest, spelt
from charloom.engine.constraints.compiler import Compiler
from charloom.engine.constraints.constraint import BadConstraint, Constraint, Kind
from charloom.engine.decoding.automaton import Automaton
from charloom.engine.errors import InvalidRequest
from charloom.engine.limits import LONGEST_CONSTRAINT, MOST_CHOICES


async def with_automaton(
    checked: CheckedRequest,
    request: GenerationRequest,
    compiler: Compiler,
    vocabulary: Vocabulary,
    lacks: frozenset[str] = frozenset(),
) -> CheckedRequest:
    """Add the automaton of its constraint to a checked request, if it has one.

    Args:
        checked: the request in terms of tokens
        request: the request as it was made
        compiler: makes automata
        vocabulary: of the model
        lacks: what its decoder was exported without; see `Decoder.lacks`

    Raises:
        InvalidRequest: the constraint cannot be kept, or not within max_tokens.
    """
    constraint = request.constraint
    if request.resample and constraint is None:
        raise InvalidRequest("resample", "it takes a constraint, and there is none; give one, or leave it out")
    if request.resample and request.n == 1:
        raise InvalidRequest("resample", "it takes several continuations; give an n of 2 or more, or leave it out")
    if constraint is None:
        return checked
    _check(request, constraint, lacks)
    never = [] if checked.bias is None else np.flatnonzero(np.isneginf(checked.bias)).tolist()
    automaton = await automaton_of(
        constraint,
        compiler,
        vocabulary,
        never=tuple(never),
        max_tokens=checked.max_tokens,
        skip_unknown=request.skip_unknown,
    )
    return replace(checked, automaton=automaton)


async def automaton_of(
    constraint: Constraint,
    compiler: Compiler,
    vocabulary: Vocabulary,
    *,
    never: tuple[int, ...],
    max_tokens: int,
    skip_unknown: bool,
) -> Automaton:
    """Check a constraint, and make its automaton.

    Args:
        constraint: what the text has to match
        compiler: makes automata
        vocabulary: of the model
        never: forbidden tokens
        max_tokens: most tokens of the text
        skip_unknown: leave out choices that the model cannot write, instead of refusing them

    Raises:
        InvalidRequest: it cannot be kept, or not within max_tokens.
    """
    if not constraint.content:
        raise InvalidRequest(constraint.field, "there is nothing to choose from; give at least one text")
    if len(constraint.content) > MOST_CHOICES:
        raise InvalidRequest(
            constraint.field, f"{len(constraint.content)} texts are too many; give up to {MOST_CHOICES}"
        )
    if (length := sum(map(len, constraint.content))) > LONGEST_CONSTRAINT:
        raise InvalidRequest(constraint.field, f"it has {length} characters; up to {LONGEST_CONSTRAINT} are allowed")
    if constraint.kind is Kind.CHOICES:
        constraint = _spellable(constraint, skip_unknown, vocabulary)
    try:
        automaton = await compiler.automaton(constraint, vocabulary, never)
    except BadConstraint as problem:
        raise InvalidRequest(constraint.field, str(problem)) from problem
    if automaton.least_tokens > max_tokens:
        raise InvalidRequest(
            "max_tokens",
            f"{max_tokens} is too few for any text that the constraint allows; give at least {automaton.least_tokens}",
        )
    return automaton


def _check(request: GenerationRequest, constraint: Constraint, lacks: frozenset[str]) -> None:
    if not lacks.isdisjoint(CONSTRAINT_INPUTS):
        raise InvalidRequest(
            constraint.field,
            "the model was exported before there were constraints; export it again (charloom export --from OLD NEW), "
            "or leave this out",
        )
    if request.stop:
        raise InvalidRequest("stop", "the constraint says where the text ends; leave one of the two out")


def _spellable(constraint: Constraint, skip_unknown: bool, vocabulary: Vocabulary) -> Constraint:
    """Keep the choices that the model can write, in its normal form."""
    kept = [
        vocabulary.normalisation.apply(text)
        for number, text in enumerate(constraint.content)
        if spelt(f"{constraint.field}[{number}]", text, vocabulary, skip_unknown=skip_unknown) is not None
    ]
    if not kept:
        raise InvalidRequest(constraint.field, "the model can write none of these texts; give one that it can")
    return replace(constraint, content=tuple(kept))
