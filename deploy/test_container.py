#!/usr/bin/env python3
"""Build the container image, run it locked down, and use it from outside.

The checks, in order: the image builds; it starts; it reports SERVING to a client outside the container; it
runs without root, capabilities or a writable root file system; its own health probe works; it generates the
same text twice for one seed; on SIGTERM it ends within ten seconds with exit code 0.

Needs Python 3.10 and docker, podman, or buildah with podman. Knows nothing of the server beyond its command
line. See deploy/README.md for the options.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import errno
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

CHECKOUT = Path(__file__).resolve().parent.parent
SERVER_PORT = 50051
PROMPT = "ROMEO:"
STOP_SECONDS = 10.0

LOCAL_BASE = "localhost/charloom-python:3.11-slim"
LOCAL_BASE_SUITE = "bookworm"
LOCAL_BASE_DOCKERFILE = """\
FROM scratch
ADD base.tar /
RUN ln -s /usr/bin/python3 /usr/local/bin/python && rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
CMD ["python"]
"""

# Only what says where packages come from. Other settings of pip are the host's own business.
PIP_KEYS = (
    "index-url",
    "extra-index-url",
    "no-index",
    "find-links",
    "trusted-host",
    "proxy",
    "timeout",
    "default-timeout",
    "retries",
)

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
    "torch": importlib.util.find_spec("torch") is not None,
}))
"""


class CheckFailure(Exception):
    """A check did not hold; the message says which and what was seen."""


@dataclass(frozen=True)
class Engine:
    """How one container engine is called."""

    name: str
    build: tuple[str, ...]
    """The command that builds an image, up to its options."""
    control: tuple[str, ...]
    """The command that runs, inspects and stops containers, up to its verb."""
    run_options: tuple[str, ...]
    """Options of the verb `run` that this engine needs."""
    host_network: bool
    """Whether the container shares the host's network; otherwise its port is published."""
    build_folder: Path | None = None
    """Where the build keeps temporary files, if not in the usual place."""


def say(text: str) -> None:
    """Tell the user one line."""
    print(f"test-container: {text}", flush=True)


def output_of(command: Sequence[str], *, what: str, timeout: float = 60.0) -> str:
    """Run a command to its end and return its standard output; any failure is a `CheckFailure`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise CheckFailure(f"{what}: no end after {timeout:.0f} s: {shlex.join(command)}") from None
    if done.returncode != 0:
        raise CheckFailure(
            f"{what}: exit code {done.returncode}: {shlex.join(command)}\n{done.stderr.strip()}"
        )
    return done.stdout


def succeeds(command: Sequence[str], timeout: float = 30.0) -> bool:
    """Whether a command ends with exit code 0 in time. It says nothing."""
    try:
        return subprocess.run(command, capture_output=True, timeout=timeout, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def run_visibly(command: Sequence[str], *, what: str, temporary: Path | None = None) -> None:
    """Run a long command with its output on the terminal."""
    say(shlex.join(command))
    environment = dict(os.environ)
    if temporary is not None:
        temporary.mkdir(parents=True, exist_ok=True)
        environment["TMPDIR"] = str(temporary)
    if subprocess.run(command, env=environment, check=False).returncode != 0:
        raise CheckFailure(f"{what} failed; its output is above")


# --- The engines


def choose_engine(name: str, storage_root: Path | None) -> Engine:
    """The engine of this name, or for "auto" the first that can work here."""
    if name == "auto":
        name = detect_engine()
    if name == "docker":
        return Engine("docker", ("docker", "build"), ("docker",), (), host_network=False)

    storage: tuple[str, ...] = ()
    if storage_root is not None:
        storage = ("--root", str(storage_root / "root"), "--runroot", str(storage_root / "runroot"))
    # Without the second option podman gives a read-only container writable folders in memory.
    run_options = ("--pull", "never", "--read-only-tmpfs=false")
    if name == "podman":
        return Engine(
            "podman",
            build=("podman", *storage, "build", "--format", "docker"),
            control=("podman", *storage),
            run_options=run_options,
            host_network=False,
        )
    # Inside a container or a sandbox there is neither systemd nor a network to bridge to.
    runtime = ("--runtime", "runc") if shutil.which("runc") else ()
    isolation = ("--isolation", "chroot", "--network", "host")
    return Engine(
        "buildah",
        build=("buildah", *storage, "bud", *isolation, "--format", "docker"),
        control=("podman", *storage, *runtime, "--cgroup-manager", "cgroupfs"),
        # Podman's health checks are timers of systemd.
        run_options=(
            *run_options,
            "--no-healthcheck",
            "--ulimit",
            "nofile=4096:4096",
            "--ulimit",
            "nproc=4096:4096",
        ),
        host_network=True,
        build_folder=storage_root / "tmp" if storage_root is not None else None,
    )


def detect_engine() -> str:
    """Docker if its daemon answers, then podman where it can run as usual, then buildah."""
    if shutil.which("docker") and succeeds(["docker", "info"]):
        return "docker"
    managed = sys.platform != "linux" or Path("/run/systemd/system").is_dir()
    if shutil.which("podman") and managed:
        return "podman"
    if shutil.which("podman") and shutil.which("buildah"):
        return "buildah"
    raise CheckFailure("no container engine: start docker, or install podman, or buildah with podman")


# --- Building


def pip_settings() -> dict[str, str]:
    """Where this host's pip takes packages from, out of its configuration files and environment."""
    explicit = os.environ.get("PIP_CONFIG_FILE")
    configured = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    files = [Path("/etc/pip.conf"), Path.home() / ".pip" / "pip.conf", configured / "pip" / "pip.conf"]
    if explicit is not None:
        files = [] if explicit == os.devnull else [*files, Path(explicit)]
    parser = configparser.RawConfigParser()
    parser.read(files)
    found: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            found.update(parser.items(section))
    for key in (*PIP_KEYS, "cert"):
        value = os.environ.get("PIP_" + key.upper().replace("-", "_"))
        if value is not None:
            found[key] = value
    return found


