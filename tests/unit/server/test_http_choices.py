"""How choices are told, as a stream and as a whole."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from charloom.bundle import CharacterVocabulary
from charloom.engine.calls.generation import TextDelta
from charloom.engine.calls.reading import ScoredText
from charloom.engine.loom.jobs import FinishReason
from charloom.engine.loom.logprobs import Block, Logprobs
from charloom.server.http.choices import ECHOED, Part, streamed, whole
from charloom.server.http.completions import CompletionForm
from charloom.server.http.logprobs import Columns

VOCABULARY = CharacterVocabulary.of_text("abc ")
MODEL: Any = SimpleNamespace(vocabulary=VOCABULARY)
TOP = 3


def logprobs_of(text: str) -> Logprobs:
    tokens = VOCABULARY.encode(text).astype(np.int32)
    values = -np.arange(1, len(tokens) + 1, dtype=np.float32)
    tops = np.tile(np.arange(TOP, dtype=np.int32), (len(tokens), 1))
    return Logprobs([Block(tokens, values, values, tops, -tops.astype(np.float32))])


class Continued:
    """A continuation whose text is there at once, or as soon as `free` is set."""

    model: Any = MODEL
    vocabulary = VOCABULARY

    def __init__(self, text: str, free: asyncio.Event | None = None, frees: asyncio.Event | None = None) -> None:
        self._text, self._told, self._free, self._frees = text, False, free, frees
        self.result: Any = None

    def cancel(self) -> None:
        pass

    async def whole(self) -> TextDelta:
        if self._frees is not None:
            self._frees.set()
        if self._free is not None:
            await self._free.wait()
        snapshot = SimpleNamespace(position=len(self._text), seed=1)
        finish = SimpleNamespace(
            generated=len(self._text), fed=0, reason=FinishReason.LENGTH, snapshot=snapshot, allowed=None
        )
        self.result = SimpleNamespace(finish=finish, stop=None, resampled=None, state=b"")
        return TextDelta(self._text, len(self._text), logprobs_of(self._text))

    def __aiter__(self) -> Continued:
        return self

    async def __anext__(self) -> TextDelta:
        if self.result is not None:
            raise StopAsyncIteration
        return await self.whole()


def part_of(prompt: str, *texts: str, scored: bool = True) -> Part:
    score = ScoredText(logprobs_of(prompt), len(prompt)) if scored else None
    return Part(MODEL, prompt, [Continued(text) for text in texts], score, echo=True)


def choices_of(events: list[bytes]) -> dict[int, dict[str, Any]]:
    """Each choice, put together from the events of a stream."""
    found: dict[int, dict[str, Any]] = {}
    for event in events:
        (choice,) = json.loads(event.removeprefix(b"data: "))["choices"]
        one = found.setdefault(choice["index"], {"text": "", "logprobs": {}})
        one["text"] += choice["text"]
        for name, values in (choice["logprobs"] or {}).items():
            one["logprobs"].setdefault(name, []).extend(values)
        one["finish_reason"] = choice["finish_reason"]
    return found


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many log-probabilities were made into JSON, each time."""
    found: list[int] = []
    real = Columns.told

    def counted(columns: Columns, logprobs: Logprobs) -> Any:
        found.append(len(logprobs))
        return real(columns, logprobs)

    monkeypatch.setattr(Columns, "told", counted)
    return found


async def test_the_echo_of_a_stream_is_made_once_for_all_choices_as_it_is_read(told: list[int]) -> None:
    prompt = "ab c" * ECHOED
    form = CompletionForm("small", "digest")
    events = streamed([part_of(prompt, "a", "b", "c")], form, True, False)
    first = [await anext(events)]
    each = ECHOED // (1 + TOP)
    assert told == [each], "of more, nothing is made before somebody reads on"
    read = first + [event async for event in events]
    assert sum(told) == len(prompt) + 3
    assert max(map(len, read)) < 200 * each
    (answer,) = json.loads(b"".join(await whole([part_of(prompt, "a")], form, True, 1)))["choices"]
    choices = choices_of(read)
    assert choices[0] == {name: answer[name] for name in ("text", "logprobs", "finish_reason")}
    assert [choice["text"] for choice in choices.values()] == [prompt + text for text in "abc"]
    assert choices[2]["logprobs"]["text_offset"] == list(range(len(prompt) + 1))


@pytest.mark.parametrize(("scored", "length"), [(False, 3 * ECHOED + 1), (True, 0), (False, 0), (True, 5)])
async def test_an_echo_of_any_length_is_that_of_the_whole_answer(scored: bool, length: int) -> None:
    prompt = "a" * length
    form = CompletionForm("small", "digest")
    parts = [part_of(prompt, "b", scored=scored), part_of(prompt, "c", "a", scored=scored)]
    found = choices_of([event async for event in streamed(parts, form, scored, False)])
    assert [found[number]["text"] for number in range(3)] == [prompt + text for text in "bca"]
    offsets = [found[number]["logprobs"].get("text_offset") for number in range(3)]
    assert offsets == ([list(range(length + 1))] * 3 if scored else [None] * 3)


@pytest.mark.parametrize(("texts", "scored"), [((), True), (("b",), True), (("b",), False), (("b", "c"), False)])
async def test_an_echo_is_one_event_unless_several_choices_have_its_log_probabilities(
    texts: tuple[str, ...], scored: bool
) -> None:
    """A client of one choice knows by that where its prompt ends, which may have become longer or shorter."""
    prompt = "a" * (3 * ECHOED + 1)
    form = CompletionForm("small", "digest")
    events = [event async for event in streamed([part_of(prompt, *texts, scored=scored)], form, scored, False)]
    echoed = choices_of(events[: max(1, len(texts))])
    assert [choice["text"] for choice in echoed.values()] == [prompt] * max(1, len(texts))


async def test_a_prompt_alone_ends_with_its_last_piece_and_counts() -> None:
    prompt = "ab" * ECHOED
    *events, last = [
        event async for event in streamed([part_of(prompt)], CompletionForm("small", "digest"), True, True)
    ]
    (choice,) = choices_of(events).values()
    assert (choice["text"], choice["finish_reason"]) == (prompt, "length")
    assert len(choice["logprobs"]["tokens"]) == len(prompt)
    assert json.loads(last.removeprefix(b"data: "))["usage"]["prompt_tokens"] == len(prompt)


async def test_all_texts_of_an_answer_are_read_at_the_same_time() -> None:
    """The first one ends only once the second one is read."""
    free = asyncio.Event()
    parts = [
        Part(MODEL, "a", [Continued("b", free=free)]),
        Part(MODEL, "a", [Continued("c", frees=free)]),
    ]
    answer = json.loads(b"".join(await whole(parts, CompletionForm("small", "digest"), False, 1)))
    assert [choice["text"] for choice in answer["choices"]] == ["b", "c"]
