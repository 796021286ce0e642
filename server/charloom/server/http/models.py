"""GET /v1/models and /health: what the server has, and whether it serves."""

from __future__ import annotations

import time
from typing import Any

from charloom.engine.errors import Draining
from charloom.engine.loom.model import Model
from charloom.server.http.exchange import Exchange, json_of
from charloom.server.http.problems import Refused
from charloom.server.runtime import Runtime


def check_serving(runtime: Runtime) -> None:
    """See that new calls are taken.

    Raises:
        Refused, Draining: they are not.
    """
    if runtime.failed.is_set():
        raise Refused(503, "NOT_SERVING", "a worker of the decoder has failed; the server has to be restarted")
    if runtime.engine.draining.is_set():
        raise Draining


class Models:
    """Describes the models of a server."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._engine = runtime.engine
        self._started = int(time.time())

    async def list(self, exchange: Exchange, body: None) -> None:
        """All of them, the default one first."""
        models = [self._described(model) for model in self._engine.models]
        await exchange.answer(json_of({"object": "list", "data": models}))

    async def get(self, exchange: Exchange, body: None) -> None:
        """The one that the path names."""
        await exchange.answer(json_of(self._described(self._engine.model(exchange.path_params["model"]))))

    async def health(self, exchange: Exchange, body: None) -> None:
        """Whether new calls are taken."""
        check_serving(self._runtime)
        await exchange.answer(json_of({"status": "serving"}))

    def _described(self, model: Model) -> dict[str, Any]:
        manifest, limits = model.bundle.manifest, self._engine.limits
        cell = manifest.cell
        return {
            "id": model.name,
            "object": "model",
            "created": self._started,
            "owned_by": "charloom",
            "digest": manifest.digest,
            "unit": manifest.unit.value,
            "vocabulary_size": manifest.vocabulary_size,
            "chat": "transcript" if manifest.chat is None else "template",
            "max_tokens": limits.max_tokens,
            "max_prompt_characters": limits.max_prompt_characters,
            "task": manifest.task.value,
            **({} if manifest.labelling is None else {"labels": manifest.labelling.labels}),
            "cell": {
                "kind": cell.kind.value,
                "layers": cell.layers,
                "units": cell.hidden_size,
                "gates": cell.gates,
                "arrays": cell.arrays,
            },
        }
