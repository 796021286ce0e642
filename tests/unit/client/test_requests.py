from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from google.protobuf import duration_pb2

from charloom.client import CharloomError, Client, GenerateOptions, InvalidValue
from charloom.client._requests import (
    continuations_request,
    generate_request,
    resumable_request,
)
from charloom.client._session_requests import create_session_request
from charloom.client._values import deadline
from charloom.v1 import generation_pb2, text_pb2
from tests.unit.client.fake_server import FakeServer


def options(prompt: str = "", session_id: str = "", **given: Any) -> generation_pb2.GenerationOptions:
    return generate_request(prompt, given, session_id).options  # type: ignore[arg-type]


def test_without_options_nothing_but_the_prompt_is_set() -> None:
    assert options("Hi") == generation_pb2.GenerationOptions(prompt="Hi")
    assert not options("Hi").HasField("sampling")


def test_none_is_the_same_as_not_given() -> None:
    every = dict.fromkeys(GenerateOptions.__annotations__)
    assert options(**every) == generation_pb2.GenerationOptions()


CONSTRAINTS: dict[str, tuple[Any, generation_pb2.Constraint]] = {
    "regex": ("a+", generation_pb2.Constraint(regex="a+")),
    "choices": (["yes", "no"], generation_pb2.Constraint(choices=generation_pb2.Choices(texts=["yes", "no"]))),
    "json_schema": ({"const": "é"}, generation_pb2.Constraint(json_schema='{"const": "é"}')),
}
"""They exclude each other: what is given, and what is sent."""
EVERY: dict[str, Any] = {
    "model": "small",
    "max_tokens": 7,
    "min_tokens": 3,
    "stop": ["\n\n", "END"],
    "include_stop": True,
    "temperature": 0.5,
    "top_k": 40,
    "top_p": 0.25,
    "min_p": 0.125,
    "repetition_penalty": 1.5,
    "presence_penalty": -0.5,
    "frequency_penalty": 0.75,
    "logit_bias": {"aeiou": -2.5, "é": 4},
    "allowed_characters": "abcé \n",
    "forbidden_characters": "xyz",
    "seed": 2**64 - 1,
    "unknown_characters": "skip",
    "expected_position": 9,
    "logprobs": True,
    "top_logprobs": 5,
    "state": b"\x00sealed\xff",
    "return_state": True,
}


def test_every_option_goes_into_its_field() -> None:
    assert EVERY.keys() | CONSTRAINTS.keys() == GenerateOptions.__annotations__.keys()
    assert options("Hi", "s1", **EVERY) == generation_pb2.GenerationOptions(
        model="small",
        session_id="s1",
        prompt="Hi",
        unknown_characters=text_pb2.UNKNOWN_CHARACTERS_SKIP,
        max_tokens=7,
        min_tokens=3,
        stop=["\n\n", "END"],
        include_stop=True,
        sampling=generation_pb2.Sampling(
            temperature=0.5,
            top_k=40,
            top_p=0.25,
            min_p=0.125,
            repetition_penalty=1.5,
            presence_penalty=-0.5,
            frequency_penalty=0.75,
            logit_bias=[
                generation_pb2.LogitBias(characters="aeiou", bias=-2.5),
                generation_pb2.LogitBias(characters="é", bias=4),
            ],
            allowed_characters="abcé \n",
            forbidden_characters="xyz",
        ),
        seed=2**64 - 1,
        expected_position=9,
        logprobs=True,
        top_logprobs=5,
        state=b"\x00sealed\xff",
        return_state=True,
    )


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_a_constraint_goes_into_the_one_field_for_it(name: str) -> None:
    given, sent = CONSTRAINTS[name]
    assert options(**{name: given}) == generation_pb2.GenerationOptions(constraint=sent)


def test_a_schema_may_be_json_already() -> None:
    assert options(json_schema="{}").constraint.json_schema == "{}"
    with pytest.raises(InvalidValue, match="json_schema: 5 is neither a mapping nor JSON"):
        options(json_schema=5)


