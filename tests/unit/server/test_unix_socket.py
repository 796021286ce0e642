from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from charloom.server.listener import PortInUse
from charloom.server.unix_socket import make_free, socket_path


@pytest.mark.parametrize(
    ("host", "path"),
    [("unix:s", "s"), ("unix:/run/s", "/run/s"), ("unix:///run/s", "/run/s"), ("localhost", None), ("::1", None)],
)
def test_the_path_of_a_host(host: str, path: str | None) -> None:
    assert socket_path(host) == (None if path is None else Path(path))


def test_a_path_where_nothing_is_is_free(tmp_path: Path) -> None:
    make_free(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_a_socket_that_nobody_listens_on_is_removed_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        with pytest.raises(PortInUse, match="another process listens there"):
            make_free(path)
        assert path.is_socket()
    make_free(path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [("file", "is no socket"), ("nowhere/s", "there is no folder"), ("s" * 200, "at most 107 bytes")],
)
def test_a_path_where_no_socket_can_be_is_refused_with_the_reason(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(PortInUse, match=re.escape(says)):
        make_free(tmp_path / name)
    assert (tmp_path / "file").read_text() == "kept"
