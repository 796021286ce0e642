"""`charloom play`: a server in this process, and the page in a browser that shows what its models do."""

from __future__ import annotations

import argparse
import threading
import webbrowser
from pathlib import Path

from charloom.cli.serving.one_process import serve_bundles
from charloom.cli.serving.serve import begin
from charloom.models import BUNDLED_MODEL
from charloom.server.app import Server

LOOPBACK = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "bundles",
        metavar="BUNDLE",
        nargs="*",
        type=Path,
        help=f"bundles to serve (default: {BUNDLED_MODEL.name}, the bundled model)",
    )
    parser.add_argument(
        "--http-port", type=int, default=8000, metavar="N", help="of the page; 0 takes a free one (default: 8000)"
    )
    parser.add_argument(
        "--port", type=int, default=50051, metavar="N", help="of gRPC; 0 takes a free one (default: 50051)"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address and open nothing")


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""

    def announce(server: Server) -> None:
        address = f"{'https' if settings.tls_cert else 'http'}://{server.http_address}/"
        print(f"the playground is at {address} (Ctrl-C ends it); gRPC is at {server.address}", flush=True)
        if not arguments.no_browser:
            # Some browsers end when their user leaves them, and calls wait for nobody.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    given = {"host": LOOPBACK, "http_host": LOOPBACK, "playground": True, "processes": 1}
    ports = {"port": arguments.port, "http_port": arguments.http_port}
    settings, paths = begin(arguments.bundles, {**given, **ports})
    serve_bundles(paths, settings, announce)
    return 0
