"""How text files are found and read: settings that a training and a classifier share."""

from __future__ import annotations

import codecs

from pydantic import BaseModel, ConfigDict, Field, field_validator


class EncodingSettings(BaseModel):
    """What the bytes of text files say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoding: str = Field("utf-8", description="encoding of the text files, for example utf-16 or cp1252")

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        try:
            info = codecs.lookup(encoding)
            "".encode(encoding)
        except LookupError as problem:
            raise ValueError(f"{problem}; give one that Python knows, for example utf-8, utf-16 or cp1252") from None
        return info.name


class TextSettings(EncodingSettings):
    """Which files of a folder are meant, and what their bytes say."""

    include: str = Field(
        "*.txt",
        description="names of the files that are read of a folder, in capitals or not; several patterns with commas "
        "between them; hidden files and folders are never read",
    )
    skip_bad: bool = Field(
        False, description="leave out files of a folder that are empty or not of this encoding, and tell how many"
    )

    @field_validator("include")
    @classmethod
    def _is_a_pattern(cls, include: str) -> str:
        if not all(pattern.strip() for pattern in include.split(",")):
            raise ValueError("a pattern is empty; give, for example, *.txt or *.txt,*.md")
        return include


PLAIN = TextSettings()
"""UTF-8, and the .txt files of a folder."""
