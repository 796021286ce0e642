"""The blocking and the asyncio half of the SDK offer the same, under the same names."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from charloom import client as sdk
from charloom.client import (
    AsyncClient,
    AsyncContinuations,
    AsyncConversation,
    AsyncLabeller,
    AsyncObserver,
    AsyncSession,
    AsyncTenant,
    AsyncTextStream,
    AsyncWatch,
    Client,
    Continuations,
    Conversation,
    Labeller,
    Observer,
    Session,
    Tenant,
    TextStream,
    Watch,
)
from charloom.client._options import GenerateOptions, SamplingOptions
from charloom.v1 import (
    classification_pb2,
    conversation_pb2,
    generation_pb2,
    models_pb2,
    reading_pb2,
    sessions_pb2,
    status_pb2,
    suggesting_pb2,
    tenants_pb2,
    watching_pb2,
)

PAIRS = [
    (Client, AsyncClient),
    (Session, AsyncSession),
    (TextStream, AsyncTextStream),
    (Continuations, AsyncContinuations),
    (Conversation, AsyncConversation),
    (Observer, AsyncObserver),
    (Labeller, AsyncLabeller),
    (Watch, AsyncWatch),
    (Tenant, AsyncTenant),
]
pairs = pytest.mark.parametrize(("blocking", "asynchronous"), PAIRS)

# How a blocking name is spelled in the language's asynchronous protocols.
TWINS = {
    "__enter__": "__aenter__",
    "__exit__": "__aexit__",
    "__iter__": "__aiter__",
    "__next__": "__anext__",
}


def everything(kind: type) -> dict[str, object]:
    """What the SDK's own classes give to a kind, inherited or not."""
    own = [one for one in reversed(kind.__mro__) if one.__module__.startswith("charloom.")]
    return {name: value for one in own for name, value in vars(one).items()}


def members(kind: type) -> dict[str, object]:
    return {name: value for name, value in everything(kind).items() if not name.startswith("_")}


def test_what_is_inherited_is_compared_too() -> None:
    assert {"cancel", "text", "result"} <= members(TextStream).keys() & members(AsyncTextStream).keys()
    assert {"cancel", "texts", "completions"} <= members(Continuations).keys() & members(AsyncContinuations).keys()


@pairs
def test_both_have_the_same_names(blocking: type, asynchronous: type) -> None:
    assert set(members(blocking)) == set(members(asynchronous))


@pairs
def test_both_take_the_same_arguments(blocking: type, asynchronous: type) -> None:
    for name, method in members(blocking).items():
        twin = members(asynchronous)[name]
        assert isinstance(method, property) == isinstance(twin, property), name
        if isinstance(method, property):
            continue
        assert callable(method)
        assert callable(twin)
        assert inspect.signature(method).parameters == inspect.signature(twin).parameters, name


@pairs
def test_both_speak_the_protocols_of_their_kind(blocking: type, asynchronous: type) -> None:
    for name, twin in TWINS.items():
        assert (name in everything(blocking)) == (twin in everything(asynchronous)), name


@pairs
def test_both_give_the_same_properties_the_same_words(blocking: type, asynchronous: type) -> None:
    for name, member in members(blocking).items():
        if isinstance(member, property):
            assert member.__doc__ == members(asynchronous)[name].__doc__, name


def test_both_clients_are_made_alike() -> None:
    assert inspect.signature(Client).parameters == inspect.signature(AsyncClient).parameters


def test_all_is_sorted_and_complete() -> None:
    assert len(set(sdk.__all__)) == len(sdk.__all__)
    public = {name for name, value in vars(sdk).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public == set(sdk.__all__)


def test_every_public_name_and_method_is_described() -> None:
    for name in sdk.__all__:
        thing = getattr(sdk, name)
        # An alias of literals cannot say what it is.
        assert inspect.getdoc(thing) or thing is sdk.UnknownCharacters, name
        for inner, member in members(thing).items() if inspect.isclass(thing) else ():
            if callable(member) or isinstance(member, property):
                assert inspect.getdoc(member), f"{name}.{inner}"


def test_every_option_of_the_contract_is_offered() -> None:
    wire = {field.name for field in generation_pb2.GenerationOptions.DESCRIPTOR.fields} - {
        "prompt",
        "session_id",
        "sampling",
        "n",  # an argument of `continuations`
        "resample",  # another one
        "new_session",  # `session(at_first_text=True)`
        "constraint",
    }
    wire |= {field.name for field in generation_pb2.Constraint.DESCRIPTOR.fields}
    sampling = {field.name for field in generation_pb2.Sampling.DESCRIPTOR.fields}
    assert set(GenerateOptions.__annotations__) == wire | sampling
    assert set(SamplingOptions.__annotations__) == sampling


def test_every_method_of_the_contract_is_used() -> None:
    source = "".join(path.read_text("utf-8") for path in Path(sdk.__file__).parent.rglob("*.py"))
    contract = (
        classification_pb2,
        conversation_pb2,
        generation_pb2,
        models_pb2,
        reading_pb2,
        sessions_pb2,
        status_pb2,
        suggesting_pb2,
        tenants_pb2,
        watching_pb2,
    )
    for messages in contract:
        for service in messages.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if method.name == "Complete":  # whose answer is one message, which has a largest size
                    continue
                assert re.search(rf"\.{method.name}\b", source), method.full_name
