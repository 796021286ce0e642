"""What is said of a body that is not of its form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from charloom.server.http.bodies import Body, parsed_json
from charloom.server.http.chat import ChatBody
from charloom.server.http.completions import CompletionBody
from charloom.server.http.problems import Refused

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


@pytest.mark.parametrize(
    ("form", "body", "said"),
    [
        (CompletionBody, {"stop": 3}, "stop: Input should be a valid string"),
        (CompletionBody, {"stop": ["a", 3]}, "stop[1]: Input should be a valid string"),
        (ChatBody, {"messages": "hi"}, "messages: it is no list; give [...]"),
        (
            ChatBody,
            {"messages": [{"role": "user", "content": 3}]},
            "messages[0].content: Input should be a valid string",
        ),
        (
            ChatBody,
            {"messages": [{"role": "user", "content": [IMAGE]}]},
            "messages[0].content[0].type: Input should be 'text'",
        ),
        (
            ChatBody,
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text: Field required",
        ),
    ],
)
def test_a_value_of_several_kinds_is_told_by_the_kind_that_it_is(form: type[Body], body: Any, said: str) -> None:
    with pytest.raises(Refused) as refused:
        parsed_json(json.dumps(body).encode(), form)
    assert str(refused.value) == said
    assert refused.value.param == said.partition(":")[0]
