"""Draw the README's terminal session: run the commands against a server of the bundled model, and write an SVG.

    python scripts/draw_terminal.py [--out docs/pictures/terminal.svg]

Everything in the picture is what the commands printed; nothing is typed in but the commands. It needs `.[server]`,
rich, and the port 50051. The same model on the same kind of processor gives the same picture.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 96
SERVE = "charloom serve"
COMMANDS = (
    'charloom generate "ROMEO:" --echo --session play --max-tokens 140 --temperature 0.7 --seed 5',
    "charloom generate --session play --max-tokens 140 --temperature 0.7  # goes on there",
    'charloom inspect "To be, or not to be: that is the question" --gate forget --layer 0 --rows 6',
)
STOP_SECONDS = 15.0
FONTS = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
"""Fonts that readers have: an SVG inside a page may not fetch any."""


@contextmanager
def served() -> Iterator[str]:
    """A server of the bundled model on its usual port; yields what it printed at the start."""
    process = subprocess.Popen(_arguments(SERVE), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = ""
    try:
        while "listening on" not in said:
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"the server did not start:\n{said}")
            said += line
        yield said
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=STOP_SECONDS)


def output(command: str) -> str:
    """What a command prints on a terminal with colours."""
    environment = {**os.environ, "FORCE_COLOR": "1", "COLORTERM": "truecolor", "COLUMNS": str(COLUMNS)}
    done = subprocess.run(_arguments(command), capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{command}\n{done.stderr}")
    return done.stdout.rstrip("\n") + "\n"


def _arguments(command: str) -> list[str]:
    return [sys.executable, "-m", "charloom.cli.main", *shlex.split(command, comments=True)[1:]]


def drawn(session: list[tuple[str, str]]) -> str:
    """The SVG of commands and what they printed."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for command, printed in session:
        line, _, comment = command.partition("  #")
        typed = Text.assemble(("$ ", Style(color="green", bold=True)), (line, Style(bold=True)))
        console.print(typed.append(f"  #{comment}" if comment else "", "dim"), soft_wrap=True)
        console.print(Text.from_ansi(printed))
    picture = console.export_svg(title="charloom", unique_id="terminal")
    picture = re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", "", picture, flags=re.DOTALL)
    return picture.replace("Fira Code, monospace", FONTS)


def main() -> None:
    """Run and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/pictures/terminal.svg", help="file to write")
    out = parser.parse_args().out
    with served() as said:
        session = [(f"{SERVE} &", said), *((command, output(command)) for command in COMMANDS)]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(drawn(session), "utf-8")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
