"""JSON Web Tokens (RFC 7519) of one issuer as credentials; their keys are in a JWKS file, or at a URL.

A token is valid if a key of the set has signed it with one of a few fixed algorithms, and it names issuer, audience and
expiry. Its claim `tenant` is the tenant, its claim `scope` (RFC 8693) the scopes. Needs PyJWT.
"""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

import jwt

from charloom.engine.errors import InvalidRequest
from charloom.engine.sessions.checks import require_id
from charloom.server.identity.errors import CredentialsInvalid
from charloom.server.identity.scopes import Scope
from charloom.server.identity.watched import Watched
from charloom.server.origins import is_local

log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
"""Signature algorithms. None with a shared secret: whoever can check such a signature can also forge it."""
LEEWAY_SECONDS = 30
"""Seconds that the issuer's clock may differ from this one."""
LARGEST_SET = 1 << 20
FETCH_SECONDS = 10.0
"""How long a server may take for each part of an answer, and for its whole content."""
OLD_SECONDS, MISSED_SECONDS = 300.0, 10.0
"""Seconds after which the set of a URL is fetched again: in any case, and if a token names a key that it lacks."""

OF_RSA = ("RS256", "PS256")
"""Algorithms of an RSA key that names none."""
REASONS = (
    (jwt.ExpiredSignatureError, "it has expired"),
    (jwt.ImmatureSignatureError, "its time has not come yet"),
    (jwt.InvalidAudienceError, "it is for another audience"),
    (jwt.InvalidIssuerError, "it is of another issuer"),
    (jwt.MissingRequiredClaimError, "it has no exp, iss or aud"),
    (jwt.InvalidSignatureError, "its signature is not of the key that it names"),
    (jwt.InvalidAlgorithmError, "its algorithm is not one that is taken here"),
)
"""Messages for the client; the library's own words go to the log."""
Keys = Mapping[str, Mapping[str, jwt.PyJWK]]
"""Keys by id (empty if a key has none), and by the algorithm that they are for."""


class JwksProblem(ValueError):
    """A set of keys cannot be used. The message names where it is."""


class KeySource(Protocol):
    """Where the keys are."""

    def value(self) -> Keys:
        """The present keys; never waits."""

    def missed(self) -> None:
        """A key was looked for that is not there."""


class FileKeys(Watched[Keys]):
    """The keys in a file, read again when it changes.

    Raises:
        JwksProblem: it cannot be used now.
    """

    def __init__(self, path: Path) -> None:
        super().__init__([path], lambda: _of_file(path), "keys of tokens")

    def missed(self) -> None:
        """A key was looked for that is not there."""


class UrlKeys:
    """The keys at a URL, fetched again every `OLD_SECONDS` when they are used, in a thread of its own.

    Raises:
        JwksProblem: they cannot be had now.
    """

    def __init__(self, url: str) -> None:
        _require_safe(url)
        self._url = url
        self._fetching = threading.Lock()
        self._keys = _of_url(url)
        self._fetched = self._had = time.monotonic()

    def value(self) -> Keys:
        """Those that were fetched last."""
        self._refresh(OLD_SECONDS)
        return self._keys

    def missed(self) -> None:
        """Note that a key was not found, and fetch the set again soon."""
        self._refresh(MISSED_SECONDS)

    def _refresh(self, age: float) -> None:
        if time.monotonic() - self._fetched < age or not self._fetching.acquire(blocking=False):
            return
        try:
            threading.Thread(target=self._fetch, name="charloom-jwks", daemon=True).start()
        except RuntimeError as problem:  # the system has no thread to give now
            self._tried(problem)

    def _fetch(self) -> None:
        problem: JwksProblem | None = None
        try:
            self._keys = _of_url(self._url)
            self._had = time.monotonic()
        except JwksProblem as found:
            problem = found
        finally:
            self._tried(problem)

    def _tried(self, problem: Exception | None) -> None:
        if problem is not None:
            age = time.monotonic() - self._had
            log.error("the keys of tokens stay as they were: %s; they are those of %.0f s ago", problem, age)
        self._fetched = time.monotonic()
        self._fetching.release()


