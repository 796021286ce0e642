"""Requests to every route of HTTP, made by schemathesis from the server's own OpenAPI document: are answers as it says?

    python -m benchmarks.fuzz_http [--examples 20] [--minutes 5] [--seed 1] [--phases coverage,fuzzing]

A real server process of the bundled model. What has to hold: no status 500, statuses, content types and bodies as the
document has them, what breaks the document is refused, and other methods are answered with 405 and `Allow`. Prints what
schemathesis prints; the exit status is 1 where something does not hold. `examples` is for each route and phase.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.processes import free_ports, serving
from benchmarks.reporting import at_least_one, new_parser, some_minutes
from charloom.models import BUNDLED_MODEL

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
)
"""What schemathesis checks. Not `positive_data_acceptance`: a schema cannot say which characters a model knows."""
PHASES = "coverage,fuzzing"
REQUEST_SECONDS = 30


def checked(address: str, *, examples: int, seed: int, phases: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """What schemathesis says of the server at this address.

    Raises:
        subprocess.TimeoutExpired: it took longer than `seconds`.
    """
    options = {
        "checks": ",".join(CHECKS),
        "max-examples": examples,
        "seed": seed,
        "phases": phases,
        "request-timeout": REQUEST_SECONDS,
        "suppress-health-check": "all",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://{address}/openapi.json", *words]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False
    )


def main() -> int:
    """Check and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--examples", type=at_least_one, default=20, help="requests to a route (default: 20)")
    parser.add_argument("--minutes", type=some_minutes, default=5.0, help="when to give up (default: after 5)")
    parser.add_argument("--seed", type=at_least_one, default=1, help="of the requests (default: 1)")
    parser.add_argument("--phases", default=PHASES, help=f"of schemathesis (default: {PHASES})")
    arguments = parser.parse_args()
    (port,) = free_ports(1)
    with serving(BUNDLED_MODEL, "--http-port", str(port), "--max-tokens", "200"):
        done = checked(
            f"127.0.0.1:{port}",
            examples=arguments.examples,
            seed=arguments.seed,
            phases=arguments.phases,
            seconds=60 * arguments.minutes,
        )
    print(done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