def build_secrets(folder: Path) -> list[str]:
    """The options that hand pip's settings and certificates to a build, if this host has any."""
    options: list[str] = []
    settings = pip_settings()
    sources = configparser.RawConfigParser()
    sources["global"] = {key: settings[key] for key in PIP_KEYS if key in settings}
    if len(sources["global"]):
        path = folder / "pip.conf"
        path.touch(mode=0o600)
        with path.open("w") as file:
            sources.write(file)
        options += ["--secret", f"id=pipconf,src={path}"]
    candidates = [settings.get("cert"), os.environ.get("SSL_CERT_FILE"), os.environ.get("REQUESTS_CA_BUNDLE")]
    for certificates in candidates:
        if certificates and Path(certificates).is_file():
            return [*options, "--secret", f"id=ca,src={certificates}"]
    return options


def make_local_base(engine: Engine, folder: Path) -> None:
    """Make a base image with Python out of Debian packages, unless there is one from an earlier run."""
    if succeeds([*engine.control, "image", "inspect", LOCAL_BASE]):
        say(f"local base image: {LOCAL_BASE}, from an earlier run")
        return
    if not shutil.which("mmdebstrap"):
        raise CheckFailure("--local-base needs mmdebstrap (Debian package of that name)")
    context = folder / "base"
    context.mkdir()
    run_visibly(
        [
            "mmdebstrap",
            "--variant=minbase",
            "--components=main",
            "--include=ca-certificates,python3,python3-pip,python3-venv",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-include=/usr/share/doc/*/copyright",
            LOCAL_BASE_SUITE,
            str(context / "base.tar"),
        ],
        what="mmdebstrap",
    )
    (context / "Dockerfile").write_text(LOCAL_BASE_DOCKERFILE)
    run_visibly(
        [*engine.build, "-t", LOCAL_BASE, str(context)],
        what="the build of the base image",
        temporary=engine.build_folder,
    )


def build_image(engine: Engine, options: argparse.Namespace, folder: Path) -> None:
    """Build the image from the checkout."""
    base = options.base
    if options.local_base:
        make_local_base(engine, folder)
        base = LOCAL_BASE
    arguments = ["--build-arg", f"EXTRAS={options.extras}"]
    if base:
        arguments += ["--build-arg", f"PYTHON_IMAGE={base}"]
    extra = shlex.split(os.environ.get("CHARLOOM_BUILD_FLAGS", ""))
    run_visibly(
        [*engine.build, *arguments, *build_secrets(folder), *extra, "-t", options.tag, str(CHECKOUT)],
        what="the build",
        temporary=engine.build_folder,
    )


# --- Running


@dataclass(frozen=True)
class Container:
    """A started container: how to speak of it, and how to reach its server."""

    engine: Engine
    name: str
    target: str
    """Where clients outside find the server."""
    own_target: str
    """Where a process inside finds it."""
    started: float
    """`time.monotonic()` just before the start."""

    def state(self, field: str) -> str:
        """One field of the engine's record of the container's state."""
        command = [*self.engine.control, "inspect", "--format", "{{.State." + field + "}}", self.name]
        return output_of(command, what="inspecting the container").strip()

    def logs(self) -> str:
        """The last lines that the server wrote."""
        command = [*self.engine.control, "logs", "--tail", "60", self.name]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30, check=False
        )
        return done.stdout


@contextlib.contextmanager
def running(engine: Engine, image: str, port: int) -> Iterator[Container]:
    """Start the image with as few rights as it should need.

    The container is removed at the end, whatever happens.
    """
    name = f"charloom-test-{os.getpid()}"
    command = [*engine.control, "run", "--detach", "--name", name, *engine.run_options]
    command += ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    extra = shlex.split(os.environ.get("CHARLOOM_RUN_FLAGS", ""))
    if engine.host_network:
        own_port = port
        command += ["--network", "host", *extra, image, "serve", "--host", "127.0.0.1", "--port", str(port)]
    else:
        own_port = SERVER_PORT
        command += ["--publish", f"127.0.0.1:{port}:{SERVER_PORT}", *extra, image]
    say(shlex.join(command))
    started = time.monotonic()
    try:
        output_of(command, what="starting the container")
        container = Container(engine, name, f"127.0.0.1:{port}", f"localhost:{own_port}", started)
        try:
            yield container
        except CheckFailure:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                print(f"--- the server's log ---\n{container.logs()}--- end of the log ---", flush=True)
            raise
    finally:
        succeeds([*engine.control, "rm", "--force", name])


def wait_until_serving(container: Container, charloom: str, seconds: float) -> float:
    """Ask for the server's health from outside until it serves. Returns the seconds since the start."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if succeeds([charloom, "health", "--target", container.target], timeout=10.0):
            return time.monotonic() - container.started
        if container.state("Running") != "true":
            raise CheckFailure(f"the server ended while it started, exit code {container.state('ExitCode')}")
        time.sleep(0.1)
    raise CheckFailure(f"the server at {container.target} was not SERVING after {seconds:.0f} s")


def check_inside(container: Container, extras: str) -> None:
    """What only a process inside can see: the server's user and rights, and the file system."""
    execute = [*container.engine.control, "exec", container.name]
    seen = json.loads(output_of([*execute, "python", "-c", INSPECTION], what="looking inside"))
    if 0 in seen["uids"]:
        raise CheckFailure(f"the server runs as root: uids {seen['uids']}")
    say(f"the server runs as uid {seen['uids'][0]}")
    if seen["capabilities"] != 0 or seen["no_new_privileges"] != 1:
        raise CheckFailure(
            f"the server has rights: capabilities {seen['capabilities']:#x}, "
            f"no_new_privileges {seen['no_new_privileges']}"
        )
    writable = [folder or "/" for folder, code in seen["writes"].items() if code != errno.EROFS]
    if writable:
        raise CheckFailure(f"not on a read-only file system: {', '.join(writable)}")
    say("the root file system is read-only; no capabilities, no new privileges")
    expected = "torch" in extras or "training" in extras
    if seen["torch"] != expected:
        raise CheckFailure(f"torch is {'missing from' if expected else 'in'} the image (extras: {extras})")
    say(f"torch is {'in' if expected else 'not in'} the image")
    probe = [*execute, "charloom", "health", "--target", container.own_target]
    output_of(probe, what="the image's own health probe")
    say("the image's own health probe succeeds")


def check_generation(container: Container, charloom: str) -> None:
    """The same seed must give the same text."""
    command = [charloom, "generate", PROMPT, "--target", container.target]
    command += ["--max-tokens", "80", "--seed", "7"]
    say(shlex.join(command))
    texts = [output_of(command, what="generating") for _ in range(2)]
    if not texts[0].removeprefix(PROMPT).strip():
        raise CheckFailure(f"the generated text is empty: {texts[0]!r}")
    if texts[0] != texts[1]:
        raise CheckFailure(f"one seed gave two texts:\n{texts[0]!r}\n{texts[1]!r}")
    say(f"twice the same text: {texts[0]!r}")


def check_stop(container: Container) -> None:
    """SIGTERM must end the server in time and in order."""
    control = container.engine.control
    began = time.monotonic()
    output_of([*control, "kill", "--signal", "TERM", container.name], what="sending SIGTERM")
    code = output_of([*control, "wait", container.name], what="stopping", timeout=STOP_SECONDS).strip()
    seconds = time.monotonic() - began
    if seconds > STOP_SECONDS:
        raise CheckFailure(f"the server took {seconds:.1f} s to stop; {STOP_SECONDS:.0f} s are allowed")
    if code != "0":
        raise CheckFailure(f"exit code {code} after SIGTERM; 0 is expected")
    say(f"stopped {seconds:.1f} s after SIGTERM, exit code 0")


# --- The command line


def parse_arguments() -> argparse.Namespace:
    """The options, each from the command line or else from the environment."""
    variables = os.environ
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--engine",
        choices=["auto", "docker", "podman", "buildah"],
        default=variables.get("CHARLOOM_ENGINE", "auto"),
        help="buildah: build with buildah and run with podman where no daemon runs [CHARLOOM_ENGINE, auto]",
    )
    parser.add_argument(
        "--storage-root",
        type=Path,
        default=variables.get("CHARLOOM_STORAGE_ROOT"),
        help="folder for images and containers of podman and buildah [CHARLOOM_STORAGE_ROOT, their own]",
    )
    parser.add_argument(
        "--base", default=variables.get("CHARLOOM_BASE"), help="base image [CHARLOOM_BASE, the Dockerfile's]"
    )
    parser.add_argument(
        "--local-base",
        action="store_true",
        help="make the base image from Debian packages with mmdebstrap, where no base image can be pulled",
    )
    parser.add_argument(
        "--extras",
        default=variables.get("CHARLOOM_EXTRAS", "server"),
        help='extras in the image, such as "server,torch" [CHARLOOM_EXTRAS, server]',
    )
    parser.add_argument("--tag", default="charloom:test", help="name of the image [charloom:test]")
    parser.add_argument("--skip-build", action="store_true", help="use the image that is there")
    parser.add_argument("--port", type=int, help="port on 127.0.0.1 [a free one]")
    parser.add_argument(
        "--charloom", help="the charloom command outside [.venv/bin/charloom in the checkout, then PATH]"
    )
    parser.add_argument("--start-timeout", type=float, default=60.0, help="seconds until it must serve [60]")
    options = parser.parse_args()
    if options.base and options.local_base:
        parser.error("--base and --local-base exclude each other")
    return options


def find_charloom(given: str | None) -> str:
    """The command line of the SDK on this side."""
    candidates = [given] if given else [str(CHECKOUT / ".venv" / "bin" / "charloom"), "charloom"]
    for candidate in candidates:
        found = shutil.which(candidate)
        if found:
            return found
    raise CheckFailure(f"no command {' or '.join(candidates)}: install the project, or give --charloom")


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def run_test(options: argparse.Namespace) -> None:
    """Build, run, check."""
    charloom = find_charloom(options.charloom)
    storage_root = options.storage_root.absolute() if options.storage_root else None
    engine = choose_engine(options.engine, storage_root)
    say(f"engine: {engine.name}")
    if not options.skip_build:
        with tempfile.TemporaryDirectory(prefix="charloom-container-") as folder:
            build_image(engine, options, Path(folder))
    size = output_of(
        [*engine.control, "image", "inspect", "--format", "{{.Size}}", options.tag],
        what="inspecting the image",
    )
    with running(engine, options.tag, options.port or free_port()) as container:
        seconds = wait_until_serving(container, charloom, options.start_timeout)
        say(f"serving {seconds:.1f} s after the start")
        check_inside(container, options.extras)
        check_generation(container, charloom)
        check_stop(container)
    say(f"image size: {int(size) / 1e6:.0f} MB")


def end_in_order(signal_number: int, _frame: FrameType | None) -> None:
    """Turn a signal into an ordinary exit, so that the container is removed."""
    sys.exit(128 + signal_number)


def main() -> int:
    """Run the test; the exit code is 0 if every check held."""
    signal.signal(signal.SIGTERM, end_in_order)
    signal.signal(signal.SIGINT, end_in_order)
    try:
        run_test(parse_arguments())
    except CheckFailure as failure:
        print(f"test-container: FAILED: {failure}", file=sys.stderr)
        return 1
    say("passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
