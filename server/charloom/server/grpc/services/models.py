"""ModelService: which models there are."""

from __future__ import annotations

from typing import Any

from charloom.engine.engine import Engine
from charloom.server.grpc.translation.models import from_model
from charloom.v1 import models_pb2, models_pb2_grpc


class ModelService(models_pb2_grpc.ModelServiceServicer):
    """Describes the models."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def ListModels(self, request: models_pb2.ListModelsRequest, context: Any) -> models_pb2.ListModelsResponse:
        """List the models."""
        models = [from_model(model, self._engine.limits) for model in self._engine.models]
        return models_pb2.ListModelsResponse(models=models)

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Any) -> models_pb2.GetModelResponse:
        """Describe a model."""
        model = from_model(self._engine.model(request.name), self._engine.limits)
        return models_pb2.GetModelResponse(model=model)
