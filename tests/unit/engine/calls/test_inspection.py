"""Looking inside the network: from every state, in any parts, within its limits, and never in the way."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charloom.bundle import INSPECTOR_FILE, Bundle, BundleError, read_bundle
from charloom.engine import errors
from charloom.engine.calls import inspection
from charloom.engine.calls.inspection import CHUNK, InspectedToken, InspectionRequest
from charloom.engine.calls.requests import ReadingRequest
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.inspector import Activations, Inspector
from charloom.engine.engine import Engine
from charloom.engine.limits import MOST_INSPECTED, MOST_INSPECTIONS
from charloom.engine.memory_budget import MemoryBudget, TooMuchMemory
from charloom.engine.sessions.session import Key
from charloom.export.inspector import build_inspector
from charloom.export.weights import decoder_weights
from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM
from tests.unit.bundle.bundle_files import change_manifest, replace_file

NO_SESSION = Key("", "")
TEXT = ("The cat is an object. " * 20)[: 2 * CHUNK + 37]
Copied = Callable[[], Path]


@pytest.fixture
async def engine(bundle: Bundle, decoder: Decoder) -> AsyncIterator[Engine]:
    engine = Engine([(bundle, decoder)])
    yield engine
    await engine.drain(0)


async def inspected(engine: Engine, key: Key, text: str, **options: Any) -> list[InspectedToken]:
    begun = await engine.inspections.inspect(InspectionRequest(key, text=text, **options))
    return [token async for token in begun.tokens]


def assert_same(one: list[InspectedToken], other: list[InspectedToken]) -> None:
    """Within rounding: a session's state is from the decoder."""
    assert [(token.token, token.position) for token in one] == [(token.token, token.position) for token in other]
    for left, right in zip(one, other, strict=True):
        for name in ("logprob", "gates", "state"):
            np.testing.assert_allclose(getattr(left, name), getattr(right, name), atol=1e-5, err_msg=name)


async def test_its_probabilities_are_those_of_a_score(engine: Engine) -> None:
    found = await inspected(engine, NO_SESSION, TEXT)
    reading, _ = await engine.reading.score(ReadingRequest(NO_SESSION, text=TEXT))
    assert [token.token for token in found] == [logprob.token for logprob in reading.logprobs]
    expected = [logprob.logprob for logprob in reading.logprobs]
    np.testing.assert_allclose([token.logprob for token in found], expected, atol=1e-5)
    assert [token.position for token in found] == list(range(1, len(TEXT) + 1))


async def test_the_distribution_after_a_token_has_the_next_one_and_sums_to_one(engine: Engine) -> None:
    found = await inspected(engine, NO_SESSION, TEXT, top_next=3, distribution=True)
    for one, following in itertools.pairwise(found):
        assert one.distribution is not None
        assert following.logprob == one.distribution[following.token]
    for one in found:
        assert one.distribution is not None
        assert np.exp(one.distribution).sum() == pytest.approx(1, abs=1e-5)
        best = sorted(enumerate(one.distribution.tolist()), key=lambda entry: -entry[1])[:3]
        assert one.next == best
    (plain,) = await inspected(engine, NO_SESSION, "a")
    assert (plain.next, plain.distribution) == ([], None)


@pytest.mark.parametrize("cut", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 150])
async def test_in_two_parts_through_a_session_it_is_the_whole(engine: Engine, cut: int) -> None:
    session = await engine.sessions.create(seed=1)
    first = await inspected(engine, session.key, TEXT[:cut])
    await engine.reading.feed(ReadingRequest(session.key, text=TEXT[:cut]), None)
    second = await inspected(engine, session.key, TEXT[cut:])
    assert_same(first + second, await inspected(engine, NO_SESSION, TEXT))
    assert (await engine.sessions.get(session.key)).snapshot.position == cut


async def test_a_session_that_was_put_back_and_has_tokens_still_to_read(engine: Engine) -> None:
    session = await engine.sessions.create(seed=1)
    await engine.reading.feed(ReadingRequest(session.key, text=TEXT), None)
    await engine.sessions.rewind(session.key, 100, None, None)
    assert len((await engine.sessions.get(session.key)).snapshot.pending) > CHUNK
    found = await inspected(engine, session.key, TEXT[100:])
    assert_same(found, (await inspected(engine, NO_SESSION, TEXT))[100:])


