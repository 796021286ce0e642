"""What the documents name exists: files, modules, their names, benchmarks, and the pages that they link to."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.contract.test_architecture import ARROWS, FOLDERS, ROOMS, ROOT, ROOTS

DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "deploy/README.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
}
PACKAGES = [ROOT / root / "charloom" for root in ROOTS]
TOP = ["benchmarks", "deploy", "docs", "examples", "scripts", "tests"]
"""Folders of the repository that are no parts: a path that begins with one is complete, whatever it ends with."""
MODULES = [module for package in PACKAGES for module in package.rglob("*.py")]


def named(text: str) -> list[str]:
    """What stands between backticks, or in a block of code."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M)
    indented = re.findall(r"^    .+$", text, re.M)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    return [word for part in (*blocks, *indented, *spans) for word in part.split()]


def found(pattern: str, text: str) -> set[str]:
    return {match for word in named(text) for match in re.findall(pattern, word)}


SERVICES = {
    f"charloom.v1.{service}"
    for file in (ROOT / "proto" / "charloom" / "v1").glob("*.proto")
    for service in re.findall(r"^service (\w+)", file.read_text("utf-8"), re.MULTILINE)
}


def exists(name: str) -> bool:
    """Whether a dotted name is a part, a room, a module, something that a module has, or a service of the protocol."""
    if name in SERVICES:
        return True
    parts = name.split(".")[1:]
    for length in range(len(parts), 0, -1):
        place = ROOT / FOLDERS.get(parts[0], "") / "charloom" / Path(*parts[:length])
        file = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
        if file.is_file():
            return length == len(parts) or parts[length] in bound(file)
    return False


