"""Beam search finds what exhaustive search finds, and says where it may not have."""

from __future__ import annotations

import gc
import itertools
import math
import re
import weakref

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charloom.bundle import ByteVocabulary, CharacterVocabulary
from charloom.bundle.words import WordVocabulary
from charloom.engine.calls.beam_search import BeamSearch, Boundary, FoundText, boundary_automaton
from charloom.engine.decoding.automaton import Automaton
from charloom.engine.decoding.decoder import Floats, Shape
from charloom.engine.decoding.snapshot import Snapshot

SYMBOLS = "\n ab"
START = Snapshot.fresh(Shape(2, 1, 1, len(SYMBOLS)), 0, 0)
VOCABULARY = CharacterVocabulary(list(SYMBOLS))
INSIDE = {Boundary.WORD: r"[\n ]*[ab]+", Boundary.LINE: r"\n*[ ab]+", Boundary.LENGTH: r"[\n ab]+"}

BEGUN = {Boundary.WORD: r"[\n ]*[ab]*", Boundary.LINE: r"\n*[ ab]*", Boundary.LENGTH: r"[\n ab]*"}
"""What may still become such a text."""


def markov(seed: int) -> Floats:
    """Log-probabilities of what follows two tokens, [V, V, V]."""
    weights = np.random.default_rng(seed).exponential(size=(4, 4, 4)) ** 2 + 1e-6
    found: Floats = np.log(weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
    return found


def context(tokens: tuple[int, ...]) -> tuple[int, int]:
    padded = (0, 0, *tokens)
    return padded[-2], padded[-1]


def searched(table: Floats, search: BeamSearch) -> BeamSearch:
    """Run a search to its end."""
    while search.open:
        logprobs = np.stack([table[context(one.tokens)] for one in search.open])
        search.grow(logprobs, [one.snapshot for one in search.open])
    return search


def exhaustive(table: Floats, boundary: Boundary, most: int) -> list[FoundText]:
    """All texts of up to so many tokens, the most probable first: by a regular expression and nothing else of ours."""
    pattern = re.compile(INSIDE[boundary])
    found = []
    for length in range(1, most + 1):
        for tokens in itertools.product(range(4), repeat=length):
            text = "".join(SYMBOLS[token] for token in tokens)
            own = math.fsum(float(table[context(tokens[:place])][tokens[place]]) for place in range(length))
            if length == most:
                if re.fullmatch(BEGUN[boundary], text):
                    found.append(FoundText(own, tokens, ended=False))
                continue
            if boundary is Boundary.LENGTH or not pattern.fullmatch(text):
                continue
            ends = [token for token in range(4) if not pattern.fullmatch(text + SYMBOLS[token])]
            ending = sum(math.exp(table[context(tokens)][token]) for token in ends)
            found.append(FoundText(own + math.log(ending), tokens, ended=True))
    return sorted(found, key=lambda one: -one.logprob)


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), boundary=st.sampled_from(Boundary), count=st.integers(1, 6), most=st.integers(1, 5))
def test_a_beam_that_is_wide_enough_finds_the_most_probable_texts(
    seed: int, boundary: Boundary, count: int, most: int
) -> None:
    table = markov(seed)
    automaton = boundary_automaton(boundary, VOCABULARY)
    search = searched(table, BeamSearch(automaton, START, count, 4**5, most, partial=True))
    expected = exhaustive(table, boundary, most)
    assert search.exact
    assert [one.logprob for one in search.found] == pytest.approx([one.logprob for one in expected[:count]], abs=1e-5)
    by_tokens = {one.tokens: one for one in expected}
    for one in search.found:
        assert by_tokens[one.tokens].ended == one.ended
        assert by_tokens[one.tokens].logprob == pytest.approx(one.logprob, abs=1e-5)
    assert math.fsum(math.exp(one.logprob) for one in expected) == pytest.approx(1, abs=1e-4)


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), boundary=st.sampled_from(Boundary), most=st.integers(2, 4))
def test_a_token_that_no_text_has_may_still_end_one(seed: int, boundary: Boundary, most: int) -> None:
    """The line break stands for it, which ends words and lines."""
    table = markov(seed)
    automaton = boundary_automaton(boundary, VOCABULARY)
    search = searched(table, BeamSearch(automaton, START, 6, 4**5, most, partial=True, unknown=0))
    expected = [one for one in exhaustive(table, boundary, most) if 0 not in one.tokens][:6]
    assert search.exact
    assert [one.logprob for one in search.found] == pytest.approx([one.logprob for one in expected], abs=1e-5)


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), beam=st.integers(1, 12), count=st.integers(1, 3))
def test_where_it_says_that_it_is_exact_it_is(seed: int, beam: int, count: int) -> None:
    table = markov(seed)
    automaton = boundary_automaton(Boundary.WORD, VOCABULARY)
    search = searched(table, BeamSearch(automaton, START, count, max(beam, count), 5, partial=True))
    best = [one.logprob for one in exhaustive(table, Boundary.WORD, 5)[:count]]
    if search.exact:
        assert [one.logprob for one in search.found] == pytest.approx(best, abs=1e-5)
    else:
        assert all(one.logprob <= true + 1e-5 for one, true in zip(search.found, best, strict=False))