def test_one_constraint_at_a_time() -> None:
    with pytest.raises(InvalidValue, match="regex and choices: they exclude each other"):
        options(regex="a", choices=["a"])


@pytest.mark.parametrize("stop", ["END", ["END"], ("END",)])
def test_a_lone_string_is_one_stop_string(stop: Any) -> None:
    assert options(stop=stop).stop == ["END"]


def test_no_stop_strings_are_none() -> None:
    assert options(stop=[]) == generation_pb2.GenerationOptions()


def test_an_empty_stop_string_is_left_to_the_server() -> None:
    assert options(stop="").stop == [""]


def test_allowing_nothing_is_not_the_same_as_allowing_all() -> None:
    assert options(allowed_characters="").sampling.HasField("allowed_characters")
    assert not options(forbidden_characters="x").sampling.HasField("allowed_characters")


def test_top_logprobs_do_not_imply_logprobs() -> None:
    assert options(top_logprobs=2) == generation_pb2.GenerationOptions(top_logprobs=2)


@pytest.mark.parametrize("name", ["include_stop", "logprobs", "return_state"])
def test_a_flag_that_is_false_is_off(name: str) -> None:
    assert options(**{name: False}) == generation_pb2.GenerationOptions()


@pytest.mark.parametrize(
    "name",
    ["temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"],
)
def test_zero_is_sent_and_leaves_the_other_sampling_fields_unset(name: str) -> None:
    sampling = options(**{name: 0}).sampling
    assert [field.name for field, _ in sampling.ListFields()] == [name]


@pytest.mark.parametrize("name", ["max_tokens", "seed", "expected_position"])
def test_a_zero_count_is_sent(name: str) -> None:
    assert options(**{name: 0}).HasField(name)


def test_reject_is_sent_as_itself() -> None:
    assert options(unknown_characters="reject").unknown_characters == text_pb2.UNKNOWN_CHARACTERS_REJECT


def test_ranges_are_left_to_the_server() -> None:
    made = options(temperature=-1.0, top_p=math.nan, min_p=math.inf, presence_penalty=1e300, logit_bias={"": math.nan})
    assert made.sampling.presence_penalty == math.inf
    assert math.isnan(made.sampling.logit_bias[0].bias)
    assert made.sampling.temperature == -1
    assert math.isnan(made.sampling.top_p)
    assert made.sampling.min_p == math.inf


def test_numbers_of_other_libraries_are_taken() -> None:
    made = options(seed=np.uint64(5), temperature=np.float32(0.5), top_p=Fraction(1, 4), logit_bias={"e": np.int8(-3)})
    assert (made.seed, made.sampling.temperature, made.sampling.top_p) == (5, 0.5, 0.25)
    assert made.sampling.logit_bias[0].bias == -3


