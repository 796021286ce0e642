"""The processes of one server, as each sees the others: a change of models affects all, and a status covers all.

Does not know how they communicate; a server of one process is `Alone`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from charloom.engine.errors import EngineError, ErrorKind
from charloom.engine.sessions.sealing import new_keys
from charloom.server.model_changes import Change, Loaded, ModelChanges
from charloom.server.model_folder import Signature

Answer = Callable[[], Awaitable[bytes]]
"""Makes this process's answer to a question."""


class ProcessRefused(EngineError):
    """Another process of the server cannot carry out the change, so none has."""

    kind = ErrorKind.PRECONDITION
    reason = "PROCESS_REFUSED"

    def __init__(self, problem: str) -> None:
        super().__init__(f"another process of this server refused, and nothing has changed in any: {problem}")


class Group(Protocol):
    """All processes of a server, this one among them."""

    @property
    def sealing_keys(self) -> Sequence[bytes]:
        """Keys for sealing states if the settings name none; the same in all processes."""

    @property
    def names(self) -> Sequence[str]:
        """Names of models in the order of the other processes, see `Engine.order`; empty when `chosen` is."""

    @property
    def chosen(self) -> Mapping[str, Signature]:
        """What the others have chosen from the folder of models; empty if this process starts together with them."""

    def join(self, models: ModelChanges) -> None:
        """Register the `ModelChanges` of this process; called once."""

    def answer_with(self, question: str, answer: Answer) -> None:
        """Register this process's answer to a question."""

    async def ask_all(self, question: str) -> Sequence[bytes]:
        """Ask all processes, and return their answers."""

    async def change(self, change: Change, on: str) -> Loaded:
        """Change the models of all processes; if one refuses, of none.

        Args:
            change: the kind of change
            on: a path, or the name of a model; see `ModelChanges`

        Raises:
            EngineError: as `ModelChanges.load`, `reload` or `unload`.
            ProcessRefused: this process could have done it, but another refused.
        """


class Alone:
    """The `Group` of a server of one process."""

    def __init__(self) -> None:
        self.sealing_keys: Sequence[bytes] = new_keys()
        self.names: Sequence[str] = ()
        self.chosen: Mapping[str, Signature] = {}
        self._models: ModelChanges | None = None
        self._answers: dict[str, Answer] = {}

    def join(self, models: ModelChanges) -> None:
        """See `Group`."""
        self._models = models

    def answer_with(self, question: str, answer: Answer) -> None:
        """See `Group`."""
        self._answers[question] = answer

    async def ask_all(self, question: str) -> Sequence[bytes]:
        """See `Group`."""
        return [await self._answers[question]()]

    async def change(self, change: Change, on: str) -> Loaded:
        """See `Group`."""
        assert self._models is not None  # it has joined before calls are taken
        return await self._models.change(change, on)
