from __future__ import annotations

import enum
import io
import os
import shutil
import sys
from dataclasses import dataclass
from datetime import datetime, timezone

import pytest

from charloom.cli.output import columns, print_json, wrapped


class Kind(enum.Enum):
    ONE = "one"


@dataclass(frozen=True, slots=True)
class Inner:
    kind: Kind
    at: datetime


@dataclass(frozen=True, slots=True)
class Outer:
    text: str
    symbol: bytes
    inner: Inner


def test_what_the_sdk_returns_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    inner = Inner(Kind.ONE, datetime(2026, 1, 2, tzinfo=timezone.utc))
    shown = '{"kind": "one", "at": "2026-01-02T00:00:00+00:00"}'
    print_json(Outer("é\n", b"a\xc3", inner))
    print_json([inner, {"inner": inner, "none": None}])
    assert capsys.readouterr().out.splitlines() == [
        f'{{"text": "é\\n", "symbol": "a\\\\xc3", "inner": {shown}}}',
        f'[{shown}, {{"inner": {shown}, "none": null}}]',
    ]
    file = io.StringIO()
    print_json((1, "a"), file)
    assert file.getvalue() == '[1, "a"]\n'
    with pytest.raises(TypeError, match="no JSON for object"):
        print_json(object())


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
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((40, 24)))
    assert wrapped(line, 7).splitlines() == [
        "WRONG  --store: cannot keep sessions in",
        "       /a/very/long/path/that-is-never-cut.db",
        "       for it is a folder",
    ]
