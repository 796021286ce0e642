"""The gate: from a call's credentials to its caller, the same for every transport."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from charloom.engine.errors import InvalidRequest
from charloom.engine.quotas import UNLIMITED, Quota
from charloom.engine.sessions.checks import require_id
from charloom.server.identity.errors import CredentialsInvalid, CredentialsMissing, ScopeMissing, TenantNotAllowed
from charloom.server.identity.key_file import PREFIX, KeyFile, utc_now
from charloom.server.identity.scopes import Scope
from charloom.server.identity.watched import Watched

TENANT_KEY = "charloom-tenant"
"""Metadata in which a proxy that is trusted names the tenant."""
AUTHORIZATION_KEY = "authorization"
"""Metadata with "Bearer KEY"."""
EVERYTHING = frozenset(Scope)


class Tokens(Protocol):
    """Checks tokens that are no keys of the key file."""

    def holder(self, text: str) -> tuple[str, frozenset[Scope], str]:
        """The tenant and the scopes of a token, and whom it was issued to.

        Raises:
            CredentialsInvalid: the token is not valid.
        """


class Credentials(NamedTuple):
    """The credentials of a call."""

    tokens: Sequence[str] = ()
    """The values of `authorization`."""
    tenants: Sequence[str] = ()
    """The values of `charloom-tenant`."""
    certificate: Sequence[str] | None = None
    """The subject alternative names of the client's certificate, which TLS has checked; None without one."""
    trusted: bool = False
    """Whether it comes from a proxy that is trusted to say whose calls it forwards."""


class Identity(NamedTuple):
    """Somebody whom the server lets in."""

    tenant: str
    scopes: frozenset[Scope] = EVERYTHING
    authenticated: bool = True
    """Whether the tenant is more than what the call says of itself."""
    credential: str = ""
    """Its credential without any secret: "key ID", "certificate NAME" or "token SUBJECT"; empty without one."""


@dataclass(frozen=True)
class Gate:
    """Lets calls in.

    Args:
        keys: who may call; None where there is no such file
        tokens: checks JSON Web Tokens; None where none are taken
        anybody: scopes of every caller if there are neither keys nor tokens; through a proxy never `admin`
        now: the clock
        quota: the limits of callers that have none of their own
    """

    keys: Watched[KeyFile] | None = None
    tokens: Tokens | None = None
    anybody: frozenset[Scope] = EVERYTHING
    now: Callable[[], datetime] = utc_now
    quota: Quota = UNLIMITED

    def quota_of(self, identity: Identity) -> Quota:
        """The limits of an identity."""
        own = self.keys.value().limits_of(identity.tenant) if self.keys is not None and identity.authenticated else None
        return self.quota if own is None else own.over(self.quota)

    def admit(self, credentials: Credentials, scope: Scope) -> Identity:
        """Identify the caller of a call that needs a scope.

        Raises:
            CredentialsMissing, CredentialsInvalid: the caller is not known.
            ScopeMissing: the caller does not have the scope.
            TenantNotAllowed: the call names a tenant that is not its caller's.
            InvalidRequest: the tenant's name is malformed, or there are several.
        """
        named = _only(credentials.tenants)
        asks = self.keys is not None or self.tokens is not None
        anybody = self.anybody - {Scope.ADMIN} if credentials.trusted else self.anybody
        nobody = Identity("", anybody, authenticated=False)
        found = self._known(credentials) if asks else nobody
        if found is None:
            if not (credentials.trusted and named):
                raise CredentialsMissing
            found = nobody
        if named and not found.authenticated:
            if not credentials.trusted:
                raise TenantNotAllowed(
                    f"this server does not take the tenant from {TENANT_KEY}; it does from a proxy that its setting "
                    "--trust-proxy names, and otherwise the key says whose it is (--keys)"
                )
            found = Identity(named, EVERYTHING - {Scope.ADMIN})
        if named and found.tenant != named:
            raise TenantNotAllowed(f"your credentials are not those of the tenant that {TENANT_KEY} names")
        if scope not in found.scopes:
            raise ScopeMissing(scope.value, known=bool(found.credential))
        return found

    def _known(self, credentials: Credentials) -> Identity | None:
        """Whom the credentials belong to; None where there are none."""
        if credentials.tokens:
            return self._of_token(credentials.tokens)
        if credentials.certificate is None:
            return None
        file = self.keys.value() if self.keys is not None else KeyFile()
        for name in credentials.certificate:
            if (entry := file.certificate(name)) is not None:
                return Identity(entry.tenant, frozenset(entry.scopes), credential=f"certificate {name}")
        if credentials.trusted and credentials.tenants:
            return None  # the connection is the proxy's own
        raise CredentialsInvalid("the certificate that you show is of a name that is not known here")

    def _of_token(self, tokens: Sequence[str]) -> Identity:
        if len(tokens) > 1:
            raise CredentialsInvalid(f"the call has {len(tokens)} values of {AUTHORIZATION_KEY}, give one")
        scheme, _, text = tokens[0].partition(" ")
        if scheme.lower() != "bearer":
            raise CredentialsInvalid(f'{AUTHORIZATION_KEY} is not "Bearer KEY"')
        text = text.strip()
        if self.tokens is not None and not text.startswith(f"{PREFIX}_"):
            tenant, scopes, subject = self.tokens.holder(text)
            return Identity(tenant, scopes, credential=f"token {subject}")
        key = None if self.keys is None else self.keys.value().key(text)
        if key is None:
            raise CredentialsInvalid("the key that you show is not known here")
        state = key.state(self.now())
        if state != "active":
            raise CredentialsInvalid(f"the key that you show is {state}")
        return Identity(key.tenant, frozenset(key.scopes), credential=f"key {key.id}")


def _only(tenants: Sequence[str]) -> str:
    """The tenant that is named; empty for none."""
    if not tenants:
        return ""
    if len(tenants) > 1:  # a proxy that appends leaves the client's own header: neither can be trusted
        raise InvalidRequest(
            TENANT_KEY,
            f"the call has {len(tenants)} values; give one, and let a proxy in front replace the client's own",
        )
    require_id(TENANT_KEY, tenants[0])
    return tenants[0]
