"""What the parameters of the Open Inference Protocol stand for."""

from __future__ import annotations

import pytest

from charloom.server.inference.requests import InferenceRequest, parse_request
from charloom.server.inference.tensors import Tensor


@pytest.mark.parametrize(
    ("value", "stop"),
    [
        ('["a", "b"]', ("a", "b")),
        ('["a", 1]', ('["a", 1]',)),
        (r'["\ud83d\ude00"]', ("\U0001f600",)),
        (r'["\ud83d"]', (r'["\ud83d"]',)),
    ],
)
def test_a_list_of_texts_in_json_is_several(value: str, stop: tuple[str, ...]) -> None:
    """Half of a character is no text, and nothing could encode it."""
    inputs = [Tensor("text_input", "BYTES", [1], [b"a"])]
    request = InferenceRequest("", "", "", {"stop": value}, inputs, [])
    assert parse_request(request, "").generation.stop == stop


@pytest.mark.parametrize(("value", "skips"), [("reject", False), ("refuse", False), ("skip", True)])
def test_unknown_characters_are_named_as_in_the_sdk_and_as_before(value: str, skips: bool) -> None:
    inputs = [Tensor("text_input", "BYTES", [1], [b"a"])]
    request = InferenceRequest("", "", "", {"unknown_characters": value}, inputs, [])
    assert parse_request(request, "").generation.skip_unknown is skips
