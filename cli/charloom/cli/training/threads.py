"""`--threads` of the commands that compute with torch."""

from __future__ import annotations

import argparse

import torch

from charloom.cli import CommandError
from charloom.cli.thread_limit import check_threads

BESIDE = 3
"""Threads of a training that are not torch's: the dashboard's, and those that write event files."""


def add_threads_flag(parser: argparse.ArgumentParser) -> None:
    """Declare the flag."""
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")


def use_threads(arguments: argparse.Namespace) -> None:
    """Let torch use as many threads as the flag says, if they can be started: OpenMP would end the process."""
    if arguments.threads is not None:
        if arguments.threads < 1:
            raise CommandError(f"--threads {arguments.threads}: give at least 1")
        torch.set_num_threads(arguments.threads)
    check_threads(torch.get_num_threads() - 1 + BESIDE)
