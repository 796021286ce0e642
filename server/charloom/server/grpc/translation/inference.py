"""open_inference.proto: requests, tensors and answers of the Open Inference Protocol."""

from __future__ import annotations

import math
from typing import Any

from charloom import inference
from charloom.engine.errors import InvalidRequest
from charloom.server.inference.inference import PLATFORM, Piece, inputs_of, outputs_of, version_of
from charloom.server.inference.requests import (
    MOST_PARAMETERS,
    MOST_TENSORS,
    MOST_VALUES,
    InferenceRequest,
    Parameter,
)
from charloom.server.inference.tensors import Tensor, Value, strings_of


def to_inference(request: Any) -> InferenceRequest:
    """What a ModelInferRequest says.

    Raises:
        InvalidRequest: its tensors have no content, or two.
    """
    if len(request.inputs) > MOST_TENSORS or len(request.outputs) > MOST_TENSORS:
        raise InvalidRequest("inputs", f"there are more than {MOST_TENSORS} tensors")
    if len(request.parameters) > MOST_PARAMETERS:
        raise InvalidRequest("parameters", f"there are more than {MOST_PARAMETERS}")
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequest("raw_input_contents", f"there are {len(raw)} for {len(request.inputs)} inputs")
    return InferenceRequest(
        model=request.model_name,
        version=request.model_version,
        id=request.id,
        parameters={name: _parameter(name, value) for name, value in request.parameters.items()},
        inputs=[_tensor(tensor, raw[number] if raw else None) for number, tensor in enumerate(request.inputs)],
        outputs=[output.name for output in request.outputs],
    )


def _parameter(name: str, value: Any) -> Parameter:
    kind = value.WhichOneof("parameter_choice")
    if kind is None:
        raise InvalidRequest(f"parameters[{name[:80]!r}]", "it has no value")
    found: Parameter = getattr(value, kind)
    return found


def _tensor(tensor: Any, raw: bytes | None) -> Tensor:
    shape = list(tensor.shape[:MOST_VALUES])
    if tensor.datatype != "BYTES":
        values: list[Value] = []  # nothing else is taken, and so nothing else is read
    elif raw is None:
        values = list(tensor.contents.bytes_contents[:MOST_VALUES])
    elif tensor.HasField("contents"):
        raise InvalidRequest(tensor.name, "it has contents, and raw_input_contents too")
    else:
        values = list(strings_of(tensor.name, raw, max(0, min(MOST_VALUES, math.prod(shape)))))
    return Tensor(tensor.name, tensor.datatype, shape, values)


def from_piece(piece: Piece, request: Any) -> Any:
    """The ModelInferResponse for a piece, in the form of the request: raw where its inputs were."""
    response = inference.ModelInferResponse(
        model_name=piece.model.name, model_version=version_of(piece.model), id=request.id
    )
    if "sequence_id" in request.parameters:
        response.parameters["sequence_id"].CopyFrom(request.parameters["sequence_id"])
    for tensor in piece.tensors:
        output = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if request.raw_input_contents:
            response.raw_output_contents.append(tensor.raw())
        elif tensor.datatype == "BYTES":
            output.contents.bytes_contents.extend(tensor.values)
        else:
            output.contents.int64_contents.extend(tensor.values)
    return response


def from_model(model: Any) -> Any:
    """The ModelMetadataResponse for a model."""
    response = inference.ModelMetadataResponse(name=model.name, versions=[version_of(model)], platform=PLATFORM)
    for told, tensors in ((response.inputs, inputs_of()), (response.outputs, outputs_of())):
        for tensor in tensors:
            told.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return response
