"""How a module of ours is started in a process of its own."""

from __future__ import annotations

import sys

_RUN = (
    "import sys; sys.path[:1] = filter(None, sys.path[:1]); sys.argv.pop(0); "
    "import runpy; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def python_running(module: str) -> tuple[str, ...]:
    """The command that runs a module; arguments may follow.

    It does what `python -m` does, but imports nothing from the working directory, where a `json.py` of somebody else
    may be. (`python -P` is that too, from Python 3.11 on.)
    """
    return (sys.executable, "-c", _RUN, module)
