"""Serve one model with several replicas on this machine: Redis for the sessions, HAProxy in front, one address.

    python -m deploy.scale_out [--replicas N] [--port P] [--bundle PATH] [--logs FOLDER]

Run it from the checkout, with a Python in which `charloom` is installed (extra: server). It needs the Debian packages
redis-server and haproxy. A replica that ends is started again. Ctrl-C or SIGTERM ends everything in order; sessions end
with it. What is set as CHARLOOM_... in the environment holds for all replicas.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

LOOK_SECONDS = 0.2


class Asked(BaseException):
    """Somebody wants this to end."""


def say(text: str) -> None:
    """Tell the user one line."""
    print(f"scale-out: {text}", flush=True)


def ask(number: int, frame: FrameType | None) -> None:
    """Takes the signals; later ones change nothing."""
    for known in (signal.SIGINT, signal.SIGTERM):
        signal.signal(known, signal.SIG_IGN)
    raise Asked


def at_least_one(text: str) -> int:
    """A number of replicas."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of replicas; give 1 or more")
    return int(text)


def a_port(text: str) -> int:
    """A number of a port."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number up to 65535, 0 for a free one")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Start, look after the replicas, stop."""
    try:
        from benchmarks.cluster import ScaleOut
        from charloom.models import BUNDLED_MODEL
    except ImportError as problem:
        print(f"scale-out: {problem}: run this with a Python that has charloom[server] installed", file=sys.stderr)
        return 1
    logs = arguments.logs or Path(tempfile.mkdtemp(prefix="charloom-logs-"))
    try:
        with ScaleOut(
            arguments.bundle or BUNDLED_MODEL, logs, replicas=arguments.replicas, port=arguments.port
        ) as scale_out:
            for index, replica in enumerate(scale_out.replicas):
                say(f"replica {index} is process {replica.pid} on {replica.target}")
            say(f"logs are in {logs}")
            print(f"listening on {scale_out.address}", flush=True)
            while True:
                time.sleep(LOOK_SECONDS)
                scale_out.require_running()
                for index, replica in enumerate(scale_out.replicas):
                    if not replica.alive:
                        say(f"replica {index} has ended")
                        scale_out.restart(index)
                        say(f"replica {index} is process {scale_out.replicas[index].pid} now")
    except Asked:
        say("stopped")
        return 0
    except (RuntimeError, OSError) as problem:
        print(f"scale-out: {problem}", file=sys.stderr)
        return 1


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.scale_out", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replicas", type=at_least_one, default=2, metavar="N", help="how many (default: 2)")
    parser.add_argument("--port", type=a_port, default=50051, metavar="P", help="of the address (default: 50051)")
    parser.add_argument("--bundle", type=Path, metavar="PATH", help="bundle to serve (default: the bundled model)")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="where logs go (default: a new temporary folder)")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
