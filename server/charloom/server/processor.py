"""What the processor can do. Knows Linux's files; elsewhere only its kind is known."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import NamedTuple

CPUINFO = Path("/proc/cpuinfo")
VECTOR_INSTRUCTIONS = (
    *("sse4_2", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
"""Those that matrix products use, of x86 and of Arm, as Linux names them."""


class Processor(NamedTuple):
    """The processor of this machine."""

    name: str
    """As its maker or the hypervisor has it; empty where nobody says."""
    architecture: str
    """"x86_64", "aarch64" and so on."""
    vector_instructions: tuple[str, ...]
    """Of `VECTOR_INSTRUCTIONS`, those that it has."""


def processor() -> Processor:
    """The processor of this machine; the first, where it has several kinds."""
    fields: dict[str, str] = {}
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    flags = fields.get("flags", fields.get("features", "")).split()
    return Processor(
        fields.get("model name", ""), platform.machine(), tuple(one for one in VECTOR_INSTRUCTIONS if one in flags)
    )
