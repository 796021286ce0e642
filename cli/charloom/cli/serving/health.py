"""`charloom health`: for probes."""

from __future__ import annotations

import argparse
import ipaddress
import re
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

from charloom.cli import CommandError
from charloom.cli.connection import access_given, add_connection_arguments, connect
from charloom.client import HealthStatus

_ADDRESS = re.compile(r"(?:dns:(?:///)?|ipv[46]:)?([^/]+):([0-9]{1,5})")
"""Host and port of a target; a Unix socket, which has no TLS, and what only gRPC knows have neither."""
_NAMES = ("DNS", "IP Address", "commonName")
"""The kinds of names in a certificate that gRPC checks, as Python's `ssl` calls them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add_connection_arguments(parser, timeout=3.0)
    parser.add_argument(
        "--any-certificate",
        action="store_true",
        help="for probes on the server's own machine: find out whether it speaks TLS, take whatever certificate it "
        "shows, for any DNS name, address or common name, and send no token; without --cert and --key, a server that "
        "wants them is only found to answer",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what the server says about itself; 0 only if it serves."""
    access = access_given(arguments)
    if arguments.any_certificate:
        found = _access_found(arguments.target, arguments.timeout or None, arguments.cert, arguments.key)
        if found is None:
            print("the server answers, and wants a certificate; whether it serves is told with --cert and --key")
            return 0
        access = found
    with connect(arguments.target, arguments.timeout, **access) as client:
        status = client.health()
    print(status.value)
    return 0 if status is HealthStatus.SERVING else 1


def _access_found(target: str, timeout: float | None, cert: str | None, key: str | None) -> dict[str, Any] | None:
    """Find the arguments of `Client` for a server by trusting the certificate that it presents.

    Args:
        target: the server
        timeout: of each of two connections, in seconds; None: no limit
        cert: PEM file of a certificate to show; None: there is none
        key: PEM file of its key

    Returns:
        Arguments; none where the server does not answer, or speaks no TLS. None: it wants a certificate.

    Raises:
        CommandError: the certificate is not valid now, or has no name that gRPC looks at; or `cert` or `key` is given
            without the other.
        OSError: `cert` or `key` cannot be read.
    """
    if (cert is None) != (key is None):
        raise CommandError("one of --cert and --key is given without the other; a certificate needs its key")
    named = _ADDRESS.fullmatch(target)
    if named is None or int(named[2]) >= 2**16:
        return {}
    address = named[1].strip("[]"), int(named[2])
    try:
        shown = ssl.get_server_certificate(address, timeout=timeout)  # type: ignore[arg-type]  # None is no limit
    except (OSError, UnicodeError):  # the latter for what cannot be the name of a host
        return {}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=shown)
    context.set_alpn_protocols(["h2"])
    welcome = b""
    try:
        with socket.create_connection(address, timeout) as connection, context.wrap_socket(connection) as encrypted:
            found = encrypted.getpeercert() or {}
            # A server of gRPC speaks first; one that misses a certificate ends the connection.
            with suppress(ConnectionError, ssl.SSLError):
                welcome = encrypted.recv(1)
    except ssl.SSLCertVerificationError as problem:
        raise CommandError(f"the server's certificate cannot be used: {problem.verify_message}") from problem
    except OSError:
        return {}
    if not welcome and cert is None:
        return None
    told: list[Any] = [*found.get("subjectAltName", ()), *(pair for part in found.get("subject", ()) for pair in part)]
    kind, name = next(((kind, value) for kind in _NAMES for its, value in told if its == kind), ("", ""))
    if not kind:
        raise CommandError("the server's certificate has no DNS name, address or common name; gRPC wants one of them")
    if kind == "IP Address":
        name = str(ipaddress.ip_address(name))  # gRPC knows an IPv6 address by its short form alone
    own = [None if path is None else Path(path).read_bytes() for path in (key, cert)]
    return {
        "credentials": grpc.ssl_channel_credentials(shown.encode(), *own),
        "channel_options": [("grpc.ssl_target_name_override", name)],
    }
