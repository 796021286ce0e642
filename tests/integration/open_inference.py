"""What the tests of the Open Inference Protocol share: requests by the stock client of Triton, over any transport."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

Change = Callable[[dict[str, Any], ModuleType], None]
"""Changes the arguments of a call to `infer`, given the client's module."""


def texts(triton: ModuleType, *values: str, **options: Any) -> list[Any]:
    """The input that has these texts."""
    found = triton.InferInput("text_input", [len(values)], "BYTES")
    found.set_data_from_numpy(np.array([value.encode() for value in values], dtype=np.object_), **options)
    return [found]


def text_of(result: Any) -> str:
    """The text of an answer."""
    (value,) = result.as_numpy("text_output")
    return str(value.decode() if isinstance(value, bytes) else value)


def with_parameter(**changes: Any) -> Change:
    """Another value of a parameter."""
    return lambda asked, triton: asked["parameters"].update(changes)


REFUSED: list[tuple[Change, str]] = [
    (lambda asked, triton: asked.update(model_name="another"), "no model 'another'"),
    (lambda asked, triton: asked.update(model_version="7"), "not '7'"),
    (lambda asked, triton: asked.update(inputs=[]), "give 'text_input' alone"),
    (lambda asked, triton: asked.update(inputs=texts(triton, "a", "b")), "give one text"),
    (with_parameter(max_tokens=-1), "max_tokens"),
    (with_parameter(max_tokens=1.5), "not a whole number"),
    (with_parameter(max_tokens="many"), "not a number"),
    (with_parameter(temperature=True), "not a number"),
    (with_parameter(temperature=-1), "temperature"),
    (with_parameter(heat=1), "no such parameter"),
    (with_parameter(seed=-1), "seed"),
    (with_parameter(stream="yes"), "not true or false"),
    (with_parameter(unknown_characters="keep"), "neither 'reject' nor 'skip'"),
    (lambda asked, triton: asked.update(inputs=texts(triton, "\u2603")), "\u2603"),
    (lambda asked, triton: asked.update(outputs=[triton.InferRequestedOutput("logits")]), "no output 'logits'"),
    (lambda asked, triton: asked.update(sequence_id=77), "START flag"),
    (lambda asked, triton: asked.update(sequence_id="a/b", sequence_start=True), "'sequence-a/b' is not allowed"),
]
"""Requests that no transport accepts, and what the error says."""
