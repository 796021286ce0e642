"""What the architecture promises: imports point one way, and each part installs without the others' packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
ROOTS = PYPROJECT["tool"]["hatch"]["build"]["dev-mode-dirs"]
"""The folders in which `charloom` has parts."""

FOLDERS = {
    "v1": "proto",
    "inference": "proto",
    "bundle": "bundle",
    "controls": "bundle",
    "client": "client",
    "cli": "cli",
    "engine": "server",
    "server": "server",
    "models": "server",
    "local": "server",
    "network": "training",
    "training": "training",
    "export": "training",
    "lab": "training",
}
ARROWS = {
    "v1": set(),
    "inference": set(),
    "bundle": set(),
    "controls": set(),
    "client": {"v1"},
    "engine": {"bundle", "controls"},
    "server": {"bundle", "engine", "v1", "inference"},
    "models": set(),
    "local": {"client", "server", "models"},
    "network": {"bundle", "controls"},
    "training": {"network", "bundle"},
    "export": {"training", "network", "bundle", "controls"},
    "lab": {"training", "network", "bundle"},  # nothing but the command uses it
    "cli": {
        "v1",
        "client",
        "server",
        "engine",
        "network",
        "training",
        "export",
        "lab",
        "bundle",
        "controls",
        "models",
        "local",
    },
}
"""What each part may import; docs/architecture.md draws it."""

ROOMS: dict[str, dict[str, set[str]]] = {
    "client": {"_async": set(), "_sync": set()},
    "cli": {"serving": set(), "sessions": set(), "training": set()},
    "engine": {
        "calls": {"sessions", "loom", "constraints", "watching", "decoding"},
        "sessions": {"loom", "decoding"},
        "loom": {"decoding"},
        "constraints": {"decoding"},
        "watching": {"decoding"},
        "decoding": set(),
    },
    "lab": {"reference": set(), "tasks": set(), "studies": {"tasks", "reference"}},
    "network": {"cells": set()},
    "server": {
        "grpc": {"identity", "inference", "telemetry"},
        "http": {"identity", "inference", "telemetry"},
        "identity": set(),
        "inference": {"identity"},
        "processes": {"telemetry"},
        "telemetry": set(),
    },
    "training": {"data": set(), "watching": set()},
}
"""The rooms of a part, and which of its other rooms each may import."""

FORBIDDEN = {
    "v1": {"torch", "numpy", "onnxruntime", "pydantic"},
    "inference": {"torch", "numpy", "onnxruntime", "pydantic", "grpc"},
    "client": {"torch", "numpy", "onnxruntime", "pydantic", "rich"},
    "bundle": {"torch", "grpc", "google", "onnxruntime"},
    "controls": {"torch", "numpy", "onnxruntime", "pydantic", "grpc", "google"},
    "engine": {"grpc", "google"},
    "server": {"torch", "onnxruntime"},
    "network": {"grpc", "google", "onnxruntime", "onnx"},
    "training": {"grpc", "google"},
    "export": {"grpc", "google"},
    "lab": {"grpc", "google", "onnxruntime", "onnx"},
}
TRANSPORTS = {
    "grpc": {"grpc", "grpc_health", "grpc_reflection", "grpc_status", "google"},
    "http": {"starlette", "uvicorn", "h11"},
}
"""What only the server's room of each transport knows; gRPC's knows the stubs as well."""
TORCH_IN_ENGINE = {"torch_decoder.py", "device_decoder.py", "open_decoder.py"}
"""Where the engine may name torch: the decoder that needs it, and its late import."""


def modules(part: str) -> list[Path]:
    return sorted((ROOT / FOLDERS[part] / "charloom" / part).rglob("*.py"))


@cache
def import_lines(path: Path) -> list[ast.Import | ast.ImportFrom]:
    tree = ast.walk(ast.parse(path.read_text("utf-8")))
    return [node for node in tree if isinstance(node, (ast.Import, ast.ImportFrom))]


def imports(path: Path) -> Iterator[str]:
    for node in import_lines(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            if node.module == "charloom":
                yield from (f"charloom.{alias.name}" for alias in node.names)


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[parts.index("charloom") :]).removesuffix(".__init__")


def import_graph() -> dict[str, set[str]]:
    """Which modules of ours each module names in an import, wherever that stands in it."""
    paths = {module_name(path): path for part in FOLDERS for path in modules(part)}
    graph = {name: set[str]() for name in paths}
    for name, path in paths.items():
        for node in import_lines(path):
            if isinstance(node, ast.Import):
                graph[name].update(alias.name for alias in node.names if alias.name in paths)
            elif node.module is not None:
                for alias in node.names:
                    inside = f"{node.module}.{alias.name}"
                    graph[name].update({inside if inside in paths else node.module} & paths.keys())
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that each reach all others of their set."""
    reached = {name: set(others) for name, others in graph.items()}
    for via in graph:
        for others in reached.values():
            if via in others:
                others |= reached[via]
    in_circles = {name: frozenset(o for o in others if name in reached[o]) for name, others in reached.items()}
    return [set(circle) for circle in {members for members in in_circles.values() if members}]


def test_every_folder_is_in_the_table() -> None:
    found = {(path.name, root) for root in ROOTS for path in (ROOT / root / "charloom").iterdir() if path.is_dir()}
    assert {(part, root) for part, root in found if part != "__pycache__"} == set(FOLDERS.items())


