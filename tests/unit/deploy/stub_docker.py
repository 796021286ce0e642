"""Stands in for docker: takes its commands, and runs `charloom serve` without a container.

The folder STUB_FOLDER holds what it knows of the one container, `calls` with its command lines, and `inside.json` with
what a look inside shows.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ["STUB_FOLDER"])
CHARLOOM = str(Path(sys.executable).parent / "charloom")


def keep(port: str) -> None:
    """Run the server to its end, and write down its number, its log and its exit code."""
    with (FOLDER / "log").open("w") as log:
        command = [CHARLOOM, "serve", "--port", port, *os.environ.get("STUB_SERVE", "").split()]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    write("pid", str(process.pid))
    write("code", str(process.wait()))


def write(name: str, text: str) -> None:
    """Make a file that is there with all that is in it: others wait for it."""
    (FOLDER / "new").write_text(text)
    (FOLDER / "new").rename(FOLDER / name)


def answer(verb: str, arguments: list[str]) -> str:
    code = FOLDER / "code"
    if verb == "image":
        return "290000000"
    if verb == "run":
        port = arguments[arguments.index("--publish") + 1].split(":")[1]
        subprocess.Popen(
            [sys.executable, __file__, "keep", port],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not (FOLDER / "pid").exists():
            time.sleep(0.01)
    elif verb == "inspect":
        wanted = "".join(arguments)
        return str(not code.exists()).lower() if "Running" in wanted else code.read_text()
    elif verb == "exec":
        return (FOLDER / "inside.json").read_text() if "python" in arguments else "SERVING"
    elif verb == "kill":
        os.kill(int((FOLDER / "pid").read_text()), signal.SIGTERM)
    elif verb == "wait":
        while not code.exists():
            time.sleep(0.01)
        return code.read_text()
    elif verb == "logs":
        return (FOLDER / "log").read_text()
    elif verb == "rm" and not code.exists() and (FOLDER / "pid").exists():
        os.kill(int((FOLDER / "pid").read_text()), signal.SIGKILL)
    return ""


if sys.argv[1] == "keep":
    keep(sys.argv[2])
else:
    with (FOLDER / "calls").open("a") as calls:
        print(json.dumps(sys.argv[1:]), file=calls)
    print(answer(sys.argv[1], sys.argv[2:]))