def bound(file: Path) -> set[str]:
    """The names that a module defines or imports."""
    names = set[str]()
    for node in ast.parse(file.read_text("utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.ImportFrom(names=imported) | ast.Import(names=imported):
                names.update(alias.asname or alias.name for alias in imported)
            case ast.Assign(targets=targets):
                names.update(name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names


@functools.cache
def members() -> dict[str, set[str]]:
    """The attributes and methods of each class of ours, by its name, with those of its bases."""
    found: dict[str, set[str]] = {}
    bases: dict[str, set[str]] = {}
    for node in (node for file in MODULES for node in ast.parse(file.read_text("utf-8")).body):
        if isinstance(node, ast.ClassDef):
            names = found.setdefault(node.name, set())
            bases.setdefault(node.name, set()).update(base.id for base in node.bases if isinstance(base, ast.Name))
            for inner in ast.walk(node):
                match inner:
                    case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                        names.add(name)
                    case ast.AnnAssign(target=ast.Name(id=name)):
                        names.add(name)

    def all_of(name: str) -> set[str]:
        return found.get(name, set()).union(*map(all_of, bases.get(name, set()) - {name}))

    return {name: all_of(name) for name in found}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_is_named_exists(document: str) -> None:
    """From the root of the repository, or from a part: `engine/errors.py`."""
    paths = found(
        r"(?<![\w./{<-])[\w-]+(?:/[\w.-]+)*/[\w.-]+\.(?:py|proto|md|toml|template|svg)\b", DOCUMENTS[document]
    )
    paths |= found(rf"(?<![\w./{{<-])(?:{'|'.join(TOP)})/[\w./-]*\w", DOCUMENTS[document])
    assert [path for path in sorted(paths) if not any((base / path).exists() for base in (ROOT, *PACKAGES))] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_module_that_is_named_exists(document: str) -> None:
    names = found(r"(?<![\w/.:-])charloom(?:\.[a-zA-Z_]\w*)+", DOCUMENTS[document])
    assert [name for name in sorted(names) if not exists(name)] == []
    short = found(r"^([a-z_]+)\.(_?[A-Z]\w*)$", DOCUMENTS[document])
    for module, name in sorted(short):
        ours = [file for file in MODULES if file.stem == module]
        elsewhere = module in ("nn", "grpc")  # nn is torch's
        assert elsewhere or any(name in bound(file) for file in ours), f"{module}.{name}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_member_of_a_class_that_is_named_exists(document: str) -> None:
    told = found(r"^(_?[A-Z]\w+)\.(_?[a-z]\w*)(?:\(.*)?$", DOCUMENTS[document])
    assert [f"{name}.{member}" for name, member in sorted(told) if member not in members().get(name, set())] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_benchmark_that_is_named_exists(document: str) -> None:
    names = set(re.findall(r"\bbenchmarks\.(\w+)", DOCUMENTS[document]))
    assert [name for name in sorted(names) if not (ROOT / "benchmarks" / f"{name}.py").is_file()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_page_that_is_linked_exists(document: str) -> None:
    links = re.findall(r"\]\(\s*([^)#:\s]+)(?:#[\w-]+)?\)", DOCUMENTS[document])
    here = (ROOT / document).parent
    assert [link for link in links if not (here / link).exists()] == []


def test_every_decision_is_listed_once_by_its_number_and_title() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    titles = [f"[{file.read_text('utf-8').splitlines()[0].removeprefix('# ')}]({file.name})" for file in records]
    listed = re.findall(r"^- (\[.+?\]\(\S+?\))", DOCUMENTS["docs/decisions/README.md"], re.M)
    assert listed == titles
    assert len({file.name[:4] for file in records}) == len(records)


def drawn() -> list[tuple[str, str, set[str]]]:
    """The picture of the parts, from top to bottom: the part, its room if the line is one, and what it may import."""
    (picture,) = re.findall(r"```text\n(cli/.*?)```", DOCUMENTS["docs/architecture.md"], re.S)
    lines, part = list[tuple[str, str, set[str]]](), ""
    for line in picture.splitlines():
        found = re.match(r"(?:\S+/)?\s+(\w+)(?:\s+-> (\w+(?:, \w+)*))?(?:  |$)", line)
        assert found, line
        is_room = line.startswith(" " * 14)
        part = part if is_room else found[1]
        lines.append((part, found[1] if is_room else "", set((found[2] or "").split(", ")) - {""}))
    return lines


def test_the_picture_of_the_parts_is_that_of_the_tables() -> None:
    lines = drawn()
    assert {part: arrows for part, room, arrows in lines if not room} == ARROWS
    rooms = {part: {room: arrows for p, room, arrows in lines if room and p == part} for part in ROOMS}
    assert rooms == ROOMS
    assert sum(bool(room) for _, room, _ in lines) == sum(map(len, ROOMS.values()))


def test_in_the_picture_of_the_parts_all_arrows_point_down() -> None:
    lines = drawn()
    up = [
        f"{part}.{room} -> {name}"
        for place, (part, room, arrows) in enumerate(lines)
        for name in arrows
        if (part, name) not in [below[:2] for below in lines[place + 1 :]]
        and (room or (name, "") not in [below[:2] for below in lines[place + 1 :]])
    ]
    assert up == []


def test_the_picture_of_the_parts_has_their_folders() -> None:
    (picture,) = re.findall(r"```text\n(cli/.*?)```", DOCUMENTS["docs/architecture.md"], re.S)
    folder, folders = "", dict[str, str]()
    for line in picture.splitlines():
        folder = line.split("/")[0] if not line.startswith(" ") else folder
        if not line.startswith(" " * 14):
            folders[line.removeprefix(f"{folder}/").split()[0]] = folder
    assert folders == FOLDERS


def test_names_that_do_not_exist_are_found() -> None:
    assert exists("charloom.bundle.read_bundle")
    assert exists("charloom.lab.tasks")
    assert not exists("charloom.lab.nothing")
    assert not exists("charloom.bundle.no_such_name")
    assert named("a `b/c.py` d\n```sh\nrun e.f\n```\n    g/\n") == ["run", "e.f", "g/", "b/c.py"]
