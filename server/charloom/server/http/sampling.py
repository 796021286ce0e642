"""Fields for sampling, and for where a text starts and ends; the same on all routes that generate."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

from pydantic import Field

from charloom.bundle import Task, Vocabulary
from charloom.engine.calls.price import JSON
from charloom.engine.calls.requests import GenerationRequest, Text
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.engine import Engine
from charloom.engine.errors import InvalidRequest, shown
from charloom.engine.limits import MOST_BIASES
from charloom.engine.loom.model import Model
from charloom.engine.sessions.session import Key
from charloom.server.http.bodies import Body, Count, Items, ReadingBody, Whole, at_most
from charloom.server.http.constraints import ConstrainedBody, constraint_of

CONTROLS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "allowed_characters",
    "forbidden_characters",
)
"""Fields that the engine's `Sampling` has under the same names."""


def texts_of(value: Any) -> list[Text]:
    """The texts of a field that takes one or several, as text or as token ids."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        if not value:
            raise ValueError("it is an empty list")
        if all(isinstance(one, str) for one in value):
            return value
        if _are_tokens(value):
            return [value]
        if all(isinstance(one, list) and _are_tokens(one) for one in value):
            return value
    raise ValueError("give a string, a list of strings, a list of token ids, or a list of such lists")


def _are_tokens(values: list[Any]) -> bool:
    return not values or (set(map(type, values)) == {int} and min(values) >= 0 and max(values) < 2**31)


_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
TEXTS_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {**_TOKENS, "minItems": 1},
        {"type": "array", "items": _TOKENS, "minItems": 1},
    ]
}


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool = False
    """Whether a last chunk has the numbers of tokens."""


class GenerationBody(ReadingBody, ConstrainedBody):
    """The fields of every route that generates."""

    model: str = Field("", description="a model of /v1/models; empty for the session's, or the default one")
    min_tokens: Count = Field(0, description="a stop string that would leave a shorter text does not count")
    temperature: float | None = Field(None, description="0 takes the most probable token")
    top_k: Whole | None = Field(None, description="0 or -1 leaves all tokens")
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    allowed_characters: str | None = Field(None, description="only tokens of these characters")
    forbidden_characters: str | None = Field(None, description="no tokens that have any of these")
    logit_bias: Annotated[dict[str, float], at_most(MOST_BIASES)] = Field(
        default_factory=dict, description="by token id in digits, or by characters: what is added to their logits"
    )
    stop: str | Items[str] = Field(default_factory=list, description="strings that end the text")
    include_stop_str_in_output: bool = False
    seed: Whole | None = Field(None, ge=0, description="the same seed gives the same text")
    n: Count = Field(1, description="how many continuations; more than one leave the session as it was")
    stream: bool = False
    stream_options: StreamOptions = Field(default_factory=StreamOptions)
    session_id: str = Field("", description="the session that goes on with the text")
    state: str = Field("", description="a sealed state to start from, in base64")
    return_state: bool = Field(False, description="whether to seal the state at the end")
    expected_position: Count | None = Field(None, description="refuse unless the session is there")
    user: str = Field("", description="taken, as others take it, and not used")


def request_of(body: GenerationBody, model: Model, tenant: str, **more: Any) -> GenerationRequest:
    """Make the engine's request from a body.

    Args:
        body: the body
        model: the model that `model_of` has found
        tenant: the caller's tenant
        more: further fields of the request, from fields that only this route has

    Raises:
        InvalidRequest: a field is out of range, or fields contradict each other.
    """
    given = {name: value for name in CONTROLS if (value := getattr(body, name)) is not None}
    if given.get("top_k") == -1:
        given["top_k"] = 0
    if body.logit_bias:
        given["logit_bias"] = _bias(body.logit_bias, model.vocabulary)
    return GenerationRequest(
        model=body.model,
        digest=model.digest,
        session_id=body.session_id,
        tenant=tenant,
        state=decoded_state(body.state),
        return_state=body.return_state,
        skip_unknown=body.skip_unknown,
        min_tokens=body.min_tokens,
        sampling=Sampling(**given),
        seed=body.seed,
        expected_position=body.expected_position,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop),
        include_stop=body.include_stop_str_in_output,
        constraint=constraint_of(body),
        resample=body.resample,
        told=JSON,
        **more,
    )


async def model_of(body: GenerationBody, engine: Engine, tenant: str) -> Model:
    """The model that a request is for; the call uses it until its end, whatever is loaded meanwhile.

    Raises:
        ModelNotFound, SessionNotFound: as their names say.
        and as `SealedStates.unseal`.
    """
    if body.state:
        return engine.model_of_state(decoded_state(body.state), tenant)
    if not body.session_id:
        return engine.model(body.model, Task.LANGUAGE_MODEL).used()
    session = await engine.sessions.get(Key(tenant, body.session_id))
    return engine.sessions.model_of(session)


def decoded_state(state: str) -> bytes:
    """The bytes of a sealed state.

    Raises:
        InvalidRequest: it is not base64.
    """
    try:
        return base64.b64decode(state, validate=True)
    except (binascii.Error, ValueError) as problem:
        raise InvalidRequest("state", "it is not base64") from problem


def _bias(asked: dict[str, float], vocabulary: Vocabulary) -> tuple[tuple[str, float], ...]:
    """The engine's form of `logit_bias`, which names tokens by their text."""
    return tuple((_characters(name, vocabulary), amount) for name, amount in asked.items())


def _characters(name: str, vocabulary: Vocabulary) -> str:
    if not (name.isascii() and name.isdecimal()):
        return name
    token = int(name.lstrip("0")[:20] or "0")  # Python refuses to read thousands of digits
    if token >= vocabulary.size:
        raise InvalidRequest("logit_bias", f"there is no token {shown(name)}; from 0 to {vocabulary.size - 1}")
    try:
        return vocabulary.symbol(token).decode()
    except UnicodeDecodeError:
        raise InvalidRequest("logit_bias", f"token {token} is a part of a character; name characters instead") from None
