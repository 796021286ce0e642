"""Bodies of the Open Inference Protocol: JSON, and after it the tensors that are binary, one after another.

The header `Inference-Header-Content-Length` says where the JSON ends; without it, everything is JSON
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md). Content types say
nothing: clients send any, or none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from itertools import islice
from typing import Annotated, Any, NamedTuple

from pydantic import Field, PlainValidator, WithJsonSchema

from charloom.engine.errors import InvalidRequest, shown
from charloom.server.http.bodies import B, Body, Count, Items, at_most, parsed_json
from charloom.server.http.exchange import json_of
from charloom.server.http.problems import Refused
from charloom.server.inference.inference import Piece, version_of
from charloom.server.inference.requests import (
    MOST_PARAMETERS,
    MOST_TENSORS,
    MOST_VALUES,
    OUTPUTS,
    InferenceRequest,
    Parameter,
)
from charloom.server.inference.tensors import Tensor, Value, strings_of

HEAD_LENGTH = "inference-header-content-length"


def _one_value(value: Any) -> Parameter:
    if isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError("it is neither true or false, nor a number, nor a text")


OneValue = Annotated[Parameter, PlainValidator(_one_value), WithJsonSchema({"type": ["boolean", "number", "string"]})]


class IndexBody(Body):
    """Which models are listed."""

    ready: bool = Field(False, description="whether to leave out those that are about to go")


class InputParameters(Body):
    """Where the values of an input are."""

    binary_data_size: Count | None = Field(None, description="how many of the bytes after the JSON are its values")


class InputTensor(Body):
    """What the model reads."""

    name: str
    datatype: str
    shape: Items[Count] = Field(max_length=MOST_VALUES)
    data: list[Any] | None = Field(None, description="its values, flat or nested as the shape is")
    parameters: InputParameters = Field(default_factory=InputParameters)


class OutputParameters(Body):
    """How an output is told."""

    binary_data: bool | None = Field(None, description="whether as bytes after the JSON")


class WantedOutput(Body):
    """An output that is wanted."""

    name: str
    parameters: OutputParameters = Field(default_factory=OutputParameters)


class InferBody(Body):
    """A text to go on from, and how."""

    id: str = Field("", description="the answer has it too")
    parameters: Annotated[dict[str, OneValue], at_most(MOST_PARAMETERS)] = Field(
        default_factory=dict, max_length=MOST_PARAMETERS
    )
    inputs: Items[InputTensor] = Field(max_length=MOST_TENSORS, description="one, text_input")
    outputs: Items[WantedOutput] = Field(default_factory=list, max_length=MOST_TENSORS, description="all if left out")


class Infer(NamedTuple):
    """An `InferBody`, and the bytes after it."""

    body: InferBody
    octets: bytes


def read_json(content: bytes, headers: Mapping[str, str], form: type[B]) -> tuple[B, list[str]]:
    """The value of a body that is JSON, and its fields that mean nothing here.

    Raises:
        Refused: it is not of this form, or compressed.
    """
    _check_encoding(headers)
    return parsed_json(content, form)


def read_infer(content: bytes, headers: Mapping[str, str], form: type[InferBody]) -> tuple[Infer, list[str]]:
    """The value of a body whose tensors may follow it, and its fields that mean nothing here.

    Raises:
        Refused: as of `read_json`; or the body is shorter than the header says.
    """
    _check_encoding(headers)
    given = headers.get(HEAD_LENGTH, str(len(content)))
    if not (given.isascii() and given.isdecimal() and len(given) < 20 and int(given) <= len(content)):
        raise Refused(
            400,
            "INVALID_REQUEST",
            f"{HEAD_LENGTH}: {shown(given)} is no length of a part of the body, which has {len(content)} bytes",
            param=HEAD_LENGTH,
        )
    body, unknown = parsed_json(content[: int(given)], form)
    return Infer(body, content[int(given) :]), unknown


def _check_encoding(headers: Mapping[str, str]) -> None:
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise Refused(415, "COMPRESSED", f"the body is compressed ({shown(encoding)}); send it as it is")


def to_inference(asked: Infer, model: str, version: str) -> InferenceRequest:
    """What a body asks of a model.

    Raises:
        InvalidRequest: the values of its tensors are cut off, are more than it says, or come twice.
    """
    body = asked.body
    ends = [0]
    for tensor in body.inputs:
        ends.append(ends[-1] + (tensor.parameters.binary_data_size or 0))
    if ends[-1] != len(asked.octets):
        raise InvalidRequest(
            "inputs",
            f"{len(asked.octets)} bytes follow the JSON, and binary_data_size says {ends[-1]}; the header "
            f"{HEAD_LENGTH} says where the JSON ends",
        )
    return InferenceRequest(
        model=model,
        version=version,
        id=body.id,
        parameters=body.parameters,
        inputs=[
            _tensor(tensor, asked.octets[start:end])
            for tensor, start, end in zip(body.inputs, ends, ends[1:], strict=False)
        ],
        outputs=[output.name for output in body.outputs],
    )


def _tensor(tensor: InputTensor, octets: bytes) -> Tensor:
    in_octets = tensor.parameters.binary_data_size is not None
    if in_octets and tensor.data is not None:
        raise InvalidRequest(tensor.name, "it has data, and binary_data_size too")
    if tensor.datatype != "BYTES":
        values: list[Value] = []  # nothing else is taken, and so nothing else is read
    elif in_octets:
        values = list(strings_of(tensor.name, octets, min(MOST_VALUES, math.prod(tensor.shape))))
    else:
        values = list(islice(_values(tensor.name, tensor.data or []), MOST_VALUES))
    return Tensor(tensor.name, tensor.datatype, tensor.shape, values)


def _values(name: str, data: list[Any]) -> Iterator[bytes]:
    for part in data:
        for value in part if isinstance(part, list) else [part]:
            if not isinstance(value, str):
                raise InvalidRequest(name, "its data are no strings")
            yield value.encode()


def binary_outputs(body: InferBody) -> Set[str]:
    """The outputs that are told as bytes after the JSON.

    Raises:
        InvalidRequest: it does not say clearly which.
    """
    all_of_them = body.parameters.get("binary_data_output", False)
    if not isinstance(all_of_them, bool):
        raise InvalidRequest("parameters['binary_data_output']", f"{shown(str(all_of_them))} is not true or false")
    if not body.outputs:
        return OUTPUTS.keys() if all_of_them else set()
    said = ((output.name, output.parameters.binary_data) for output in body.outputs)
    return {name for name, binary in said if (all_of_them if binary is None else binary)}


def from_piece(piece: Piece, body: InferBody, binary: Set[str]) -> tuple[bytes, bytes]:
    """The JSON of an answer, and the bytes after it.

    Args:
        piece: what there is to tell
        body: the request
        binary: names of outputs that are told as bytes
    """
    outputs: list[dict[str, Any]] = []
    octets: list[bytes] = []
    for tensor in piece.tensors:
        told: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if tensor.name in binary:
            octets.append(tensor.raw())
            told["parameters"] = {"binary_data_size": len(octets[-1])}
        else:
            told["data"] = [value.decode() if isinstance(value, bytes) else value for value in tensor.values]
        outputs.append(told)
    head: dict[str, Any] = {"model_name": piece.model.name, "model_version": version_of(piece.model)}
    if body.id:
        head["id"] = body.id
    if "sequence_id" in body.parameters:
        head["parameters"] = {"sequence_id": body.parameters["sequence_id"]}
    return json_of({**head, "outputs": outputs}), b"".join(octets)
