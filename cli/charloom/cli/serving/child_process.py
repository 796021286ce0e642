"""`python -m charloom.cli.serving.child_process FD`: one of the processes of `charloom serve --processes N`.

Started by its parent alone, which says over the socket FD what to serve, and how.
"""

from __future__ import annotations

import base64
import json
import socket
import sys
from pathlib import Path
from typing import Any

from charloom.cli import CommandError
from charloom.cli.problems import silence_torchscript, words_of
from charloom.server.logs import set_up_logs
from charloom.server.processes.link import line_of
from charloom.server.settings import ServerSettings
from charloom.server.signals import leave_when_asked


def main(number: int) -> int:
    """Serve until the parent says that it is enough, or is gone."""
    leave_when_asked()
    silence_torchscript()
    end = socket.socket(fileno=number)
    line = end.makefile("rb", buffering=0).readline()  # what comes after it is for the event loop to read
    if not line:
        return 0
    given = json.loads(line)["given"]
    settings = ServerSettings(**given["settings"])
    set_up_logs(settings.log_format, given["number"])
    try:
        return _serve(end, settings, given)
    except (CommandError, OSError) as problem:
        end.sendall(line_of({"question": "failed", "given": {"problem": words_of(problem)}}))
        return 1


def _serve(end: socket.socket, settings: ServerSettings, given: dict[str, Any]) -> int:
    from charloom.cli.serving.folder import bundles_of_others
    from charloom.cli.serving.one_process import bundles_to_serve, described, serve_paths
    from charloom.server.app import Server
    from charloom.server.processes.member import Member

    serving = given["serving"] or {"bundles": [], "digests": {}, "names": [], "chosen": {}}
    keys = [base64.b64decode(key) for key in given["sealing_keys"]]
    member = Member(end, keys, serving["names"], serving["chosen"])

    def ready(server: Server) -> None:
        member.ready(server, models=described(server), address=server.address, http_address=server.http_address)

    paths = bundles_of_others([Path(path) for path in serving["bundles"]], settings)
    if not paths:
        paths = bundles_to_serve([Path(path) for path in given["bundles"]], settings)
    serve_paths(paths, settings, ready, member.orders, member, serving["digests"])
    return int(member.broken)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
