"""The client's calls about the server itself, its models and its tenants, over asyncio."""

from __future__ import annotations

from charloom.client import _model_responses, _values
from charloom.client._async.calls import AsyncCalls
from charloom.client._async.tenant import AsyncTenant
from charloom.client._model_types import LoadedModel, ModelInfo, ModelVersion
from charloom.client._options import NOT_GIVEN, Timeout
from charloom.client._status_responses import server_status
from charloom.client._status_types import ServerStatus
from charloom.v1 import models_pb2
from charloom.v1.status_pb2 import GetStatusRequest


class AsyncClientAdministration(AsyncCalls):
    """The calls of `AsyncClient` about what the server serves, and for whom."""

    def tenant(self, name: str) -> AsyncTenant:
        """All data of a tenant, for administrators; the empty name stands for clients without a tenant."""
        return AsyncTenant(self._connection, name)

    async def status(self, *, timeout: Timeout = NOT_GIVEN) -> ServerStatus:
        """Return what the server is doing now and has done since it started; for administrators."""
        answer = await self._connection.call(self._connection.status.GetStatus, GetStatusRequest(), timeout)
        return server_status(answer)

    async def models(self, *, timeout: Timeout = NOT_GIVEN) -> list[ModelInfo]:
        """List all models that the server has loaded, the default one first."""
        request = models_pb2.ListModelsRequest()
        answer = await self._connection.call(self._connection.models.ListModels, request, timeout)
        return [_model_responses.model_info(model) for model in answer.models]

    async def model(self, name: str = "", *, timeout: Timeout = NOT_GIVEN) -> ModelInfo:
        """Describe one model; without a name, the default one."""
        request = models_pb2.GetModelRequest(name=_values.text("name", name))
        answer = await self._connection.call(self._connection.models.GetModel, request, timeout)
        return _model_responses.model_info(answer.model)

    async def model_versions(self, *, timeout: Timeout = NOT_GIVEN) -> list[ModelVersion]:
        """List the versions of models: those that serve, then those that drain, then those that are being loaded."""
        request = models_pb2.ListModelsRequest()
        answer = await self._connection.call(self._connection.models.ListModels, request, timeout)
        return [_model_responses.model_version(version) for version in answer.versions]

    async def load_model(self, path: str, *, timeout: Timeout = NOT_GIVEN) -> LoadedModel:
        """Load a bundle on the server and route new calls of its model name to it; for administrators.

        The version that had the name before drains: running calls continue with it, and sessions do so until its grace
        period ends.

        Args:
            path: path of the bundle on the server: relative to the server's folder of models, as in "shakespeare/3", or
                absolute, below that folder or a bundle that the server was started with.
            timeout: of this call alone, in seconds; after it, the server still completes the load.

        Raises:
            PermissionDenied: the path is not below a folder that the server's operator named.
            FailedPrecondition: the bundle cannot be used; the message names the file and the reason. Nothing changes.
            Overloaded: the server has no memory for it.
            Conflict: another call is changing the model.

        """
        request = models_pb2.LoadModelRequest(path=_values.text("path", path))
        answer = await self._connection.call(self._connection.models.LoadModel, request, timeout)
        return _model_responses.loaded_model(answer)

    async def reload_model(self, name: str = "", *, timeout: Timeout = NOT_GIVEN) -> LoadedModel:
        """Load a model again from its source, without a name the default one; for administrators, like `load_model`.

        A model from the server's folder of models is loaded in its newest complete version.
        """
        request = models_pb2.ReloadModelRequest(name=_values.text("name", name))
        answer = await self._connection.call(self._connection.models.ReloadModel, request, timeout)
        return _model_responses.loaded_model(answer)

    async def unload_model(self, name: str, *, timeout: Timeout = NOT_GIVEN) -> ModelVersion:
        """Stop routing new calls to a model; for administrators.

        Running calls continue with it, and sessions do so until its grace period ends.

        Raises:
            FailedPrecondition: it is the only model.
            Conflict: another call is changing the model.

        """
        request = models_pb2.UnloadModelRequest(name=_values.text("name", name))
        answer = await self._connection.call(self._connection.models.UnloadModel, request, timeout)
        return _model_responses.model_version(answer.version)
