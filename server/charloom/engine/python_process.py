"""Builds the command that runs one of our modules in a separate process."""

from __future__ import annotations

import sys

_RUN = (
    "import sys; sys.path[:1] = filter(None, sys.path[:1]); sys.argv.pop(0); "
    "import runpy; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def python_running(module: str) -> tuple[str, ...]:
    """The command that runs a module; append arguments to it.

    It does what `python -m` does, but imports nothing from the working directory, which may contain another program's
    `json.py`. (From Python 3.11 on, `python -P` does the same.)
    """
    return (sys.executable, "-c", _RUN, module)
