"""JSON Web Tokens as credentials: which are believed, and where their keys come from."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from charloom.server.identity import jwt_tokens
from charloom.server.identity.errors import CredentialsInvalid
from charloom.server.identity.gate import Credentials, Gate
from charloom.server.identity.jwt_tokens import FileKeys, JwksProblem, JwtTokens, UrlKeys
from charloom.server.identity.open_gate import gate_of
from charloom.server.identity.scopes import Scope
from charloom.server.settings import ServerSettings
from tests.waiting import eventually

ISSUER, AUDIENCE = "https://issuer.example", "charloom"
PRIVATE: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def jwks(**named: str) -> dict[str, Any]:
    """The public halves of keys, ids by algorithm."""
    keys = []
    for algorithm, name in named.items():
        public = PRIVATE[algorithm].public_key()
        content = json.loads(get_default_algorithms()[algorithm].to_jwk(public))
        keys.append({**content, "kid": name, "alg": algorithm, "use": "sig"})
    return {"keys": keys}


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def token(algorithm: str = "RS256", name: str | None = "one", key: Any = None, **claims: Any) -> str:
    now = time.time()
    given = {"iss": ISSUER, "aud": AUDIENCE, "exp": now + 600, "tenant": "shop", "scope": "read generate other"}
    given = {claim: value for claim, value in {**given, **claims}.items() if value is not None}
    headers = {} if name is None else {"kid": name}
    return jwt.encode(given, key or PRIVATE[algorithm], algorithm, headers)


@pytest.fixture
def tokens(tmp_path: Path) -> JwtTokens:
    path = written(tmp_path / "jwks.json", jwks(RS256="one", ES256="two", EdDSA="three"))
    return JwtTokens(ISSUER, AUDIENCE, FileKeys(path))


@pytest.mark.parametrize(("algorithm", "name"), [("RS256", "one"), ("ES256", "two"), ("EdDSA", "three")])
def test_a_token_says_whose_it_is_and_what_for(tokens: JwtTokens, algorithm: str, name: str) -> None:
    assert tokens.holder(token(algorithm, name)) == ("shop", {Scope.READ, Scope.GENERATE}, "")
    assert tokens.holder(token(algorithm, name, sub="ann"))[2] == "ann"
    assert tokens.holder(token(algorithm, name, scope=["admin"]))[1] == {Scope.ADMIN}
    assert tokens.holder(token(algorithm, name, scope=None))[1] == frozenset()


def test_clocks_may_differ_a_little(tokens: JwtTokens) -> None:
    now = time.time()
    assert tokens.holder(token(exp=now - 15, nbf=now + 15, iat=now + 15))


CLAIMS = {"iss": ISSUER, "aud": AUDIENCE, "exp": 9e9, "tenant": "shop"}
PUBLIC_PEM = (
    PRIVATE["RS256"]
    .public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: token(exp=time.time() - 60),
        lambda: token(nbf=time.time() + 60),
        lambda: token(exp=None),
        lambda: token(iss="https://other.example"),
        lambda: token(iss=None),
        lambda: token(aud="other"),
        lambda: token(aud=None),
        lambda: token(tenant=None),
        lambda: token(tenant="a/b"),
        lambda: token(tenant=7),
        lambda: token(name="none"),
        lambda: token(name=None),
        lambda: token("ES256", "one"),
        lambda: token(key=rsa.generate_private_key(65537, 2048)),
        lambda: token()[:-8] + "AAAAAAAA",
        lambda: token().rpartition(".")[0] + ".",
        lambda: jwt.encode(
            {"iss": ISSUER, "aud": AUDIENCE, "exp": 9e9, "tenant": "shop"}, None, "none", {"kid": "one"}
        ),
        lambda: jwt.encode(
            {"iss": ISSUER, "aud": AUDIENCE, "exp": 9e9, "tenant": "shop"}, "x" * 64, "HS256", {"kid": "one"}
        ),
        lambda: "",
        lambda: "a.b.c",
        lambda: "\ud800",
        lambda: "x" * 100_000,
    ],
)
def test_anything_else_is_not_believed(tokens: JwtTokens, wrong: Callable[[], str]) -> None:
    with pytest.raises(CredentialsInvalid):
        tokens.holder(wrong())


def test_a_public_key_is_no_secret_to_sign_with(tokens: JwtTokens) -> None:
    """A checker that takes the algorithm from the token would take the RSA key for a secret of HMAC."""

    def part(content: object) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=")

    signed = part({"alg": "HS256", "typ": "JWT", "kid": "one"}) + b"." + part(CLAIMS)
    mac = hmac.digest(PUBLIC_PEM, signed, hashlib.sha256)
    with pytest.raises(CredentialsInvalid):
        tokens.holder((signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode())


def test_one_key_needs_no_name(tmp_path: Path) -> None:
    content = jwks(RS256="one")
    for with_algorithm in (True, False):
        tokens = JwtTokens(ISSUER, AUDIENCE, FileKeys(written(tmp_path / "jwks.json", content)))
        assert tokens.holder(token(name=None))[0] == "shop", with_algorithm
        content["keys"][0].pop("alg", None)


def test_an_rsa_key_that_names_no_algorithm_is_for_both_of_rsa_and_one_that_does_for_that_alone(tmp_path: Path) -> None:
    both, one = (jwks(RS256=name)["keys"][0] for name in ("both", "one"))
    del both["alg"]
    broken = {"kid": "broken", "kty": "RSA", "n": 7}
    path = written(tmp_path / "jwks.json", {"keys": [broken, both, one, *jwks(ES256="two")["keys"]]})
    tokens = JwtTokens(ISSUER, AUDIENCE, FileKeys(path))
    for algorithm in ("RS256", "PS256"):
        assert tokens.holder(token(algorithm, "both", PRIVATE["RS256"]))[0] == "shop"
    assert tokens.holder(token("RS256", "one"))[0] == "shop"
    for algorithm, name in (("PS256", "one"), ("RS512", "both"), ("RS256", "two")):
        with pytest.raises(CredentialsInvalid):
            tokens.holder(token(algorithm, name, PRIVATE["RS256"]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is no JSON Web Key Set"),
        ([], "is no JSON Web Key Set"),
        ({"keys": []}, "is no JSON Web Key Set"),
        ({}, "is no JSON Web Key Set"),
        ({"keys": 7}, "is no JSON Web Key Set"),
        ({"keys": [{"kty": "RSA"}]}, "is no JSON Web Key Set"),
        ({"keys": [{"kty": "oct", "k": "AAAA", "alg": "HS256"}]}, "has no public key for one of RS256"),
        ({"keys": ["x" * 2_000_000]}, "has more than"),
    ],
)
def test_a_file_that_is_no_set_of_keys_is_named(tmp_path: Path, content: object, said: str) -> None:
    with pytest.raises(JwksProblem, match=said):
        FileKeys(written(tmp_path / "jwks.json", content))
    with pytest.raises(JwksProblem, match="cannot read"):
        FileKeys(tmp_path / "none.json")


def test_keys_in_a_file_are_replaced(tmp_path: Path) -> None:
    path = written(tmp_path / "jwks.json", jwks(RS256="one"))
    keys = FileKeys(path)
    tokens = JwtTokens(ISSUER, AUDIENCE, keys)
    with pytest.raises(CredentialsInvalid, match="not known here, or not yet"):
        tokens.holder(token("ES256", "two"))
    written(path, jwks(ES256="two"))
    keys.look()
    assert tokens.holder(token("ES256", "two"))
    with pytest.raises(CredentialsInvalid):
        tokens.holder(token())


class Site(http.server.ThreadingHTTPServer):
    """Says `content`, and counts how often."""

    content: bytes = b""
    asked = 0


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Site)
        self.server.asked += 1
        self.send_response(200 if self.server.content else 500)
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def site() -> Iterator[Site]:
    with Site(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def no_thread(**_: object) -> threading.Thread:
    raise RuntimeError("there is no thread to give")


def test_keys_at_a_url_are_fetched_again_without_waiting_for_them(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jwt_tokens, "MISSED_SECONDS", 0.0)
    url = f"http://127.0.0.1:{site.server_port}/jwks"
    with pytest.raises(JwksProblem, match="cannot fetch") as refused:
        UrlKeys(url)
    answer = refused.value.__cause__
    assert isinstance(answer, HTTPError)
    assert answer.closed, "its connection would stay until the garbage is collected"
    site.content = json.dumps(jwks(RS256="one")).encode()
    tokens = JwtTokens(ISSUER, AUDIENCE, UrlKeys(url))
    asked = site.asked
    for _ in range(5):
        assert tokens.holder(token())
    assert site.asked == asked

    def believed(name: str) -> bool:
        try:
            return bool(tokens.holder(token("ES256", name)))
        except CredentialsInvalid:
            return False

    site.content = b""
    assert not believed("two")  # asks for the keys again, which cannot be had
    eventually(lambda: "stay as they were" in caplog.text)
    assert tokens.holder(token())
    site.content = json.dumps(jwks(RS256="one", ES256="two")).encode()
    with monkeypatch.context() as full:
        full.setattr(threading, "Thread", no_thread)
        eventually(lambda: not believed("two") and "stay as they were: there is no thread to give" in caplog.text)
    eventually(lambda: believed("two"))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"garbage\r\n\r\n", "no HTTP, or cut short .BadStatusLine"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", "IncompleteRead|is no JSON Web Key Set"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "cannot fetch"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n", "no HTTP, or cut short .HTTPException"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000, "is no JSON Web Key Set"),
    ],
)
def test_an_answer_that_is_none_is_told_as_such(answer: bytes, said: str) -> None:
    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/jwks"
        with pytest.raises(JwksProblem, match=said) as told:
            UrlKeys(url)
        thread.join()
    assert url in str(told.value)


def test_keys_are_not_fetched_over_a_network_in_the_clear() -> None:
    with pytest.raises(JwksProblem, match="is not https"):
        UrlKeys("http://issuer.example/jwks")


def test_a_site_does_not_lead_to_keys_in_the_clear(site: Site) -> None:
    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("location", "http://issuer.example/jwks")
            self.end_headers()

    site.RequestHandlerClass = Elsewhere
    with pytest.raises(JwksProblem, match=r"/jwks leads elsewhere: http://issuer\.example/jwks is not https"):
        UrlKeys(f"http://127.0.0.1:{site.server_port}/jwks")


def test_an_answer_that_drips_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = threading.Event()

    class Drip(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            while not given_up.wait(0.02):
                self.wfile.write(b" ")

    monkeypatch.setattr(jwt_tokens, "FETCH_SECONDS", 0.5)
    site.RequestHandlerClass = Drip
    try:
        with pytest.raises(JwksProblem, match=r"takes more than 0\.5 s|timed out"):
            UrlKeys(f"http://127.0.0.1:{site.server_port}/jwks")
    finally:
        given_up.set()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: token(exp=time.time() - 60), "it has expired"),
        (lambda: token(nbf=time.time() + 60), "its time has not come yet"),
        (lambda: token(aud="other"), "it is for another audience"),
        (lambda: token(iss="https://other.example"), "it is of another issuer"),
        (lambda: token(exp=None), "it has no exp, iss or aud"),
        (lambda: token(key=PRIVATE["ES256"], algorithm="ES256"), "its algorithm is not one that is taken here"),
        (lambda: token(key=rsa.generate_private_key(65537, 2048)), "its signature is not of the key that it names"),
        (lambda: "<b>.b.c", "it is malformed"),
    ],
)
def test_why_a_token_is_not_believed_is_told_in_fixed_words(
    tokens: JwtTokens, wrong: Callable[[], str], said: str
) -> None:
    with pytest.raises(CredentialsInvalid, match=f"^the token that you show is not valid: {said};"):
        tokens.holder(wrong())


@pytest.mark.parametrize("problem", [OverflowError("of exp"), RecursionError("of a header"), ValueError("x")])
def test_a_token_that_the_library_fails_on_is_malformed(
    tokens: JwtTokens, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr(jwt, "decode", fail)
    with pytest.raises(CredentialsInvalid, match="it is malformed;"):
        tokens.holder(token())


def test_the_gate_takes_keys_and_tokens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    path = written(tmp_path / "jwks.json", jwks(RS256="one"))
    gate: Gate = gate_of(ServerSettings(jwt_keys=str(path), jwt_issuer=ISSUER, jwt_audience=AUDIENCE))
    text = token()
    found = gate.admit(Credentials(tokens=[f"Bearer {text}"]), Scope.READ)
    assert (found.tenant, found.authenticated) == ("shop", True)
    for wrong in (f"Bearer charloom_{'0' * 8}_{'0' * 64}", "Bearer x"):
        with pytest.raises(CredentialsInvalid):
            gate.admit(Credentials(tokens=[wrong]), Scope.READ)
    assert text not in caplog.text


@pytest.mark.parametrize("given", [{"jwt_keys": "a"}, {"jwt_issuer": "a", "jwt_audience": "b"}])
def test_settings_that_are_a_part_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"JSON Web Tokens need .*; not given: --jwt"):
        ServerSettings(**given)  # type: ignore[arg-type]
