"""Flags that a command would pass over are refused before it does anything, with what to do."""

from __future__ import annotations

import pytest

from charloom.cli.main import main

NOBODY = ["--target", "localhost:1", "--timeout", "5"]
EMPTY = "--session is empty; give the id of a session, or leave it out"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["evaluate", "run", "--encoding", "cp1252"],
            "--encoding says how the files of --text are read; give",
        ),
        (["score", "a", "--encoding", "cp1252", *NOBODY], "--encoding is that of --file; give a file too"),
        (["label", "a", "--encoding", "cp1252", *NOBODY], "--encoding is that of --file; give a file too"),
        (["label", "--stream", "--encoding", "cp1252", *NOBODY], "--encoding is that of --file; give a file too"),
        (["classify", "predict", "run", "a", "--encoding", "cp1252"], "--encoding is that of --file; give a file too"),
        (
            ["inspect", "a", "--units", "3", "--rows", "5", *NOBODY],
            "--rows says how many units auto shows, and",
        ),
        (["generate", "a", "--json", "--echo", *NOBODY], "--json has the prompt beside the text; leave out --echo"),
        (["serve", "--config", "", "--port", "none"], "--config is empty; give a TOML file, or leave it out"),
        (["generate", "a", "--session", "", *NOBODY], EMPTY),
        (["generate", "a", "--session", "", "--adaptive", *NOBODY], EMPTY),
        (["generate", "a", "--session", "", "--bundle", "shakespeare"], EMPTY),
        (["score", "a", "--session", "", *NOBODY], EMPTY),
        (["peek", "a", "--session", "", *NOBODY], EMPTY),
        (["rank", "a", "--session", "", *NOBODY], EMPTY),
        (["suggest", "a", "--session", "", *NOBODY], EMPTY),
        (["inspect", "a", "--session", "", *NOBODY], EMPTY),
        (["sessions", "feed", "a", "b", "--adaptive", *NOBODY], "--adaptive is for a session that is made; give --cr"),
        (["sessions", "feed", "a", "b", "--seconds", "0", *NOBODY], "--seconds is for a session that is made; give"),
        (["sessions", "show", "", *NOBODY], "the id of a session is empty; give one, or leave --id out"),
        (["sessions", "import", "-", "--id", "", *NOBODY], "the id of a session is empty; give one, or leave"),
        (["sessions", "fork", "a", "--id", "b", "--id", "", *NOBODY], "the id of a session is empty; give one, or"),
    ],
)
def test_a_flag_without_use_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith(f"charloom {arguments[0]}: {said}")