class JwtTokens:
    """Checks tokens.

    Args:
        issuer: required value of the claim `iss`
        audience: value that the claim `aud` must contain
        keys: the issuer's keys
    """

    def __init__(self, issuer: str, audience: str, keys: KeySource) -> None:
        self._issuer, self._audience, self._keys = issuer, audience, keys

    def holder(self, text: str) -> tuple[str, frozenset[Scope], str]:
        """The tenant and the scopes of a token, and whom it was issued to (its claim `sub`; empty without one).

        Raises:
            CredentialsInvalid: the token is not valid, or names no tenant.
        """
        try:
            header = jwt.get_unverified_header(text)
            key = self._key(header.get("kid", ""), header.get("alg"))
            claims = jwt.decode(
                text,
                key,
                algorithms=ALGORITHMS,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.PyJWTError, ValueError, OverflowError, RecursionError) as problem:
            log.debug("a token is not valid: %.200r", problem)
            reason = next((said for kind, said in REASONS if isinstance(problem, kind)), "it is malformed")
            raise CredentialsInvalid(f"the token that you show is not valid: {reason}") from problem
        tenant, scope, subject = claims.get("tenant"), claims.get("scope", ""), claims.get("sub", "")
        try:
            require_id("tenant", tenant if isinstance(tenant, str) else "")
        except InvalidRequest as problem:
            raise CredentialsInvalid("the token that you show names no tenant, in its claim tenant") from problem
        names = scope.split() if isinstance(scope, str) else scope if isinstance(scope, list) else []
        return str(tenant), frozenset(one for one in Scope if one.value in names), str(subject)

    def _key(self, name: object, algorithm: object) -> jwt.PyJWK:
        keys = self._keys.value()
        if name == "" and len(keys) == 1:
            (found,) = keys.values()
        elif isinstance(name, str) and name in keys:
            found = keys[name]
        else:
            self._keys.missed()
            raise CredentialsInvalid("the key of the token that you show is not known here, or not yet")
        # A key for another algorithm fails the check, with a message about the algorithm.
        return next((key for known, key in found.items() if known == algorithm), next(iter(found.values())))


def _of_file(path: Path) -> Keys:
    try:
        with path.open("rb") as file:
            return _keys_in(file.read(LARGEST_SET + 1), str(path))
    except OSError as problem:
        raise JwksProblem(f"cannot read {path}: {problem.strerror}") from problem


def _of_url(url: str) -> Keys:
    try:
        with urllib.request.build_opener(_SafeRedirects).open(url, timeout=FETCH_SECONDS) as answer:
            return _keys_in(_content(answer, url), url)
    except JwksProblem:
        raise
    except (OSError, ValueError) as problem:
        if isinstance(problem, urllib.error.HTTPError):
            problem.close()  # it holds the connection
        raise JwksProblem(f"cannot fetch {url}: {problem}") from problem
    except http.client.HTTPException as problem:
        raise JwksProblem(
            f"cannot fetch {url}: its answer is no HTTP, or cut short ({type(problem).__name__})"
        ) from problem


def _require_safe(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not is_local(parts.hostname or ""):
        raise JwksProblem(f"{url} is not https, so anybody on the way could put keys there")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to URLs that keys may be fetched from."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        try:
            _require_safe(newurl)
        except JwksProblem as problem:
            fp.close()
            raise JwksProblem(f"{req.full_url} leads elsewhere: {problem}") from problem
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _content(answer: http.client.HTTPResponse, url: str) -> bytes:
    """Read an answer, up to just above the size limit, before a deadline: socket timeouts restart with each byte."""
    content, end = b"", time.monotonic() + FETCH_SECONDS
    while len(content) <= LARGEST_SET and (part := answer.read1(65536)):
        content += part
        if time.monotonic() > end:
            raise JwksProblem(f"cannot fetch {url}: its answer takes more than {FETCH_SECONDS:g} s")
    return content


def _keys_in(content: bytes, where: str) -> Keys:
    if len(content) > LARGEST_SET:
        raise JwksProblem(f"{where} has more than {LARGEST_SET} bytes, which no set of keys needs")
    try:
        found = jwt.PyJWKSet(list(_with_algorithms(json.loads(content.decode()).get("keys") or [])))
    except (jwt.PyJWTError, ValueError, AttributeError, TypeError, KeyError, RecursionError) as problem:
        raise JwksProblem(f"{where} is no JSON Web Key Set: {problem}") from problem
    usable: dict[str, dict[str, jwt.PyJWK]] = {}
    for key in found.keys:
        if key.algorithm_name in ALGORITHMS:
            usable.setdefault(key.key_id or "", {})[key.algorithm_name] = key
    if not usable:
        raise JwksProblem(f"{where} has no public key for one of {', '.join(ALGORITHMS)}")
    return usable


def _with_algorithms(keys: Iterable[Any]) -> Iterator[Any]:
    """The keys of a set; an RSA key without `alg` once for each of `OF_RSA`, of which PyJWT would take the first."""
    for key in keys:
        if isinstance(key, dict) and key.get("kty") == "RSA" and not key.get("alg"):
            yield from ({**key, "alg": algorithm} for algorithm in OF_RSA)
        else:
            yield key
