"""An issuer for tests: real keys of every algorithm, its JWK set, and tokens signed as asked, byte by byte."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from gateway.identity.issuers import Issuer

ISS, AUDIENCE, SCOPE = "https://idp.example.com", "https://gateway.example.com/mcp", "tools"
GOOD = ("RS256", "PS256", "ES256", "ES384", "EdDSA")


def b64(raw: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def fresh_keys() -> dict[str, Key]:
    """A key for each algorithm, under the id `key-ALGORITHM`."""
    made: dict[str, Key] = {"RS256": RSAKey.generate_key(2048), "PS256": RSAKey.generate_key(2048)}
    made |= {"ES256": ECKey.generate_key("P-256"), "ES384": ECKey.generate_key("P-384")}
    return made | {"EdDSA": OKPKey.generate_key("Ed25519")}


def public(key: Key, kid: str, **more: Any) -> dict[str, Any]:
    """The public half as an entry of a JWK set."""
    return {**key.as_dict(private=False), "kid": kid, **more}


def signature(algorithm: str, key: Key, signed: bytes) -> bytes:
    """What the algorithm makes of these bytes."""
    return JWSRegistry.algorithms[algorithm].sign(signed, key)


@dataclass
class Idp:
    """An issuer. `now` is the unix time its tokens are made at."""

    iss: str = ISS
    keys: dict[str, Key] = field(default_factory=fresh_keys)
    now: float = field(default_factory=lambda: float(int(time.time())))

    def entries(self) -> list[dict[str, Any]]:
        """Its public keys."""
        return [public(key, f"key-{name}", use="sig", alg=name) for name, key in self.keys.items()]

    def jwks(self, *more: Mapping[str, Any]) -> bytes:
        """Its JWK set, with these entries besides."""
        return json.dumps({"keys": [*self.entries(), *more]}).encode()

    def header(self, algorithm: str = "RS256", **changed: Any) -> dict[str, Any]:
        """A good header; a change to None leaves the member out."""
        return _changed({"alg": algorithm, "kid": f"key-{algorithm}", "typ": "at+jwt"}, changed)

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Good claims of Ann, who uses the client `bot`; a change to None leaves the claim out."""
        times = {"iat": self.now, "exp": self.now + 600}
        said = {"iss": self.iss, "aud": AUDIENCE, "sub": "ann", "client_id": "bot", "scope": f"{SCOPE} profile"}
        return _changed({**said, **times}, changed)

    def token(self, algorithm: str = "RS256", header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A token: good but for what is changed of its header and claims."""
        head = self.header(algorithm, **(header or {}))
        return self.signed(algorithm, json.dumps(head).encode(), json.dumps(self.claims(**claims)).encode())

    def signed(self, algorithm: str, header: bytes, claims: bytes, key: Key | None = None) -> str:
        """These very bytes, signed."""
        text = f"{b64(header)}.{b64(claims)}"
        return f"{text}.{b64(signature(algorithm, key or self.keys[algorithm], text.encode()))}"

    def issuer(self, **more: Any) -> Issuer:
        """As an operator would declare it."""
        said: dict[str, Any] = {"algorithms": frozenset(GOOD), "scope": SCOPE, **more}
        return Issuer(self.iss, f"{self.iss}/jwks", (AUDIENCE,), **said)


def _changed(said: dict[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**said, **changed}.items() if value is not None}
