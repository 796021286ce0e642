"""What the architecture promises: imports point one way, and each part installs without the others' packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FOLDERS = {
    "v1": "proto",
    "client": "client",
    "cli": "client",
    "bundle": "training",
    "training": "training",
    "reference": "training",
    "tasks": "training",
    "studies": "training",
    "engine": "server",
    "server": "server",
    "models": "server",
}
ARROWS = {
    "v1": set(),
    "client": {"v1"},
    "bundle": set(),
    "training": {"bundle"},
    "reference": set(),  # for the tests, and of the parts for studies alone
    "tasks": {"training", "bundle"},
    "studies": {"training", "tasks", "bundle", "reference"},
    "engine": {"bundle"},
    "server": {"bundle", "engine", "v1"},
    "models": set(),
    "cli": {"v1", "client", "server", "engine", "training", "tasks", "studies", "bundle", "models"},
}
"""What each part may import; docs/architecture.md draws it."""

FORBIDDEN = {
    "v1": {"torch", "numpy", "onnxruntime", "pydantic"},
    "client": {"torch", "numpy", "onnxruntime", "pydantic", "rich"},
    "bundle": {"torch", "grpc", "google", "onnxruntime"},
    "engine": {"grpc", "google"},
    "server": {"torch", "onnxruntime"},
    "training": {"grpc", "google"},
    "reference": {"grpc", "google", "onnxruntime", "onnx"},
    "tasks": {"grpc", "google", "onnxruntime", "onnx", "matplotlib"},
    "studies": {"grpc", "google", "onnxruntime", "onnx"},
}
TORCH_IN_ENGINE = {"torch_decoder.py", "device_decoder.py", "opening.py"}
"""Where the engine may name torch: the decoder that needs it, and its late import."""


def modules(part: str) -> list[Path]:
    return sorted((ROOT / FOLDERS[part] / "charloom" / part).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            if node.module == "charloom":
                yield from (f"charloom.{alias.name}" for alias in node.names)


def test_every_folder_is_in_the_table() -> None:
    found = {
        (path.name, root)
        for root in set(FOLDERS.values())
        for path in (ROOT / root / "charloom").iterdir()
        if path.is_dir()
    }
    assert {(part, root) for part, root in found if part != "__pycache__"} == set(FOLDERS.items())


def test_charloom_is_a_namespace_package() -> None:
    assert not [root for root in FOLDERS.values() if (ROOT / root / "charloom" / "__init__.py").exists()]


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
        ("charloom.cli.generate", "torch onnxruntime numpy pydantic onnx"),
        ("charloom.cli.chat", "torch onnxruntime numpy pydantic onnx"),
        ("charloom.cli.serve", "torch onnx safetensors"),
        ("charloom.training.loop", "grpc onnxruntime"),
        ("charloom.tasks.classification", "grpc onnxruntime matplotlib"),
        ("charloom.reference.numpy_training", "torch matplotlib"),
        ("charloom.reference.numpy_batched", "torch"),
        ("charloom.reference.numpy_variants", "torch"),
    ],
)
def test_a_process_that_imports_a_part_does_not_load_what_it_does_without(module: str, absent: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {absent.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("part", FOLDERS)
def test_no_module_has_grown_too_long(part: str) -> None:
    long = {
        str(p.relative_to(ROOT)): n
        for p in modules(part)
        if "_pb2" not in p.name and (n := len(p.read_text().splitlines())) > 400
    }
    assert long == {}