async def test_only_the_layers_that_were_asked_for(engine: Engine) -> None:
    both = await engine.inspections.inspect(InspectionRequest(NO_SESSION, text="cat"))
    second = await engine.inspections.inspect(InspectionRequest(NO_SESSION, text="cat", layers=[1, 1]))
    assert (both.layers, second.layers) == ([0, 1], [1])
    for one, other in zip([t async for t in both.tokens], [t async for t in second.tokens], strict=True):
        assert one.gates.shape == (2, 4, 48)
        assert np.array_equal(one.gates[1:], other.gates)
        assert np.array_equal(one.state[:, 1:], other.state)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"text": "a" * (MOST_INSPECTED + 1)}, "text"),
        ({"text": "日"}, "text"),
        ({"layers": [0, 2]}, r"layers\[1\]"),
        ({"layers": [0] * 100_000}, "layers"),
        ({"top_next": 21}, "top_next"),
    ],
)
async def test_what_cannot_be_done_is_refused(engine: Engine, options: dict[str, Any], field: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=f"^{field}: "):
        await engine.inspections.inspect(InspectionRequest(NO_SESSION, **options))


async def test_the_longest_text_is_taken_and_unknown_characters_can_be_skipped(engine: Engine) -> None:
    assert len(await inspected(engine, NO_SESSION, "ab" * (MOST_INSPECTED // 2))) == MOST_INSPECTED
    assert [t.position for t in await inspected(engine, NO_SESSION, "a日b", skip_unknown=True)] == [1, 2]
    assert await inspected(engine, NO_SESSION, "日", skip_unknown=True) == []


async def test_no_more_than_some_run_and_each_gives_its_place_back(engine: Engine) -> None:
    request = InspectionRequest(NO_SESSION, text=TEXT)
    begun = [(await engine.inspections.inspect(request)).tokens for _ in range(MOST_INSPECTIONS)]
    for tokens in begun:
        await anext(tokens)
    with pytest.raises(errors.Overloaded, match=f"{MOST_INSPECTIONS} inspections are running"):
        await inspected(engine, NO_SESSION, "a")
    await begun[0].aclose()  # type: ignore[attr-defined]
    assert len(await inspected(engine, NO_SESSION, "a")) == 1
    assert len([token async for token in begun[1]]) == len(TEXT) - 1  # the others were not disturbed
    for tokens in begun[2:]:
        await tokens.aclose()  # type: ignore[attr-defined]


async def test_each_holds_the_memory_of_what_is_computed_while_it_has_its_place(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = decoder.shape
    numbers = 3 * shape.vocabulary + 2 * (4 + shape.arrays) * shape.layers * shape.hidden
    budget = MemoryBudget(20 * CHUNK * 4 * numbers)
    engine = Engine([(bundle, decoder)], budget=budget)
    try:
        request = InspectionRequest(NO_SESSION, text=TEXT)
        begun = [(await engine.inspections.inspect(request)).tokens for _ in range(MOST_INSPECTIONS)]
        assert budget.held == 0
        for tokens in begun:
            await anext(tokens)
        assert budget.held >= MOST_INSPECTIONS * CHUNK * 4 * numbers
        held = budget.held
        monkeypatch.setattr(inspection, "PATIENCE", 0.0)
        assert len(await inspected(engine, NO_SESSION, TEXT)) == len(TEXT)
        assert budget.held == held * (MOST_INSPECTIONS - 1) // MOST_INSPECTIONS, "one has lost its place"
        for tokens in begun:
            await tokens.aclose()  # type: ignore[attr-defined]
        assert budget.held == 0
    finally:
        await engine.drain(0)
    engine = Engine([(bundle, decoder)], budget=MemoryBudget(CHUNK * 4 * numbers))
    try:
        with pytest.raises(TooMuchMemory):
            await inspected(engine, NO_SESSION, TEXT)
        assert engine.inspections.running == 0
    finally:
        await engine.drain(0)


async def test_of_a_large_vocabulary_fewer_tokens_are_computed_at_a_time(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, most = await inspected(engine, NO_SESSION, TEXT), 0
    run = Inspector.run

    def seen(self: Inspector, tokens: Any, state: Any) -> Activations:
        nonlocal most
        most = max(most, len(tokens))
        return run(self, tokens, state)

    monkeypatch.setattr(Inspector, "run", seen)
    for few, logits in ((7, 7 * engine.models[0].vocabulary.size), (1, 1)):
        monkeypatch.setattr(inspection, "CHUNK_LOGITS", logits)
        assert_same(await inspected(engine, NO_SESSION, TEXT), expected)
        assert most == few
        most = 0


async def test_the_inspector_is_opened_once_when_it_is_needed_and_used_by_one_at_a_time(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    at_once = most = 0

    class Watched(Inspector):
        def __init__(self, bundle: Bundle) -> None:
            opened.append(threading.current_thread().name)
            super().__init__(bundle)

        def run(self, *arguments: Any) -> Activations:
            nonlocal at_once, most
            assert threading.current_thread() is not threading.main_thread()
            at_once += 1
            most = max(most, at_once)
            try:
                return super().run(*arguments)
            finally:
                at_once -= 1

    monkeypatch.setattr(inspection, "Inspector", Watched)
    begun = [await engine.inspections.inspect(InspectionRequest(NO_SESSION, text=TEXT)) for _ in range(4)]
    assert opened == []

    async def read(tokens: AsyncIterator[InspectedToken]) -> list[InspectedToken]:
        return [token async for token in tokens]

    first, *others = await asyncio.gather(*(read(one.tokens) for one in begun))
    for other in others:
        assert_same(first, other)
    assert (len(opened), most) == (1, 1)
    assert threading.main_thread().name not in opened


async def test_who_begins_and_leaves_does_not_make_it_compute_more_at_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, most, go_on = 0, 0, threading.Event()

    class Slow(Inspector):
        def run(self, *arguments: Any) -> Activations:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            go_on.wait(60)
            at_once -= 1
            return super().run(*arguments)

    monkeypatch.setattr(inspection, "Inspector", Slow)
    for _ in range(3 * MOST_INSPECTIONS):
        begun = await engine.inspections.inspect(InspectionRequest(NO_SESSION, text=TEXT))
        reading = asyncio.ensure_future(anext(begun.tokens))
        await asyncio.sleep(0.01)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert engine.inspections.running == 0
    go_on.set()
    assert len(await inspected(engine, NO_SESSION, TEXT)) == len(TEXT)
    assert most == 1


async def test_who_does_not_read_loses_the_place_when_others_need_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = InspectionRequest(NO_SESSION, text=TEXT)
    begun = [(await engine.inspections.inspect(request)).tokens for _ in range(MOST_INSPECTIONS)]
    for tokens in begun:
        await anext(tokens)
        await asyncio.sleep(0.01)
    await anext(begun[0])  # now the second one has waited longest
    monkeypatch.setattr(inspection, "PATIENCE", 0.0)
    assert len(await inspected(engine, NO_SESSION, TEXT)) == len(TEXT)
    assert engine.inspections.running == MOST_INSPECTIONS - 1
    with pytest.raises(errors.ReaderStalled):
        await anext(begun[1])
    assert len([token async for token in begun[0]]) == len(TEXT) - 2
    for tokens in begun[2:]:
        await tokens.aclose()  # type: ignore[attr-defined]
    assert engine.inspections.running == 0


async def test_one_that_no_memory_would_do_for_takes_nobody_s_place(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = InspectionRequest(NO_SESSION, text=TEXT)
    begun = [(await engine.inspections.inspect(request)).tokens for _ in range(MOST_INSPECTIONS)]
    for tokens in begun:
        await anext(tokens)
    monkeypatch.setattr(inspection, "PATIENCE", 0.0)
    monkeypatch.setattr(engine.budget, "most", 1000)
    with pytest.raises(TooMuchMemory):
        await inspected(engine, NO_SESSION, TEXT)
    monkeypatch.undo()
    for tokens in begun:
        assert len([token async for token in tokens]) == len(TEXT) - 1


async def test_it_needs_no_thread_that_was_not_there_before(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert len(await inspected(engine, NO_SESSION, "KING:")) == 5


async def test_a_server_that_stops_lets_them_end_and_then_ends_them(engine: Engine) -> None:
    quick, slow = [
        (await engine.inspections.inspect(InspectionRequest(NO_SESSION, text=TEXT))).tokens for _ in range(2)
    ]
    await anext(quick), await anext(slow)
    draining = asyncio.ensure_future(engine.drain(60))
    await asyncio.sleep(0.05)
    assert len([token async for token in quick]) == len(TEXT) - 1
    assert not draining.done()
    await anext(slow)
    await engine.drain(0)
    await draining
    with pytest.raises(errors.Draining):
        await anext(slow)


async def test_a_server_that_is_cut_ends_them_at_once(engine: Engine) -> None:
    begun = (await engine.inspections.inspect(InspectionRequest(NO_SESSION, text=TEXT))).tokens
    await anext(begun)
    draining = asyncio.ensure_future(engine.drain(60))
    await asyncio.sleep(0.05)
    engine.end_now()
    await asyncio.wait_for(draining, 60)
    with pytest.raises(errors.Draining):
        await anext(begun)


async def test_a_bundle_that_changes_while_it_is_served(
    copied: Copied, decoder: Decoder, caplog: pytest.LogCaptureFixture
) -> None:
    path = copied()
    engine = Engine([(read_bundle(path), decoder)])
    try:
        (path / INSPECTOR_FILE).unlink()
        for _ in range(2):
            with pytest.raises(errors.ModelNotInspectable, match=r"was changed or moved while .* reload") as problem:
                await inspected(engine, NO_SESSION, "a")
            assert str(path) not in str(problem.value)
        assert caplog.text.count(str(path / INSPECTOR_FILE)) == caplog.text.count("cannot be inspected") == 1
        assert engine.inspections.running == 0
    finally:
        await engine.drain(0)


async def test_a_server_that_stops_takes_none(engine: Engine) -> None:
    admitted = await engine.inspections.inspect(InspectionRequest(NO_SESSION, text="a"))
    await engine.drain(0)
    with pytest.raises(errors.Draining):
        await anext(admitted.tokens)
    with pytest.raises(errors.Draining):
        await inspected(engine, NO_SESSION, "a")


async def test_a_bundle_without_an_inspector_serves_and_says_what_to_do(copied: Copied, decoder: Decoder) -> None:
    path = copied()
    (path / INSPECTOR_FILE).unlink()
    change_manifest(path, lambda manifest: manifest["files"].pop(INSPECTOR_FILE))
    engine = Engine([(read_bundle(path), decoder)])
    try:
        assert (await engine.reading.score(ReadingRequest(NO_SESSION, text="cat")))[0].position == 3
        with pytest.raises(errors.ModelNotInspectable, match=r"no inspector\.onnx; export the model again"):
            await inspected(engine, NO_SESSION, "a")
    finally:
        await engine.drain(0)


def inspector_of(bundle: Bundle, weights_sha256: str, hidden: int) -> bytes:
    """The inspector of a fresh model."""
    config = ModelConfig(layers=bundle.manifest.cell.layers, hidden_size=hidden, embedding_size=8, dropout=0)
    weights = decoder_weights(CharLSTM(bundle.manifest.vocabulary_size, config).eval())
    graph = build_inspector(weights, int8=False, metadata={"weights_sha256": weights_sha256})
    content: bytes = graph.SerializeToString()
    return content


def test_a_file_that_is_not_this_model_s_inspector_is_refused(bundle: Bundle, copied: Copied) -> None:
    path, sha256 = copied(), bundle.manifest.weights_sha256
    for content, words in (
        (b"not a graph", "is not an inspector: "),
        ((path / "decoder.onnx").read_bytes(), "is not an inspector: it maps"),
        (inspector_of(bundle, sha256, hidden=8), "has sizes"),
        (inspector_of(bundle, "a" * 64, hidden=48), "was made from other weights"),
    ):
        replace_file(path, INSPECTOR_FILE, content)
        with pytest.raises(BundleError, match=f"the file {INSPECTOR_FILE} {words}"):
            Inspector(read_bundle(path))
    replace_file(path, INSPECTOR_FILE, inspector_of(bundle, sha256, hidden=48))
    Inspector(read_bundle(path))
    for names, words in (
        ({"arrays": ["h"]}, "has sizes"),
        ({"arrays": ["h", "c"], "gates": ["one", "two", "three"]}, "shows 4 gates, the manifest names 3"),
    ):
        change_manifest(path, lambda manifest, names=names: manifest["cell"].update(names))
        with pytest.raises(BundleError, match=f"the file {INSPECTOR_FILE} {words}"):
            Inspector(read_bundle(path))
