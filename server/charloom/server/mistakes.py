"""Settings that name all their mistakes at once."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings
from typing_extensions import Self


class NamesItsMistakes(BaseSettings):
    """Settings whose values may each be wrong, or contradict each other."""

    refused: ClassVar[bool] = True
    """Whether mistakes are raised; otherwise a value that cannot be used counts as not given."""

    @model_validator(mode="wrap")
    @classmethod
    def _without_mistakes(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Name all mistakes at once: a value that cannot be used is left out when the others are compared."""
        mistakes: list[InitErrorDetails] = []
        try:
            settings = handler(values)
        except ValidationError as problem:
            for error in problem.errors():
                mistakes.append(InitErrorDetails(type=error["type"], loc=error["loc"], input=error["input"]))
                if "ctx" in error:
                    mistakes[-1]["ctx"] = error["ctx"]
            wrong = {error["loc"][0] for error in mistakes}
            settings = handler({name: value for name, value in values.items() if name not in wrong})
        for said in settings._contradictions():
            kind = PydanticCustomError("contradiction", "{said}", {"said": said})
            mistakes.append(InitErrorDetails(type=kind, loc=(), input=None))
        if mistakes and cls.refused:
            raise ValidationError.from_exception_data(cls.__name__, mistakes)
        return settings

    def _contradictions(self) -> list[str]:
        """Contradictions between settings, one sentence each that says what to do."""
        return []
