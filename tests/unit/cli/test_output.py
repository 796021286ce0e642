from __future__ import annotations

import os

import pytest

from charloom.cli import output as module
from charloom.cli.output import columns, wrapped


def test_text_begins_and_numbers_end_below_one_another() -> None:
    rows = [("NAME", "ROWS", "TEXT"), ("a", "7", "12"), ("longer", "12,345", "1")]
    assert columns(rows).splitlines() == ["NAME    ROWS    TEXT", "a       7       12", "longer  12,345  1"]
    assert columns(rows, numbers=True).splitlines() == [
        "NAME      ROWS  TEXT",
        "a            7    12",
        "longer  12,345     1",
    ]


def test_a_line_is_broken_between_words_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "WRONG  --store: cannot keep sessions in /a/very/long/path/that-is-never-cut.db for it is a folder"
    assert wrapped(line, 7) == line
    monkeypatch.setattr(module.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(module.shutil, "get_terminal_size", lambda: os.terminal_size((40, 24)))
    assert wrapped(line, 7).splitlines() == [
        "WRONG  --store: cannot keep sessions in",
        "       /a/very/long/path/that-is-never-cut.db",
        "       for it is a folder",
    ]
