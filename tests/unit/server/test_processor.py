from __future__ import annotations

from pathlib import Path

import pytest

from charloom.server import processor as module
from charloom.server.processor import processor

X86 = """processor\t: 0
model name\t: Some CPU @ 2.60GHz
flags\t\t: fpu sse4_2 avx avx2 fma avx512f avx512_vnni hypervisor

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd evtstrm asimddp sve i8mm\nCPU implementer\t: 0x41\n"


@pytest.mark.parametrize(
    ("text", "name", "instructions"),
    [
        (X86, "Some CPU @ 2.60GHz", ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni")),
        (ARM, "", ("asimd", "asimddp", "i8mm", "sve")),
        ("", "", ()),
    ],
)
def test_name_and_vector_instructions_are_those_of_the_first_processor(
    text: str, name: str, instructions: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "cpuinfo")
    found = processor()
    assert (found.name, found.vector_instructions) == (name, instructions)


def test_where_nobody_says_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "cpuinfo")
    assert processor().vector_instructions == ()
    assert processor().architecture
