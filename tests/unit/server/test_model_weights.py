"""Weights of models, as a setting."""

import pytest
from pydantic import ValidationError

from charloom.server.settings import ServerSettings


@pytest.mark.parametrize(
    ("text", "weights"),
    [("", {}), ("small=2", {"small": 2.0}), ("a=1, b=0.5,", {"a": 1.0, "b": 0.5}), ("a.b-c=3e0", {"a.b-c": 3.0})],
)
def test_weights(text: str, weights: dict[str, float]) -> None:
    assert ServerSettings(model_weights=text).limits().model_weights == weights


@pytest.mark.parametrize(
    "text",
    ["small", "=2", "small=", "small=two", "small=0", "small=-1", "small=inf", "small=0.01", "small=11", "a=1,a=2"],
)
def test_what_is_no_weight(text: str) -> None:
    with pytest.raises(ValidationError, match=r"is not NAME=WEIGHT|has two weights"):
        ServerSettings(model_weights=text)
