"""Commands that are called in the process of the tests."""

from __future__ import annotations

import pytest

from charloom.cli.main import main

Capture = pytest.CaptureFixture[str]


def refused(capsys: Capture, *arguments: object) -> str:
    """The one line that a command prints when it refuses."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"charloom {arguments[0]}: ")
    assert error.endswith("\n")
    assert error.count("\n") == 1, error
    return error
