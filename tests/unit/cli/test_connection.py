"""What the environment says of the server, for all commands that call one."""

from __future__ import annotations

import argparse

import pytest

from charloom.cli.connection import access_given, add_connection_arguments
from charloom.cli.main import main
from charloom.client import DEFAULT_TARGET


def test_a_variable_that_is_empty_counts_as_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TARGET", "CA", "CERT", "KEY", "TOKEN", "TENANT", "TLS"):
        monkeypatch.setenv(f"CHARLOOM_{name}", "")
    parser = argparse.ArgumentParser()
    add_connection_arguments(parser)
    arguments = parser.parse_args([])
    assert arguments.target == DEFAULT_TARGET
    assert set(access_given(arguments).values()) == {None}


@pytest.mark.parametrize(
    ("command", "hinted"),
    [(["inspect", "a"], True), (["score", "a"], True), (["score", "a", "--session", "b"], False), (["models"], False)],
)
def test_who_meets_no_server_is_told_to_start_one_or_to_do_without(
    command: list[str], hinted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--target", "localhost:1", "--timeout", "5"]) == 1
    said = capsys.readouterr().err
    assert "is a server running there" in said
    assert ("; start one with `charloom serve`, or add `--bundle shakespeare`\n" in said) == hinted
