"""/v2: the Open Inference Protocol in its REST form, for clients of Triton and KServe."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from charloom.engine.loom.model import Model
from charloom.server.http.exchange import Exchange, json_of
from charloom.server.http.inference_bodies import (
    HEAD_LENGTH,
    IndexBody,
    Infer,
    binary_outputs,
    from_piece,
    to_inference,
)
from charloom.server.http.models import check_serving
from charloom.server.http.problems import Refused
from charloom.server.inference.inference import EXTENSIONS, PLATFORM, Inference, inputs_of, outputs_of, version_of
from charloom.server.inference.tensors import Tensor
from charloom.server.runtime import Runtime

OCTETS = "application/octet-stream"


class OpenInference:
    """Serves the models as the protocol wants it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._answers = Inference(runtime.engine)

    async def live(self, exchange: Exchange, body: None) -> None:
        """Whether the server runs: it does."""
        await exchange.answer(json_of({"live": True}))

    async def ready(self, exchange: Exchange, body: None) -> None:
        """Whether it takes calls."""
        check_serving(self._runtime)
        await exchange.answer(json_of({"ready": True}))

    async def model_ready(self, exchange: Exchange, body: None) -> None:
        """Whether a model takes calls."""
        model = self._model(exchange)
        check_serving(self._runtime)
        if not self._answers.model_ready(model):
            raise Refused(503, "NOT_SERVING", f"model {model.name!r} cannot generate any more")
        await exchange.answer(json_of({"name": model.name, "ready": True}))

    async def server(self, exchange: Exchange, body: None) -> None:
        """Describe the server."""
        version = importlib.metadata.version("charloom")
        extensions = [*EXTENSIONS, "binary_tensor_data"]
        await exchange.answer(json_of({"name": "charloom", "version": version, "extensions": extensions}))

    async def model(self, exchange: Exchange, body: None) -> None:
        """Describe a model."""
        model = self._model(exchange)
        told = {
            "name": model.name,
            "versions": [version_of(model)],
            "platform": PLATFORM,
            "inputs": [_described(tensor) for tensor in inputs_of()],
            "outputs": [_described(tensor) for tensor in outputs_of()],
        }
        await exchange.answer(json_of(told))

    async def index(self, exchange: Exchange, body: IndexBody) -> None:
        """List the models."""
        await exchange.answer(json_of([vars(listed) for listed in self._answers.index(ready=body.ready)]))

    async def infer(self, exchange: Exchange, asked: Infer) -> None:
        """Answer with the whole text."""
        model, version = exchange.path_params["model"], exchange.path_params.get("version", "")
        request, binary = to_inference(asked, model, version), binary_outputs(asked.body)
        piece = await self._answers.whole(request)
        head, octets = from_piece(piece, asked.body, binary)
        if not binary:
            await exchange.answer(head)
            return
        length = (HEAD_LENGTH.encode(), str(len(head)).encode())
        await exchange.answer(head + octets, headers=[length], content_type=OCTETS.encode())

    def _model(self, exchange: Exchange) -> Model:
        return self._answers.model(exchange.path_params["model"], exchange.path_params.get("version", ""))


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
