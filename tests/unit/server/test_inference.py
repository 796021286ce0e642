"""Sequences of the Open Inference Protocol: who may begin and end them, and what becomes of one whose text is cut."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.engine import Engine
from charloom.engine.errors import SessionNotFound
from charloom.engine.limits import Limits
from charloom.engine.sessions.session import Key
from charloom.server.caller import Caller, set_caller
from charloom.server.identity.errors import ScopeMissing
from charloom.server.identity.scopes import Scope
from charloom.server.inference.inference import Inference
from charloom.server.inference.requests import InferenceRequest, Parameter
from charloom.server.inference.tensors import Tensor

SEQUENCE = Key("", "sequence-7")
START, END = {"sequence_start": True}, {"sequence_end": True}


@pytest.fixture
async def inference(bundle: Bundle, decoder: Decoder) -> AsyncIterator[Inference]:
    set_caller(Caller())
    inference = Inference(Engine([(bundle, decoder)], Limits(unread_tokens=64)))
    yield inference
    await inference.engine.drain(0)


def asking(inference: Inference, text: str = "the ", **parameters: Parameter) -> InferenceRequest:
    """A request of the sequence."""
    given = {"max_tokens": 12, "sequence_id": 7, **parameters}
    inputs = [Tensor("text_input", "BYTES", [1], [text.encode()])]
    return InferenceRequest(inference.engine.models[0].name, "", "", given, inputs, [])


async def test_who_may_make_and_delete_no_sessions_begins_and_ends_no_sequence(inference: Inference) -> None:
    sessions = inference.engine.sessions
    only_generates = Caller(scopes=frozenset({Scope.GENERATE}))
    set_caller(only_generates)
    with pytest.raises(ScopeMissing, match="the scope sessions"):
        await inference.whole(asking(inference, **START))
    with pytest.raises(SessionNotFound):
        await sessions.get(SEQUENCE)
    set_caller(Caller())
    begun = (await inference.whole(asking(inference, **START))).position
    set_caller(only_generates)
    for flags in (START, END, {**START, **END}):
        with pytest.raises(ScopeMissing, match="the scope sessions"):
            await anext(inference.pieces(asking(inference, **flags)))
        assert (await sessions.get(SEQUENCE)).snapshot.position == begun
    assert (await inference.whole(asking(inference, ""))).position == begun + 12


@pytest.mark.parametrize("flags", [END, {**START, **END}], ids=["end", "start and end"])
async def test_a_sequence_whose_last_text_is_cut_by_a_server_that_stops_stays(
    inference: Inference, flags: dict[str, Parameter]
) -> None:
    await inference.whole(asking(inference, **START))
    pieces = inference.pieces(asking(inference, max_tokens=10_000, **flags))
    await anext(pieces)
    await inference.engine.drain(0)
    (*_, last) = [piece async for piece in pieces]
    assert last.finish == "draining"
    assert (await inference.engine.sessions.get(SEQUENCE)).snapshot.position == last.position


async def test_a_sequence_whose_last_text_has_ended_is_gone(inference: Inference) -> None:
    assert (await inference.whole(asking(inference, **START, **END))).finish == "length"
    with pytest.raises(SessionNotFound):
        await inference.engine.sessions.get(SEQUENCE)