def trie(texts: set[tuple[int, ...]]) -> Automaton:
    """The automaton of some texts."""
    begun = sorted({text[:length] for text in texts for length in range(len(text) + 1)})
    after = [[begun.index((*one, token)) if (*one, token) in begun else -1 for token in range(4)] for one in begun]
    distance = [min(len(text) - len(one) for text in texts if text[: len(one)] == one) for one in begun]
    return Automaton(np.array(after, np.int32), np.array(distance, np.int32))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    texts=st.sets(st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple), min_size=1, max_size=12),
    count=st.integers(1, 6),
)
@example(seed=0, texts={(0,), (0, 0), (0, 1), (0, 2), (0, 3)}, count=6)
def test_of_given_texts_the_most_probable_are_found(seed: int, texts: set[tuple[int, ...]], count: int) -> None:
    table = markov(seed)
    expected = []
    for text in texts:
        own = math.fsum(float(table[context(text[:place])][token]) for place, token in enumerate(text))
        longer = {other[len(text)] for other in texts if len(other) > len(text) and other[: len(text)] == text}
        # Not 1 less those that go on: of rounded probabilities these may sum to 1 and more.
        ending = sum(math.exp(table[context(text)][token]) for token in range(4) if token not in longer)
        if ending:  # else it goes on whatever comes next
            expected.append((own + math.log(ending), text))
    search = searched(table, BeamSearch(trie(texts), START, count, 64, 5, partial=False))
    assert search.exact
    best = sorted(expected, reverse=True)[:count]
    assert [one.logprob for one in search.found] == pytest.approx([logprob for logprob, _ in best], abs=1e-5)
    assert {one.tokens for one in search.found} <= texts
    assert all(one.ended for one in search.found)


def test_a_narrow_beam_says_that_it_may_have_missed_some() -> None:
    found = [
        searched(markov(seed), BeamSearch(boundary_automaton(Boundary.LINE, VOCABULARY), START, 1, 1, 5, partial=True))
        for seed in range(20)
    ]
    assert {search.exact for search in found} == {True, False}


def test_a_text_that_cannot_go_on_ends_with_certainty() -> None:
    """A pattern such as `a|ab`: behind "ab" nothing is allowed."""
    after = np.array([[-1, -1, 1, -1], [-1, -1, -1, 2], [-1, -1, -1, -1]], np.int32)
    table = markov(1)
    search = searched(table, BeamSearch(Automaton(after, np.array([1, 0, 0], np.int32)), START, 5, 5, 9, partial=False))
    a, ab = float(table[0, 0][2]), float(table[0, 0][2]) + float(table[0, 2][3])
    stop = math.log(1 - math.exp(table[0, 2][3]))
    assert {one.tokens: one.logprob for one in search.found} == pytest.approx({(2,): a + stop, (2, 3): ab}, abs=1e-5)
    assert all(one.ended for one in search.found)


def test_what_does_not_match_in_time_is_left_out_where_all_of_it_has_to() -> None:
    automaton = boundary_automaton(Boundary.WORD, VOCABULARY)
    found = searched(markov(3), BeamSearch(automaton, START, 20, 64, 1, partial=False)).found
    assert {one.tokens for one in found} == {(2,), (3,)}


@pytest.mark.parametrize("most", [1, 2, 4])
def test_texts_that_cannot_end_in_time_take_no_room_from_those_that_can(most: int) -> None:
    """Either "a", which the model hardly writes, or five other tokens."""
    automaton = trie({(2,), (0, 0, 0, 0, 0), (1, 1, 1, 1, 1)})
    table = np.log(np.broadcast_to(np.array([0.5, 0.3, 0.1, 0.1], np.float32), (4, 4, 4)))
    search = searched(table, BeamSearch(automaton, START, 1, 1, most, partial=False))
    assert [one.tokens for one in search.found] == [(2,)]
    assert search.exact


def test_what_is_inside_of_words_and_lines() -> None:
    word, line = Boundary.WORD, Boundary.LINE
    letters = CharacterVocabulary(sorted("\n '-_9aé\u0301\u2019"))
    inside = boundary_automaton(word, letters).next[0] == 1
    assert "".join(symbol for symbol, one in zip(letters.symbols, inside, strict=True) if one) == "'9_aé\u0301\u2019"
    assert (boundary_automaton(line, letters).next[0] == 1).sum() == letters.size - 1
    octets = boundary_automaton(word, ByteVocabulary()).next[0] == 1
    assert octets[128:].all()
    assert not octets[ord("-")]
    words = WordVocabulary(["\N{REPLACEMENT CHARACTER}", "\n", " ", "it's", "\u0928\u092e\u0938\u094d\u0924\u0947"])
    assert (boundary_automaton(word, words).next[0] == 1).tolist()[1:] == [False, False, True, True]


@pytest.mark.parametrize("beam", [1, 2, 3])
def test_of_texts_that_are_equally_probable_the_first_stay_open(beam: int) -> None:
    search = BeamSearch(boundary_automaton(Boundary.LENGTH, VOCABULARY), START, 1, beam, 9, partial=True)
    equal = np.full((1, 4), math.log(0.25), np.float32)
    equal[0, 0] = math.log(0.1)
    search.grow(equal, [START])
    assert [one.tokens for one in search.open] == [(1,), (2,), (3,)][:beam]
    assert search.given_up == pytest.approx(math.log(0.25 if beam < 3 else 0.1))


def test_an_automaton_is_made_once_and_is_gone_with_its_vocabulary() -> None:
    vocabulary = CharacterVocabulary(list(SYMBOLS))
    made = boundary_automaton(Boundary.WORD, vocabulary)
    assert boundary_automaton(Boundary.WORD, vocabulary) is made
    assert boundary_automaton(Boundary.WORD, VOCABULARY) is not made
    gone = weakref.ref(vocabulary), weakref.ref(made)
    del vocabulary, made
    gc.collect()
    assert [one() for one in gone] == [None, None]
