"""A base image with Python, made out of Debian packages, for where no image can be pulled."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from deploy.container_engines import CheckFailure, ContainerEngine, run_visibly, say, succeeds

NAME = "localhost/charloom-python:3.11-slim"
_DEBIAN = [
    "mmdebstrap",
    "--variant=minbase",
    "--components=main",
    "--include=ca-certificates,python3,python3-pip,python3-venv",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "bookworm",
]
_DOCKERFILE = """\
FROM scratch
ADD base.tar /
RUN ln -s /usr/bin/python3 /usr/local/bin/python && rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
CMD ["python"]
"""


def make_local_base(engine: ContainerEngine) -> str:
    """Make the image, unless an earlier run did; returns its name.

    Raises:
        CheckFailure: mmdebstrap is missing, or it or the build failed.
    """
    if succeeds(*engine.control, "image", "inspect", NAME):
        say(f"local base image: {NAME}, from an earlier run")
        return NAME
    if not shutil.which("mmdebstrap"):
        raise CheckFailure("--local-base needs mmdebstrap, a Debian package of that name")
    with tempfile.TemporaryDirectory(prefix="charloom-base-") as folder:
        run_visibly([*_DEBIAN, str(Path(folder) / "base.tar")])
        (Path(folder) / "Dockerfile").write_text(_DOCKERFILE, encoding="utf-8")
        run_visibly([*engine.build, "-t", NAME, folder])
    return NAME
