"""Build the container image, run it locked down, and use it from outside.

The checks, in order: the image builds; it starts; it reports SERVING to a client outside; it runs without root,
capabilities or a writable root file system; its own health probe works; it generates the same text twice for one seed;
on SIGTERM it ends within ten seconds with exit code 0.

Run it from the checkout with `python -m deploy.test_container`, where the project is installed. It needs docker,
podman, or buildah with podman. deploy/README.md has the options.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from charloom.client import CharloomError, Client, HealthStatus
from deploy.container_engines import (
    CHECKOUT,
    CheckFailure,
    ContainerEngine,
    choose_engine,
    output_of,
    run_visibly,
    say,
    succeeds,
)
from deploy.local_base import make_local_base

SERVER_PORT = 50051
PROMPT = "ROMEO:"
EXTRAS = "server,http,jwt"
START_SECONDS, STOP_SECONDS = 60.0, 10.0

# Runs inside the container, beside the server, which is process 1 there.
INSPECTION = """
import importlib.util, json
status = dict(line.split(":", 1) for line in open("/proc/1/status"))
def errno_of_write(folder):
    try:
        open(folder + "/charloom-write-test", "w").close()
    except OSError as error:
        return error.errno
    return 0
print(json.dumps({
    "uids": [int(uid) for uid in status["Uid"].split()],
    "capabilities": int(status["CapEff"], 16),
    "no_new_privileges": int(status["NoNewPrivs"]),
    "writes": {folder: errno_of_write(folder) for folder in ("", "/tmp", "/var/tmp", "/opt/charloom")},
    "resident": int(status["VmRSS"].split()[0]) * 1024,
    "torch": importlib.util.find_spec("torch") is not None,
    "materials": [one["name"] for one in json.load(open("/opt/charloom/bill-of-materials.json"))["components"]],
}))
"""


@dataclass(frozen=True)
class Container:
    """A started container."""

    engine: ContainerEngine
    name: str
    target: str
    """Where clients outside find the server."""
    own_target: str
    """Where a process inside finds it."""

    def control(self, verb: str, *arguments: str, timeout: float = 60.0) -> str:
        """What the engine answers to a command about this container."""
        return output_of([*self.engine.control, verb, *arguments], f"{self.engine.name} {verb}", timeout)

    def state(self, field: str) -> str:
        """One field of the engine's record of the container's state."""
        return self.control("inspect", "--format", "{{.State." + field + "}}", self.name).strip()

    def execute(self, *command: str) -> str:
        """The output of a command inside."""
        return self.control("exec", self.name, *command)


@contextmanager
def running(engine: ContainerEngine, image: str) -> Iterator[Container]:
    """Start the image with as few rights as it should need; the container is removed at the end, whatever happens."""
    name, port = f"charloom-test-{os.getpid()}", _free_port()
    command = [*engine.control, "run", "--detach", "--name", name, *engine.run_options]
    command += ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    if engine.host_network:
        command += ["--network", "host", image, "serve", "--host", "127.0.0.1", "--port", str(port)]
    else:
        command += ["--publish", f"127.0.0.1:{port}:{SERVER_PORT}", image, "serve", "--host", "0.0.0.0", "--insecure"]
    own_port = port if engine.host_network else SERVER_PORT
    say(shlex.join(command))
    try:
        output_of(command, "starting the container")
        try:
            yield Container(engine, name, f"127.0.0.1:{port}", f"localhost:{own_port}")
        except CheckFailure:
            print("--- the server's log ---", flush=True)
            subprocess.run([*engine.control, "logs", "--tail", "60", name], stderr=subprocess.STDOUT, check=False)
            print("--- end of the log ---", flush=True)
            raise
    finally:
        succeeds(*engine.control, "rm", "--force", name)


def _free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now, and that the system gives nobody who does not ask for it."""
    while True:
        port = random.randrange(20_000, 32_768)
        with socket.socket() as listener, suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            return port


def check_start(container: Container) -> None:
    """The server must report SERVING to a client outside."""
    began = time.monotonic()
    with Client(container.target, timeout=10.0) as client:
        while not _serves(client):
            if container.state("Running") != "true":
                raise CheckFailure(f"the server ended while it started, exit code {container.state('ExitCode')}")
            if time.monotonic() - began > START_SECONDS:
                raise CheckFailure(f"the server at {container.target} was not SERVING after {START_SECONDS:.0f} s")
            time.sleep(0.1)
    say(f"serving {time.monotonic() - began:.1f} s after the start")


def _serves(client: Client) -> bool:
    try:
        return client.health() is HealthStatus.SERVING
    except CharloomError:
        return False


