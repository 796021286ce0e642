"""Say which packages an image would get, and what their download weighs, without building it.

    python -m deploy.image_packages --target cuda

uv resolves the extras of the image for its Python and its platform, whatever machine this is, from the metadata in the
package index: nothing is downloaded or installed. uv has its own settings (`UV_INDEX_URL`, `SSL_CERT_FILE`), not pip's.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.container_engines import CHECKOUT, CheckFailure, output_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TARGETS = {"cpu": "", "cuda": ",torch"}
"""The Dockerfile's targets, with what each adds to its usual extras."""
GLIBC = "2_36"
"""The C library of the base image: Debian 12 has 2.36, and Debian 13 a later one, which takes the same wheels."""


@dataclass(frozen=True)
class Package:
    """One package as an image would get it."""

    name: str
    version: str
    download_bytes: int
    """Size of its wheel, the largest where several fit; 0 where the index does not tell it."""


def usual_extras(dockerfile: str) -> str:
    """The extras that a Dockerfile installs unless the build says otherwise, with commas between them.

    Raises:
        CheckFailure: it has no build argument EXTRAS with a default.
    """
    if found := re.search(r"^ARG EXTRAS=(\S+)$", dockerfile, re.MULTILINE):
        return found[1]
    raise CheckFailure("the Dockerfile names no usual EXTRAS")


def resolve(project: Path, extras: str, python: str, machine: str) -> list[Package]:
    """The packages that a project needs with some of its extras, by name.

    Args:
        project: its pyproject.toml
        extras: names of extras, with commas between them
        python: the version of Python in the image, such as "3.11"
        machine: "x86_64" or "aarch64"

    Raises:
        CheckFailure: they cannot be resolved, or uv or the package index is not there; the message has uv's words.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", str(project), "--quiet", "--no-header"]
    command += [option for extra in extras.split(",") for option in ("--extra", extra)]
    command += ["--python-version", python, "--python-platform", f"{machine}-manylinux_{GLIBC}"]
    command += ["--only-binary", ":all:", "--format", "pylock.toml"]
    locked = tomllib.loads(output_of(command, "resolving the packages", timeout=300.0))
    return [
        Package(one["name"], one["version"], max(wheel.get("size", 0) for wheel in one["wheels"]))
        for one in locked["packages"]
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the packages; the exit code is 0 if all of them were found."""
    parser = argparse.ArgumentParser(prog="python -m deploy.image_packages", description="What an image would install.")
    parser.add_argument("--target", choices=list(TARGETS), default="cpu", help="of the Dockerfile [cpu]")
    parser.add_argument("--extras", help="[those that the Dockerfile installs for this target]")
    parser.add_argument("--python", default="3.11", help="version of Python in the image [3.11]")
    parser.add_argument("--machine", choices=["x86_64", "aarch64"], default="x86_64", help="[x86_64]")
    options = parser.parse_args(arguments)
    try:
        extras = options.extras or usual_extras((CHECKOUT / "Dockerfile").read_text("utf-8")) + TARGETS[options.target]
        packages = resolve(CHECKOUT / "pyproject.toml", extras, options.python, options.machine)
    except CheckFailure as failure:
        print(f"image_packages: {failure}", file=sys.stderr)
        return 1
    for package in packages:
        print(f"{package.name:32}{package.version:20}{package.download_bytes / 1e6:9.1f} MB")
    total = sum(package.download_bytes for package in packages)
    print(f"charloom[{extras}] for Python {options.python} on {options.machine}: ", end="")
    print(f"{len(packages)} packages, {total / 1e6:.0f} MB to download")
    return 0


if __name__ == "__main__":
    sys.exit(main())
