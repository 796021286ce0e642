"""Errors about models that are loaded, replaced and unloaded while the server runs."""

from __future__ import annotations

from collections.abc import Sequence

from charloom.bundle import Task
from charloom.engine.errors import EngineError, ErrorKind, shown


class ModelRetired(EngineError):
    """The state belongs to a model that was replaced or unloaded, and whose grace has ended."""

    kind = ErrorKind.PRECONDITION
    reason = "MODEL_RETIRED"

    def __init__(self, what: str, name: str, digest: str, advice: str) -> None:
        self.digest = digest
        super().__init__(
            f"{what} belongs to model {name!r} ({digest[:12]}), which was replaced or unloaded, and its grace (the "
            f"server's --model-grace-seconds) is over; {advice}"
        )

    @property
    def facts(self) -> dict[str, str]:
        return {"digest": self.digest}


class CallOfAnotherModel(EngineError):
    """The resumed call was begun with a model that is not loaded here."""

    kind = ErrorKind.PRECONDITION
    reason = "CALL_OF_ANOTHER_MODEL"

    def __init__(self, digest: str, present: str) -> None:
        self.digest = digest
        super().__init__(
            f"the text was begun by a model with digest {shown(digest[:12])}, which is not loaded here; the one that "
            f"serves has {present[:12]} and would go on differently; begin the text anew"
        )

    @property
    def facts(self) -> dict[str, str]:
        return {"digest": self.digest[:64]}


class ModelOfAnotherTask(EngineError):
    """The model has another task than the request needs."""

    kind = ErrorKind.PRECONDITION
    reason = "MODEL_OF_ANOTHER_TASK"

    def __init__(self, name: str, task: Task, wanted: Task, others: Sequence[str]) -> None:
        self.task = task
        does = {
            Task.LANGUAGE_MODEL: "is a language model: it goes on with texts and scores them, and gives no labels",
            Task.CLASSIFICATION: "is a classifier: it gives texts labels, and has none to go on with or to score",
        }
        what = "language models" if wanted is Task.LANGUAGE_MODEL else "classifiers"
        told = f"name one of the {what} here: {', '.join(others)}" if others else f"there are no {what} here"
        super().__init__(f"model {shown(name)} {does[task]}; {told}")

    @property
    def facts(self) -> dict[str, str]:
        return {"task": self.task.value}


class ModelBusy(EngineError):
    """Another request is changing the model."""

    kind = ErrorKind.CONFLICT
    reason = "MODEL_BUSY"

    def __init__(self, name: str) -> None:
        super().__init__(f"model {shown(name)} is being loaded or unloaded by another request; wait for its end")


class ModelUnusable(EngineError):
    """A bundle cannot be used. The models that serve have not changed."""

    kind = ErrorKind.PRECONDITION
    reason = "MODEL_UNUSABLE"

    def __init__(self, problem: object) -> None:
        super().__init__(f"nothing has changed: {problem}")


class ModelTooLarge(EngineError):
    """A model may need more memory than is free. It was not loaded."""

    kind = ErrorKind.EXHAUSTED
    reason = "MODEL_TOO_LARGE"

    def __init__(self, name: str, needed: int, free: int, most: int) -> None:
        self.needed, self.free, self.most = needed, free, most
        super().__init__(
            f"model {name!r} may need {needed / 2**20:,.1f} MiB of memory, and {free / 2**20:,.1f} are free of the "
            f"{most / 2**20:,.1f} that calls, sessions and further models may use; unload a model, wait until one that "
            "is draining is gone, or give the server more (--memory-bytes)"
        )

    @property
    def facts(self) -> dict[str, str]:
        return {"needed": str(self.needed), "free": str(self.free), "most": str(self.most)}


class LastModel(EngineError):
    """The only model cannot be unloaded."""

    kind = ErrorKind.PRECONDITION
    reason = "LAST_MODEL"

    def __init__(self, name: str) -> None:
        super().__init__(f"model {name!r} is the only one here, and a server has at least one; load another first")
