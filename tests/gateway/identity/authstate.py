"""What the tests' authorization server knows: its one client, the tokens and codes it gave, the forms it was sent."""

from __future__ import annotations

import base64
import json
import secrets
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from joserfc.jws import JWSRegistry

from tests.gateway.identity.idp import Idp

GATEWAY, SECRET = "toolgate", "the-secret-of-the-gateway-there"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ISSUER = Idp(keys={name: key for name, key in Idp().keys.items() if name == "ES256"})


@dataclass
class Given:
    """A token pair as the server remembers it."""

    access: str
    refresh: str | None
    sub: str
    scope: str
    revoked: bool = False

    def check_client(self, client: object) -> bool:
        return client is CLIENT

    def get_scope(self) -> str:
        return self.scope


@dataclass
class Code:
    """An authorization code."""

    code: str
    user: str
    redirect_uri: str
    scope: str
    code_challenge: str
    code_challenge_method: str

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope


class Client:
    """The gateway, which is the one client there is."""

    def get_client_id(self) -> str:
        return GATEWAY

    def get_default_redirect_uri(self) -> str:
        return ""

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri.endswith("/connect/callback")

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return True  # each grant says which methods it takes: codes and refresh tokens need no secret

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return True


CLIENT = Client()


@dataclass
class AuthServer:
    """It may be changed at any time. `asked` are the forms of every token and revocation request, in order."""

    port: int = 0
    status: int = 200  # of every answer to a POST, where it is another
    raw: tuple[str, bytes] | None = None  # media type and body of every answer to a POST, as they are
    delay: float = 0.0
    lifetime: int = 600
    rotates: bool = True
    iss: str | None = None  # another `iss` in authorization responses than its own
    resource: str = "gateway"  # audience that subject tokens must have
    asked: list[dict[str, str]] = field(default_factory=list)
    given: list[Given] = field(default_factory=list)
    codes: dict[str, Code] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its issuer, and where it is."""
        return f"http://127.0.0.1:{self.port}"

    def grants(self, grant: str) -> list[dict[str, str]]:
        """Requests for tokens by one grant."""
        return [form for form in self.asked if form.get("grant_type") == grant]

    def taken_back(self) -> list[str]:
        """Tokens that were revoked, in order."""
        return [form["token"] for form in self.asked if "token" in form]

    def owner(self, access: str) -> str | None:
        """Whose token it is; None for one that is nobody's, or was revoked."""
        found = [each for each in self.given if each.access == access and not each.revoked]
        return found[0].sub if found else None

    def sign(self, sub: str, aud: str, **more: Any) -> str:
        """A signed access token."""
        now = int(time.time())
        claims = {"iss": self.url, "sub": sub, "aud": aud, "iat": now, "exp": now + self.lifetime, **more}
        claims |= {"jti": secrets.token_hex(8)}
        header = json.dumps({"alg": "ES256", "kid": "key-ES256", "typ": "at+jwt"}).encode()
        return ISSUER.signed("ES256", header, json.dumps(claims).encode())

    def refresh_token(self, sub: str) -> str:
        """One that an operator was given by other ways."""
        made = Given("", secrets.token_urlsafe(24), sub, "act")
        self.given.append(made)
        return made.refresh or ""

    def provider(self, grant: str, **more: Any) -> dict[str, Any]:
        """Settings of a provider here."""
        said = {"grant": grant, "token_url": f"{self.url}/token", "client_id": GATEWAY}
        said |= {"client_secret": "env:CLIENT_SECRET", "revoke_url": f"{self.url}/revoke"}
        if grant == "connect":
            said |= {"authorize_url": f"{self.url}/authorize", "issuer": self.url}
        return said | more


@lru_cache(maxsize=4096)
def read(token: str) -> dict[str, Any] | None:
    """The claims of a token that this server signed."""
    try:
        signed, _, signature = token.rpartition(".")
        key, raw = ISSUER.keys["ES256"], _bytes(signature)
        if not _verified(key, signed.encode(), raw):
            return None
        claims: dict[str, Any] = json.loads(_bytes(signed.partition(".")[2]))
        return claims
    except ValueError:
        return None


def _bytes(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _verified(key: Any, signed: bytes, signature: bytes) -> bool:
    return JWSRegistry.algorithms["ES256"].verify(signed, signature, key)
