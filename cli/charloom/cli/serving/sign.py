"""`charloom sign BUNDLE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from charloom.bundle import BundleError, read_bundle
from charloom.cli import CommandError
from charloom.server.identity.signatures import (
    SigningProblem,
    new_signing_key,
    public_pem,
    read_signing_key,
    sign,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle; it is checked first")
    key = parser.add_mutually_exclusive_group(required=True)
    key.add_argument("--key", type=Path, metavar="FILE", help="PEM file of an Ed25519 private key")
    key.add_argument("--new-key", type=Path, metavar="FILE", help="make such a key, and this file")


def run(arguments: argparse.Namespace) -> int:
    """Sign, and print the public key, which servers are told to trust."""
    try:
        bundle = read_bundle(arguments.bundle)
        key = read_signing_key(arguments.key) if arguments.key else new_signing_key(arguments.new_key)
    except (BundleError, SigningProblem) as problem:
        raise CommandError(str(problem)) from problem
    file = sign(bundle, key)
    print(public_pem(key).decode(), end="")
    print(
        f"{file} is the signature; servers that are to check it have the key above in the file of --trusted-keys",
        file=sys.stderr,
    )
    return 0
