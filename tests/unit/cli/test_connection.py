"""What the environment says of the server, for all commands that call one."""

from __future__ import annotations

import argparse

import pytest

from charloom.cli.connection import access_given, add_connection_arguments
from charloom.client import DEFAULT_TARGET


def test_a_variable_that_is_empty_counts_as_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TARGET", "CA", "CERT", "KEY", "TOKEN", "TENANT", "TLS"):
        monkeypatch.setenv(f"CHARLOOM_{name}", "")
    parser = argparse.ArgumentParser()
    add_connection_arguments(parser)
    arguments = parser.parse_args([])
    assert arguments.target == DEFAULT_TARGET
    assert set(access_given(arguments).values()) == {None}