def check_inside(container: Container, extras: str) -> None:
    """What only a process inside can see: the server's user and rights, the file system, the packages."""
    seen = json.loads(container.execute("python", "-c", INSPECTION))
    if 0 in seen["uids"]:
        raise CheckFailure(f"the server runs as root: uids {seen['uids']}")
    if seen["capabilities"] != 0 or seen["no_new_privileges"] != 1:
        raise CheckFailure(
            f"the server has rights: capabilities {seen['capabilities']:#x}, "
            f"no_new_privileges {seen['no_new_privileges']}"
        )
    say(f"the server runs as uid {seen['uids'][0]}, without capabilities or new privileges")
    writable = [folder or "/" for folder, code in seen["writes"].items() if code != errno.EROFS]
    if writable:
        raise CheckFailure(f"not on a read-only file system: {', '.join(writable)}")
    say("the root file system is read-only")
    expected = "torch" in extras or "training" in extras
    if seen["torch"] != expected:
        raise CheckFailure(f"torch is {'missing from' if expected else 'in'} the image (extras: {extras})")
    say(f"torch is {'in' if expected else 'not in'} the image")
    if missing := {"charloom", "grpcio", "onnxruntime"} - set(seen["materials"]):
        raise CheckFailure(f"the bill of materials lacks {', '.join(sorted(missing))}")
    say(f"the bill of materials has {len(seen['materials'])} packages")
    say(f"the server has {seen['resident'] / 2**20:.0f} MiB of memory resident")
    container.execute("charloom", "health", "--any-certificate", "--target", container.own_target)
    say("the image's own health probe succeeds")


def check_generation(container: Container) -> None:
    """The same seed must give the same text."""
    with Client(container.target, timeout=60.0) as client:
        texts = [client.complete(PROMPT, max_tokens=80, seed=7).text for _ in range(2)]
    if not texts[0].strip():
        raise CheckFailure(f"the generated text is empty: {texts[0]!r}")
    if texts[0] != texts[1]:
        raise CheckFailure(f"one seed gave two texts:\n{texts[0]!r}\n{texts[1]!r}")
    say(f"twice the same text: {texts[0]!r}")


def check_stop(container: Container) -> None:
    """SIGTERM must end the server in time and in order."""
    began = time.monotonic()
    container.control("kill", "--signal", "TERM", container.name)
    code = container.control("wait", container.name, timeout=STOP_SECONDS).strip()
    if code != "0":
        raise CheckFailure(f"exit code {code} after SIGTERM; 0 is expected")
    say(f"stopped {time.monotonic() - began:.1f} s after SIGTERM, exit code 0")


def run_test(options: argparse.Namespace) -> None:
    """Build, run, check.

    Raises:
        CheckFailure: a check did not hold, or something that it needs is missing.
        CharloomError: a call to the server in the container failed.
    """
    engine = choose_engine(options.engine, options.storage_root and options.storage_root.absolute())
    say(f"engine: {engine.name}")
    if not options.skip_build:
        base = make_local_base(engine) if options.local_base else options.base
        arguments = ["--build-arg", f"EXTRAS={options.extras}"]
        arguments += ["--build-arg", f"PYTHON_IMAGE={base}"] if base else []
        run_visibly([*engine.build, *arguments, *options.build_options, "-t", options.tag, str(CHECKOUT)])
    size = output_of([*engine.control, "image", "inspect", "--format", "{{.Size}}", options.tag], "finding the image")
    with running(engine, options.tag) as container:
        check_start(container)
        check_inside(container, options.extras)
        check_generation(container)
        check_stop(container)
    say(f"image size: {int(size) / 1e6:.0f} MB")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.test_container", description="Build the container image, run it locked down, check it."
    )
    engines = ["auto", "docker", "podman", "buildah"]
    parser.add_argument("--engine", choices=engines, default="auto", help="[auto: the first that works here]")
    parser.add_argument("--storage-root", type=Path, help="where podman and buildah keep images [their own place]")
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--base", help="base image [the Dockerfile's]")
    base.add_argument("--local-base", action="store_true", help="make the base image of Debian packages (mmdebstrap)")
    parser.add_argument("--extras", default=EXTRAS, help=f"extras in the image [{EXTRAS}]")
    parser.add_argument("--tag", default="charloom:test", help="name of the image [charloom:test]")
    parser.add_argument("--skip-build", action="store_true", help="check the image that is there")
    parser.add_argument("build_options", nargs="*", metavar="-- OPTION", help="options of the build, such as --secret")
    return parser.parse_args(arguments)


def _end_in_order(number: int, _: FrameType | None) -> None:
    """Turn a signal into an ordinary exit, so that the container is removed."""
    sys.exit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the test; the exit code is 0 if every check held."""
    options = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_in_order)
    try:
        run_test(options)
    except (CheckFailure, CharloomError) as failure:
        print(f"test_container: FAILED: {failure}", file=sys.stderr)
        return 1
    say("passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