def test_every_list_of_roots_is_that_of_the_table() -> None:
    tools = PYPROJECT["tool"]
    wheel, sdist = (tools["hatch"]["build"]["targets"][kind] for kind in ("wheel", "sdist"))
    assert wheel["only-include"] == [f"{root}/charloom" for root in ROOTS]
    assert wheel["sources"] == ROOTS
    assert sdist["only-include"][: len(ROOTS)] == ROOTS
    assert tools["ruff"]["src"] == [*ROOTS, "."]
    assert tools["mypy"]["mypy_path"].split(":") == [".", *ROOTS]
    assert tools["mypy"]["files"] == [*ROOTS, "benchmarks", "deploy", "tests"]
    assert tools["pyright"]["extraPaths"] == ROOTS
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert [line for line in ignored if line[1:] in ROOTS] == [f"!{root}" for root in ROOTS]


def test_charloom_is_a_namespace_package() -> None:
    assert not [root for root in ROOTS if (ROOT / root / "charloom" / "__init__.py").exists()]


@pytest.mark.parametrize("part", FOLDERS)
def test_imports_point_one_way(part: str) -> None:
    allowed = ARROWS[part] | {part}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(part)
        for name in imports(path)
        if name.startswith("charloom.") and name.split(".")[1] not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize(("part", "room"), [(part, room) for part, rooms in ROOMS.items() for room in rooms])
def test_imports_between_the_rooms_of_a_part_point_one_way(part: str, room: str) -> None:
    closed = {f"charloom.{part}.{other}" for other in ROOMS[part].keys() - ROOMS[part][room] - {room}}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / FOLDERS[part] / "charloom" / part / room).rglob("*.py"))
        for name in imports(path)
        if ".".join(name.split(".")[:3]) in closed
    ]
    assert wrong == []


@pytest.mark.parametrize("part", ROOMS)
def test_every_room_is_in_the_table(part: str) -> None:
    folder = ROOT / FOLDERS[part] / "charloom" / part
    assert {path.name for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(ROOMS[part])


def test_what_the_rooms_of_the_engine_stand_on_imports_none_of_them() -> None:
    graph = import_graph()
    for name in ("errors", "limits", "clock", "telemetry"):
        assert graph[f"charloom.engine.{name}"] == set()


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set[str](), "e": {"e"}}
    assert sorted(circles(graph), key=len) == [{"e"}, {"b", "c"}]


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(import_graph()) == []


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_serves_calls_knows_no_transport(transport: str) -> None:
    server = ROOT / FOLDERS["server"] / "charloom" / "server"
    outside = {
        path.relative_to(server).as_posix(): set(imports(path))
        for path in modules("server")
        if server / transport not in path.parents
    }
    assert "runtime.py" in outside
    stubs = {"charloom.v1", "charloom.inference"} if transport == "grpc" else set()
    wrong = {
        n for n, found in outside.items() if stubs & found or TRANSPORTS[transport] & {i.split(".")[0] for i in found}
    }
    assert wrong == set()
    room = f"charloom.server.{transport}"
    assert {n for n, found in outside.items() if any(i.startswith(room) for i in found)} == {"app.py"}


def test_only_the_interceptor_that_sets_the_caller_reads_a_calls_metadata() -> None:
    reading = {
        path.relative_to(ROOT).as_posix()
        for path in modules("server")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "invocation_metadata"
    }
    assert reading == {"server/charloom/server/grpc/caller.py"}


def test_the_reference_lstms_build_on_nothing_of_ours() -> None:
    folder = ROOT / FOLDERS["lab"] / "charloom" / "lab" / "reference"
    own = "charloom.lab.reference"
    wrong = [n for path in folder.rglob("*.py") for n in imports(path) if n.startswith("charloom") and own not in n]
    assert wrong == []


@pytest.mark.parametrize("part", FORBIDDEN)
def test_no_part_imports_a_package_that_it_must_do_without(part: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(part)
        for name in imports(path)
        if name.split(".")[0] in FORBIDDEN[part]
    ]
    assert wrong == []


def test_only_the_torch_decoder_brings_torch_into_the_engine() -> None:
    using = {path.name for path in modules("engine") if "torch" in {name.split(".")[0] for name in imports(path)}}
    assert using == TORCH_IN_ENGINE


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("charloom.client", "torch onnxruntime numpy pydantic onnx"),
        ("charloom.cli.sessions.generate", "torch onnxruntime numpy pydantic onnx"),
        ("charloom.cli.sessions.chat", "torch onnxruntime numpy pydantic onnx"),
        ("charloom.cli.serving.serve", "torch onnx safetensors onnxruntime grpc"),
        ("charloom.cli.serving.several_processes", "torch onnx safetensors onnxruntime grpc"),
        ("charloom.cli.serving.one_process", "torch onnx safetensors"),
        ("charloom.server.open_runtime", "grpc google torch"),
        ("charloom.training.loop", "grpc onnxruntime"),
        ("charloom.lab.tasks.classification", "grpc onnxruntime matplotlib"),
        ("charloom.lab.reference.numpy_training", "torch matplotlib"),
        ("charloom.lab.reference.numpy_batched", "torch"),
        ("charloom.lab.reference.numpy_variants", "torch"),
    ],
)
def test_a_process_that_imports_a_part_does_not_load_what_it_does_without(module: str, absent: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {absent.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_processes_of_ours_are_started_in_one_way() -> None:
    """Which imports nothing from the working directory."""
    starting = {path.name for part in FOLDERS for path in modules(part) if "sys.executable" in path.read_text("utf-8")}
    assert starting == {"python_process.py"}


@pytest.mark.parametrize("part", FOLDERS)
def test_no_module_has_grown_too_long(part: str) -> None:
    long = {
        str(p.relative_to(ROOT)): n
        for p in modules(part)
        if "_pb2" not in p.name and (n := len(p.read_text().splitlines())) > 400
    }
    assert long == {}
