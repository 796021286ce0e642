"""Regular expressions as automata, against Python's own engine."""

from __future__ import annotations

import functools
import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charloom.engine.constraints import automata
from charloom.engine.constraints.automata import automaton_of, minimal
from charloom.engine.constraints.characters import every_character
from charloom.engine.constraints.constraint import BadConstraint
from charloom.engine.constraints.nfa import Nfa
from charloom.engine.decoding.automaton import Automaton

SYMBOLS = "abcé"
ENCODED = [symbol.encode() for symbol in SYMBOLS]
LONGEST = 5

EVERY_BYTE = [bytes([byte]) for byte in range(256)]
WIDE = r"(?:\w|[^\w\x00-\x7f])?[^a\u0400-\uffff]*"

ATOMS = st.sampled_from([*SYMBOLS, ".", "[ab]", "[^a]", "[a-cé]", "d", ""])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from("*+?")).map(lambda two: f"(?:{two[0]}){two[1]}"),
        st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(
            lambda three: f"(?:{three[0]}){{{three[1]},{three[1] + three[2]}}}"
        ),
        inner.map(lambda one: f"(?:{one}){'*?'}"),
    ),
    max_leaves=8,
)


@functools.cache
def wide() -> Automaton:
    return automaton_of(WIDE, EVERY_BYTE, bytewise=True)


def made(pattern: str) -> Automaton:
    return automaton_of(pattern, ENCODED, bytewise=False)


def texts_of(automaton: Automaton, longest: int = LONGEST) -> set[str]:
    """All that it allows, up to some length."""
    return {
        "".join(SYMBOLS[token] for token in tokens)
        for length in range(longest + 1)
        for tokens in itertools.product(range(len(SYMBOLS)), repeat=length)
        if (state := automaton.after(tokens)) is not None and not automaton.distance[state]
    }


def matched(pattern: str, longest: int = LONGEST) -> set[str]:
    texts = ("".join(text) for length in range(longest + 1) for text in itertools.product(SYMBOLS, repeat=length))
    return {text for text in texts if re.fullmatch(pattern, text)}


@settings(max_examples=150, deadline=None)
@given(PATTERNS)
def test_an_automaton_allows_what_python_s_engine_matches(pattern: str) -> None:
    expected = matched(pattern)
    try:
        automaton = made(pattern)
    except BadConstraint:
        assert expected == set()
        return
    assert texts_of(automaton) == expected
    assert automaton.least_tokens == min((len(text) for text in expected), default=automaton.least_tokens)


@settings(max_examples=100, deadline=None)
@given(PATTERNS)
def test_no_state_is_a_dead_end_and_no_two_are_alike(pattern: str) -> None:
    try:
        automaton = made(pattern)
    except BadConstraint:
        return
    states = len(automaton.distance)
    for state in range(states):
        after = automaton.next[state][automaton.next[state] >= 0]
        nearest = min((int(automaton.distance[one]) for one in after), default=states) + 1
        assert automaton.distance[state] in (0, nearest)
    # Moore's own table: pairs of states that some text tells apart.
    apart = np.not_equal.outer(automaton.distance == 0, automaton.distance == 0)
    ways = np.where(automaton.next < 0, states, automaton.next)
    for _ in range(states):
        padded = np.pad(apart, ((0, 1), (0, 1)), constant_values=True)
        padded[states, states] = False
        apart = apart | padded[ways[:, None], ways[None]].any(axis=2)
    assert (apart | np.eye(states, dtype=bool)).all()


def test_words_are_spelt_by_symbols_of_several_letters() -> None:
    symbols = [b"", b"the", b" ", b"cat", b"dog", b"c", b"at"]
    automaton = automaton_of("the (cat|dog|fox)s?", symbols, bytewise=False)
    allowed = {
        tokens
        for length in range(6)
        for tokens in itertools.product(range(len(symbols)), repeat=length)
        if (state := automaton.after(tokens)) is not None and not automaton.distance[state]
    }
    assert allowed == {(1, 2, 3), (1, 2, 4), (1, 2, 5, 6)}
    assert automaton.least_tokens == 3


def test_bytes_spell_whole_characters() -> None:
    automaton = automaton_of("é+", EVERY_BYTE, bytewise=True)
    assert automaton.distance[automaton.after("éé".encode()) or 0] == 0
    assert automaton.distance[automaton.after("éé".encode()[:3]) or 0] == 1


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=3) | st.binary(max_size=6))
def test_bytes_that_are_allowed_are_those_of_texts_that_match(text: str | bytes) -> None:
    """In all planes, and nothing that is no UTF-8."""
    encoded = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    try:
        expected = re.fullmatch(WIDE, encoded.decode()) is not None
    except UnicodeDecodeError:
        expected = False
    state = wide().after(list(encoded))
    assert (state is not None and not wide().distance[state]) == expected


