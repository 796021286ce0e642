"""`charloom health`: for probes."""

from __future__ import annotations

import argparse

from charloom.cli.connection import add_connection_arguments, connected
from charloom.client import HealthStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add_connection_arguments(parser, timeout=3.0)


def run(arguments: argparse.Namespace) -> int:
    """Print what the server says about itself; 0 only if it serves."""
    with connected(arguments) as client:
        status = client.health()
    print(status.value)
    return 0 if status is HealthStatus.SERVING else 1