def test_an_unknown_option_is_named_with_those_that_exist() -> None:
    with pytest.raises(TypeError, match=r"unknown option temprature; the options are .*temperature"):
        options(temprature=1.0)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("seed", -1, "-1 is not between 0 and 2**64 - 1"),
        ("seed", 2**64, "is not between"),
        ("seed", 1 << 999, "a number of 1000 bits is not between"),
        ("seed", 1.0, "1.0 is not a whole number"),
        ("seed", True, "True is not a whole number"),
        ("max_tokens", 2**32, "is not between 0 and 2**32 - 1"),
        ("max_tokens", "9", "'9' is not a whole number"),
        ("top_k", -1, "is not between"),
        ("expected_position", -1, "is not between"),
        ("temperature", "hot", "'hot' is not a number"),
        ("temperature", True, "True is not a number"),
        ("temperature", 1 << 1024, "too large"),
        ("top_p", [0.5], "is not a number"),
        ("model", 7, "7 is not a string"),
        ("model", "\ud800", "half of a surrogate pair"),
        ("unknown_characters", "ignore", "'ignore' is neither 'reject' nor 'skip'"),
        ("unknown_characters", [], "neither"),
        ("min_tokens", -1, "-1 is not between 0 and 2**32 - 1"),
        ("min_tokens", 1.5, "1.5 is not a whole number"),
        ("top_logprobs", 2**32, "is not between 0 and 2**32 - 1"),
        ("top_logprobs", True, "True is not a whole number"),
        ("logprobs", 1, "1 is neither True nor False"),
        ("include_stop", "yes", "'yes' is neither True nor False"),
        ("repetition_penalty", "1.2", "'1.2' is not a number"),
        ("presence_penalty", [], "[] is not a number"),
        ("frequency_penalty", 1 << 1024, "too large"),
        ("allowed_characters", ["a"], "['a'] is not a string"),
        ("allowed_characters", "a\udcff", "half of a surrogate pair"),
        ("forbidden_characters", 5, "5 is not a string"),
        ("stop", 5, "5 is neither a string nor a list of strings"),
        ("stop", b"END", "b'END' is neither a string nor a list of strings"),
        ("stop", {"END"}, "{'END'} is neither a string nor a list of strings"),
        ("logit_bias", [("a", 1)], "[('a', 1)] does not map strings to numbers"),
        ("logit_bias", "a=1", "'a=1' does not map strings to numbers"),
        ("logit_bias", {5: 1.0}, "5 is not a string"),
        ("logit_bias", {"\ud800": 1.0}, "half of a surrogate pair"),
        ("state", "text", "'text' is not bytes"),
        ("state", b"", "it is empty; give the bytes that were exported"),
        ("return_state", 1, "1 is neither True nor False"),
    ],
)
def test_what_no_message_can_carry_is_refused_by_name(name: str, value: object, words: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        options(**{name: value})
    assert caught.value.field == name
    assert str(caught.value).startswith(f"{name}: ")
    assert words in str(caught.value)
    assert isinstance(caught.value, CharloomError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("stop", ["END", 5], "stop[1]: 5 is not a string"),
        ("stop", ["END", "ab\udcff"], "stop[1]: the character '\\udcff' at 2 is half of a surrogate pair"),
        ("logit_bias", {"a": 1, "e": "much"}, "logit_bias['e']: 'much' is not a number"),
        ("logit_bias", {"e": True}, "logit_bias['e']: True is not a number"),
    ],
)
def test_a_value_among_several_is_pointed_at(name: str, value: object, words: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        options(**{name: value})
    assert str(caught.value).startswith(words)


def test_the_number_of_continuations_is_added_to_the_same_request() -> None:
    several = continuations_request("Hi", 3, True, {"seed": 5}, "s1")
    assert several.options.n == 3
    assert several.options.resample
    several.options.ClearField("n")
    several.options.ClearField("resample")
    assert several == generate_request("Hi", {"seed": 5}, "s1")


@pytest.mark.parametrize("n", [0, 1, 2**32 - 1])
def test_any_number_of_continuations_is_sent(n: int) -> None:
    assert continuations_request("", n, False, {}).options.HasField("n")
    assert continuations_request("", n, False, {}).options.n == n


@pytest.mark.parametrize(
    ("n", "words"), [(None, "not a whole"), (2.0, "not a whole"), (-1, "not between"), (2**32, "not between")]
)
def test_a_number_of_continuations_that_is_none_is_refused(n: Any, words: str) -> None:
    with pytest.raises(InvalidValue, match=rf"n: .* is {words}"):
        continuations_request("", n, False, {})


@pytest.mark.parametrize("make", [generate_request, resumable_request])
def test_who_asks_one_text_for_several_is_told_where_they_are(make: Any) -> None:
    with pytest.raises(TypeError, match="takes no n; `continuations` makes several"):
        make("Hi", {"n": 3})


class TestResumable:
    def test_it_is_the_same_request_with_an_id_of_its_own(self) -> None:
        made = resumable_request("Hi", {"seed": 5, "top_k": 3}, "s1")
        assert len(made.call_id) == 32
        assert set(made.call_id) <= set("0123456789abcdef")
        assert not made.HasField("resume_position")
        made.call_id = ""
        assert made == generate_request("Hi", {"seed": 5, "top_k": 3}, "s1")

    def test_no_two_calls_share_an_id(self) -> None:
        assert len({resumable_request("Hi", {}).call_id for _ in range(50)}) == 50

    def test_a_call_without_a_session_has_a_seed_of_64_bits_that_no_other_has(self) -> None:
        seeds = {resumable_request("Hi", {}).options.seed for _ in range(50)}
        assert len(seeds) == 50
        assert max(seeds) >= 2**60

    @pytest.mark.parametrize("seed", [0, 7])
    def test_a_seed_that_was_given_stays(self, seed: int) -> None:
        assert resumable_request("Hi", {"seed": seed}).options.seed == seed

    def test_a_session_or_state_keeps_its_own_seed(self) -> None:
        assert not resumable_request("Hi", {}, "s1").options.HasField("seed")
        assert not resumable_request("Hi", {"state": b"sealed"}).options.HasField("seed")


@pytest.mark.parametrize("state", [b"ab", bytearray(b"ab"), memoryview(b"ab")])
def test_a_state_may_be_bytes_of_any_kind(state: Any) -> None:
    assert options(state=state).state == b"ab"


def test_half_of_a_surrogate_pair_in_a_prompt_is_shown_with_its_place() -> None:
    with pytest.raises(InvalidValue, match=r"prompt: the character '\\udcff' at 2 "):
        options("ab\udcff")


@pytest.mark.parametrize("prompt", [None, b"bytes", 3])
def test_a_prompt_that_is_no_string_is_refused(prompt: Any) -> None:
    with pytest.raises(InvalidValue, match=r"prompt: .* is not a string"):
        options(prompt)


@pytest.mark.parametrize("prompt", ["", "\0", "\n", "é漢🙂", "x" * 100_000])
def test_any_text_is_carried_as_it_is(prompt: str) -> None:
    assert generation_pb2.GenerationOptions.FromString(options(prompt).SerializeToString()).prompt == prompt


def test_a_refused_value_sends_nothing(server: FakeServer, client: Client) -> None:
    with pytest.raises(InvalidValue):
        client.generate("Hi", seed=-1)
    assert server.calls == []


def test_an_unset_session_field_stays_unset() -> None:
    request = create_session_request(None, None, None, None)
    assert request.ListFields() == []


def test_session_fields_are_carried() -> None:
    request = create_session_request("small", "mine", 0, 1.5, True)
    assert (request.model, request.session_id, request.seed, request.adaptive) == ("small", "mine", 0, True)
    assert request.HasField("seed")
    assert request.time_to_live == duration_pb2.Duration(seconds=1, nanos=500_000_000)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, 1e300, "1", True])
def test_a_time_to_live_that_is_no_duration_is_refused(seconds: Any) -> None:
    with pytest.raises(InvalidValue, match="time_to_live: "):
        create_session_request(None, None, None, seconds)


def test_a_negative_time_to_live_is_left_to_the_server() -> None:
    assert create_session_request(None, None, None, -0.5).time_to_live.nanos == -500_000_000


@pytest.mark.parametrize(
    ("timeout", "sent"), [(None, None), (0, 0), (2, 2), (-1.0, -1), (math.inf, None), (1e12, None)]
)
def test_a_timeout_beyond_a_lifetime_is_none_at_all(timeout: float | None, sent: float | None) -> None:
    assert deadline(timeout) == sent


@pytest.mark.parametrize("timeout", [math.nan, "5", True])
def test_a_timeout_that_is_no_number_is_refused(timeout: Any) -> None:
    with pytest.raises(InvalidValue, match="timeout: "):
        deadline(timeout)


def test_temperatures_travel_with_single_precision() -> None:
    assert options(temperature=0.8).sampling.temperature == struct.unpack("f", struct.pack("f", 0.8))[0]