def test_every_character_has_its_own_bytes() -> None:
    """One character of each block of 64, in every plane, and the first and last of the forms of each length."""
    automaton = automaton_of("(?s:.)", EVERY_BYTE, bytewise=True)
    for point in [*range(0, 0x110000, 61), 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF]:
        encoded = chr(point).encode("utf-8", "surrogatepass")
        state = automaton.after(list(encoded))
        assert (state is not None and not automaton.distance[state]) == (not 0xD800 <= point < 0xE000), point
    for wrong in (b"\xc0\x80", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xed\xa0\x80"):
        assert automaton.after(list(wrong)) is None


def test_twice_the_fewest_states_become_the_fewest() -> None:
    automaton = automaton_of("(a|b)*a(a|b){6}", [b"a", b"b"], bytewise=False)
    assert automaton.next.shape == (2**7, 2)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("d", "can write none of its texts, not even 'd', for it lacks 'd'"),
        ("a(b|d)d", "not even 'abd', for it lacks 'd'"),
        ("[a&&b]", "Possible set intersection at position 2; escape what is meant"),
        ("(?!)", "character 0: look-ahead cannot be kept"),
        (r"[^\s\S]", "no text matches it"),
        ("[b-a]", "character 1: bad character range b-a"),
        ("a{3,2}", "character 2: min repeat greater than max repeat"),
        ("(?=a)a", "character 0: look-ahead cannot be kept"),
        ("a(?<!b)", "character 1: look-behind cannot be kept"),
        (r"(a)\1", "character 3: a back-reference cannot be kept"),
        (r"(?P<x>a)(?P=x)", "character 8: a back-reference cannot be kept"),
        (r"a\b", "character 1: a word boundary cannot be kept"),
        (r"a\Z", "character 1: an anchor cannot be kept while a text is generated; the whole text has to match anyway"),
        ("a^b", "character 1: ^ stands inside"),
        ("a$|b", "character 1: $ stands inside"),
        ("a(b", "character 1: this ( is not closed"),
        ("a)|(b", "character 1: this ) closes no group"),
        ("[a", "character 0: this [ is not closed"),
        ("(?>a)", "character 0: an atomic group cannot be kept"),
        ("(a)(?(1)b|c)", "character 3: a condition cannot be kept"),
        ("(" * 5_000 + ")" * 5_000, "nested too deeply"),
        ("a{1000000}", "its repetitions make it too large"),
        (r"\p{L}", "character 0: bad escape"),
        ("a{" + "9" * 5_000 + "}", "it repeats too often"),
        ("(?a)(?u)a", "its flags exclude each other"),
    ],
)
def test_what_cannot_be_kept_is_told_with_its_place(pattern: str, message: str) -> None:
    with pytest.raises(BadConstraint, match=re.escape(message)):
        made(pattern)


@pytest.mark.parametrize(
    ("pattern", "same"),
    [
        ("^ab$", "ab"),
        ("^a|b$", "a|b"),
        (r"[\]$^(]|a", "a"),
        ("[]]|a", "a"),
        ("[^]]", "[abcé]"),
        (r"a|\$", "a"),
        ("(?i)A|É", "a|é"),
        ("(?i:[A-B])", "[ab]"),
        (r"(?a:\w)", "[abc]"),
        (r"(?a)(?u:\w)", "[abcé]"),
        ("(?x) a | b # or", "a|b"),
        ("(?P<name>a)b", "ab"),
    ],
)
def test_what_says_nothing_new_may_stand(pattern: str, same: str) -> None:
    assert texts_of(made(pattern)) == texts_of(made(same))


@pytest.mark.parametrize(
    "pattern",
    [
        *("(?ai)[a-z]", "(?i)[a-z]", "(?i)[^a-s]", "(?a)(?i:k)", "(?i)s", "(?i:[^k])", "(?i)ß", "(?ai)[^ſ]"),
        *(r"(?i)[\dk-]", "(?i)[α-ω]", "(?i)ǆ", "(?i)i", "(?i)[^İı]", "(?i)[Ა-Ჰ]", "(?i)ﬅ", "(?is)."),
    ],
)
def test_which_characters_are_the_same_but_for_case_is_what_python_says(pattern: str) -> None:
    """Of all characters: k and the sign of the kelvin, s and the long s, and whatever else there is."""
    (characters,) = Nfa(pattern).sets
    everyone = every_character()
    mask = np.zeros(len(everyone.points), bool)
    mask[[match.start() for match in re.finditer(pattern, everyone.text)]] = True
    assert (characters.mask(everyone) == mask).all()


def test_the_table_has_room_for_so_many_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automata, "MOST_ENTRIES", 40)
    made("a{9}")
    with pytest.raises(BadConstraint, match="it needs 11 states, and a model of 4 symbols has room for 10"):
        made("a{10}")


def test_a_long_chain_is_minimised_at_once() -> None:
    """By rounds of Moore alone it would take as many as it has states."""
    ways = np.full((5_001, 1), -1, np.int32)
    ways[:-1, 0] = np.arange(1, 5_001)
    automaton = minimal(ways, np.arange(5_001) == 5_000)
    assert automaton is not None
    assert automaton.distance.tolist() == list(range(5_000, -1, -1))
