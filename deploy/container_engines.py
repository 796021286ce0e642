"""Docker, podman and buildah: which of them works here, and how each builds an image and runs a container."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


class CheckFailure(Exception):
    """A check did not hold, or could not be made; the message says which and what was seen."""


def say(text: str) -> None:
    """Tell the user one line."""
    print(f"test_container: {text}", flush=True)


def output_of(command: Sequence[str], what: str, timeout: float = 60.0) -> str:
    """Run a command to its end and return its standard output.

    Raises:
        CheckFailure: it failed, or took longer than `timeout` seconds.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise CheckFailure(f"{what}: no end after {timeout:.0f} s: {shlex.join(command)}") from None
    if done.returncode != 0:
        raise CheckFailure(f"{what}: exit code {done.returncode}: {shlex.join(command)}\n{done.stderr.strip()}")
    return done.stdout


def run_visibly(command: Sequence[str]) -> None:
    """Run a long command with its output on the terminal.

    Raises:
        CheckFailure: it failed.
    """
    say(shlex.join(command))
    if subprocess.run(command, check=False).returncode != 0:
        raise CheckFailure(f"{command[0]} failed; its output is above")


def succeeds(*command: str, timeout: float = 30.0) -> bool:
    """Whether a command ends with exit code 0 in time."""
    try:
        return subprocess.run(command, capture_output=True, timeout=timeout, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@dataclass(frozen=True)
class ContainerEngine:
    """How one engine is called."""

    name: str
    build: tuple[str, ...]
    """The command that builds an image, up to its options."""
    control: tuple[str, ...]
    """The command that runs, inspects and stops containers, up to its verb."""
    run_options: tuple[str, ...] = ()
    """Options of the verb `run` that this engine needs."""
    host_network: bool = False
    """Whether the container shares the host's network; otherwise its port is published."""


def choose_engine(wanted: str, storage_root: Path | None) -> ContainerEngine:
    """The engine of this name, or for "auto" the first that works here.

    Args:
        wanted: "docker", "podman", "buildah" or "auto"
        storage_root: where podman and buildah keep images and containers, if not in their own place

    Raises:
        CheckFailure: it does not work here; the message says what is missing.
    """
    missing = {name: _missing(name) for name in ("docker", "podman", "buildah")}
    if wanted == "auto":
        # Without systemd podman needs the settings that stand below under the name of buildah.
        if sys.platform == "linux" and not Path("/run/systemd/system").is_dir():
            missing["podman"] = missing["podman"] or "there is no systemd here"
        wanted = next((name for name, problem in missing.items() if not problem), "")
        if not wanted:
            problems = "".join(f"\n  {name}: {problem}" for name, problem in missing.items())
            raise CheckFailure(f"no container engine works here:{problems}")
    if missing[wanted]:
        raise CheckFailure(f"{wanted} does not work here: {missing[wanted]}")
    return _engine(wanted, storage_root)


def _missing(name: str) -> str:
    """What is missing for an engine to work; empty if nothing."""
    tools = {"docker": ["docker"], "podman": ["podman"], "buildah": ["buildah", "podman"]}[name]
    absent = [tool for tool in tools if not shutil.which(tool)]
    if absent:
        return f"{' and '.join(absent)} not installed"
    if name == "docker" and not succeeds("docker", "info"):
        return "its daemon does not answer `docker info`"
    return ""


def _engine(name: str, storage_root: Path | None) -> ContainerEngine:
    if name == "docker":
        return ContainerEngine(name, build=("docker", "build"), control=("docker",))
    storage: tuple[str, ...] = ()
    if storage_root is not None:
        storage = ("--root", str(storage_root / "root"), "--runroot", str(storage_root / "runroot"))
    # Without the second option podman gives a read-only container writable folders in memory.
    run_options = ("--pull", "never", "--read-only-tmpfs=false")
    if name == "podman":
        return ContainerEngine(
            name,
            build=("podman", *storage, "build", "--format", "docker"),
            control=("podman", *storage),
            run_options=run_options,
        )
    # Inside a container or a sandbox there is neither systemd nor a network to bridge to.
    runtime = ("--runtime", "runc") if shutil.which("runc") else ()
    limits = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")
    return ContainerEngine(
        name,
        build=("buildah", *storage, "bud", "--isolation", "chroot", "--network", "host", "--format", "docker"),
        control=("podman", *storage, *runtime, "--cgroup-manager", "cgroupfs"),
        run_options=(*run_options, "--no-healthcheck", *limits),  # podman's health checks are timers of systemd
        host_network=True,
    )
