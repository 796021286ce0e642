"""docs/troubleshooting.md: its messages are those of the sources, and no reason is missing."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
ROWS = [[cell.strip() for cell in line.split(" | ")] for line in PAGE.splitlines() if line.startswith("| ")]
MESSAGES = [match for row in ROWS for cell in row for match in re.findall(r"^\|? ?`(.*)`$", cell) if " " in match]


@functools.cache
def trees() -> list[ast.Module]:
    """The modules that have messages."""
    return [
        ast.parse(path.read_text("utf-8"))
        for root in ("server", "client", "cli")
        for path in sorted((ROOT / root / "charloom").rglob("*.py"))
    ]


@functools.cache
def source() -> str:
    """All their strings."""
    return "\n".join(re.sub(r"\s+", " ", text) for tree in trees() for text in texts(tree))


def texts(tree: ast.AST) -> Iterator[str]:
    """The strings of a module as they are shown, with `...` for what is filled in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"\{\w+\}", "...", node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
            yield re.sub(r"\{\w+\}", "...", "".join(str(part) for part in parts))


def reasons(tree: ast.Module) -> Iterator[str]:
    """Of the errors that a module defines, or refuses requests with."""
    classes = [one for one in tree.body if isinstance(one, ast.ClassDef)]
    for line in (*tree.body, *(line for one in classes for line in one.body)):
        if not isinstance(line, ast.Assign) or not isinstance(line.value, ast.Constant):
            continue
        if {getattr(target, "id", "") for target in line.targets} & {"reason", "UNEXPECTED"}:
            yield str(line.value.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refused":
            yield from (str(word.value) for word in node.args[1:2] if isinstance(word, ast.Constant))


def test_there_are_messages() -> None:
    assert len(MESSAGES) > 50


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_one_of_the_sources(message: str) -> None:
    parts = [part for part in message.split("...") if re.search(r"\w{3}", part)]
    # What is filled in may be a text of its own, so that an end of the message stands elsewhere.
    assert [part for part in parts if part.strip(" ;:,.()") not in source()] == []


def test_every_reason_is_on_the_page() -> None:
    known = {reason for tree in trees() for reason in reasons(tree) if reason}
    assert len(known) > 40
    assert {reason for reason in known if f"| {reason} |" not in PAGE} == set()


def test_no_reason_on_the_page_is_gone() -> None:
    told = set(re.findall(r"^\| ([A-Z_]{4,}) \|", PAGE, re.M))
    assert told <= {reason for tree in trees() for reason in reasons(tree)}
