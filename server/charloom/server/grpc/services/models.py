"""ModelService: which models there are, and changing that."""

from __future__ import annotations

from typing import Any

from charloom.engine.errors import InvalidRequest, shown
from charloom.engine.loom.model import Model
from charloom.server.audit import More
from charloom.server.grpc.translation.models import from_load, from_model, from_version
from charloom.server.model_changes import Change
from charloom.server.runtime import Runtime
from charloom.v1 import models_pb2, models_pb2_grpc


class ModelService(models_pb2_grpc.ModelServiceServicer):
    """Describes the models, loads and unloads them."""

    def __init__(self, runtime: Runtime) -> None:
        self._engine = runtime.engine
        self._changes = runtime.models
        self._group = runtime.group
        self._audit = runtime.audit

    async def ListModels(self, request: models_pb2.ListModelsRequest, context: Any) -> models_pb2.ListModelsResponse:
        """List the models."""
        engine = self._engine
        return models_pb2.ListModelsResponse(
            models=[from_model(model, engine.limits) for model in engine.models],
            versions=[
                *(from_version(model) for model in (*engine.models, *engine.draining_models)),
                *(from_load(load) for load in self._changes.loads),
            ],
        )

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Any) -> models_pb2.GetModelResponse:
        """Describe a model."""
        model = from_model(self._engine.model(request.name), self._engine.limits)
        return models_pb2.GetModelResponse(model=model)

    async def LoadModel(self, request: models_pb2.LoadModelRequest, context: Any) -> models_pb2.LoadModelResponse:
        """Load a bundle."""
        async with self._audit.act_of_call("load-model", f"bundle {shown(request.path)}") as more:
            model, changed = await self._group.change(Change.LOAD, request.path)
            more |= _brought(model)
        return models_pb2.LoadModelResponse(version=from_version(model), changed=changed)

    async def ReloadModel(self, request: models_pb2.ReloadModelRequest, context: Any) -> models_pb2.ReloadModelResponse:
        """Load a model again."""
        async with self._audit.act_of_call("reload-model", f"model {shown(request.name)}") as more:
            model, changed = await self._group.change(Change.RELOAD, request.name)
            more |= _brought(model)
        return models_pb2.ReloadModelResponse(version=from_version(model), changed=changed)

    async def UnloadModel(self, request: models_pb2.UnloadModelRequest, context: Any) -> models_pb2.UnloadModelResponse:
        """Let a model serve no new calls."""
        if not request.name:
            raise InvalidRequest("name", "give the name of the model to unload")
        async with self._audit.act_of_call("unload-model", f"model {shown(request.name)}") as more:
            model, _ = await self._group.change(Change.UNLOAD, request.name)
            more |= _brought(model)
        return models_pb2.UnloadModelResponse(version=from_version(model))


def _brought(model: Model) -> More:
    """What the audit log says of a model that was loaded or unloaded."""
    return {"model": model.name, "digest": model.digest}
