"""The client side of OAuth 2 at one provider's endpoints: tokens by every grant, revocation, the authorization URL.

RFC 6749 (grants), 7636 (PKCE, S256), 7009 (revocation), 8693 (token exchange), 8707 (resource). Messages are authlib's,
the requests go through the one outbound client. It keeps nothing, and no text it makes holds a token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7009 import prepare_revoke_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from gateway import strictjson
from gateway.allow import Allow
from gateway.identity.providers import Provider
from gateway.model import Failure, Refusal
from gateway.runners.message import JSON_TYPES, Answer, Ask
from gateway.tool import Json
from gateway.urls import parse_url

WAIT_SECONDS: Final = 10.0
REVOKE_SECONDS: Final = 3.0  # nobody waits longer at the end of a session, or when the gateway stops
MARGIN: Final = 30.0  # seconds before its end from which a token is not begun to be used, or half of a shorter life
LIFETIME: Final = 300.0  # seconds a token is used whose answer does not say how long it lives
MAX_LIFETIME: Final = 24 * 3600.0
_MAX_BYTES = 64 * 1024
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
_FORM = ("content-type", "application/x-www-form-urlencoded")

Secret = Callable[[], Awaitable[str]]


class Client(Protocol):
    """The outbound client, as much of it as is needed here."""

    async def request(self, ask: Ask, follow: int = 0) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Token:
    """What a provider gave. `expires_at` in unix seconds. Neither token is in any text made of this."""

    access: str = field(repr=False)
    expires_at: float
    refresh: str | None = field(default=None, repr=False)
    scope: str | None = None


class NoToken(Exception):
    """There is no token; `reason` is safe to show. `code` is the error that the provider named (RFC 6749 §5.2)."""

    def __init__(self, reason: str, code: str = "") -> None:
        super().__init__(reason)
        self.reason, self.code = reason, code


class Endpoints:
    """One provider. `secret` gives the client's secret, or is None for a public client."""

    def __init__(
        self, provider: Provider, client: Client, secret: Secret | None, now: Callable[[], float] = time.time
    ) -> None:
        self.provider = provider
        self._client, self._secret, self._now = client, secret, now

    async def client_credentials(self) -> Token:
        """A token of the gateway's own. Raises `NoToken`; `Refusal` where its secret cannot be had, as all do."""
        return await self._token("client_credentials")

    async def refreshed(self, refresh: str) -> Token:
        """A token of the account that a refresh token stands for, in the scopes it was given. Raises `NoToken`."""
        return await self._token("refresh_token", scoped=False, refresh_token=refresh)

    async def exchanged(self, subject: str) -> Token:
        """A token for the backend, of whoever the caller's token is of. Raises `NoToken`."""
        return await self._token(
            _EXCHANGE,
            subject_token=subject,
            subject_token_type=_ACCESS_TOKEN,
            requested_token_type=_ACCESS_TOKEN,
            audience=self.provider.audience,
        )

    async def redeemed(self, code: str, verifier: str, redirect_uri: str) -> Token:
        """The tokens of an authorization code. Raises `NoToken`."""
        return await self._token(
            "authorization_code", scoped=False, code=code, code_verifier=verifier, redirect_uri=redirect_uri
        )

    def authorize_url(self, state: str, verifier: str, redirect_uri: str) -> str:
        """Where a person's browser is sent to say yes."""
        provider = self.provider
        url: str = prepare_grant_uri(
            provider.authorize_url or "",
            provider.client_id,
            "code",
            redirect_uri=redirect_uri,
            scope=list(provider.scopes) or None,
            state=state,
            resource=provider.resource,
            code_challenge=create_s256_code_challenge(verifier),  # type: ignore[no-untyped-call]  # its stubs are bare
            code_challenge_method="S256",
        )
        return url

    async def revoke(self, token: str, hint: str) -> bool:
        """Whether the provider took a token back; False where it has no such endpoint, or could not be asked."""
        url = self.provider.revoke_url
        if url is None:
            return False
        body, _ = prepare_revoke_token_request(token, hint)
        try:
            async with asyncio.timeout(REVOKE_SECONDS):
                answer = await self._post(url, body, None if self._secret is None else await self._secret())
        except (Refusal, Failure, TimeoutError):
            return False
        return answer.status == 200

    async def _token(self, grant: str, *, scoped: bool = True, **more: str | None) -> Token:
        provider = self.provider
        if scoped and provider.scopes:
            more["scope"] = " ".join(provider.scopes)
        given = {name: value for name, value in (more | {"resource": provider.resource}).items() if value}
        body: str = prepare_token_request(grant, **given)
        secret = None if self._secret is None else await self._secret()
        try:
            answer = await self._post(provider.token_url, body, secret)
        except (Refusal, Failure):
            raise NoToken("the authorization server cannot be reached") from None
        return self._read(answer)

    async def _post(self, url: str, body: str, secret: str | None) -> Answer:
        provider, target = self.provider, parse_url(url)
        method = "none" if secret is None else f"client_secret_{provider.client_auth}"
        headers: dict[str, str] = {}
        auth = ClientAuth(provider.client_id, secret, method)
        _, headers, body = auth.prepare("POST", url, headers, body)  # type: ignore[no-untyped-call]  # its stubs are bare
        ask = Ask(
            "POST",
            target,
            (Allow.fixed("POST", target),),
            time.monotonic() + WAIT_SECONDS,
            [_FORM, ("accept", "application/json"), *headers.items()],
            body.encode(),
            max_bytes=_MAX_BYTES,
        )
        return await self._client.request(ask)

    def _read(self, answer: Answer) -> Token:
        """The token of an answer (RFC 6749 §5.1), or what it says instead (§5.2)."""
        said = _object(answer)
        if answer.status != 200:
            code = said.get("error")
            known = code if isinstance(code, str) and code.isascii() and code.isprintable() and len(code) <= 64 else ""
            raise NoToken(f"the authorization server refused{f' ({known})' if known else ''}", known)
        access, kind, refresh = said.get("access_token"), said.get("token_type"), said.get("refresh_token")
        # A token that is exchanged may be of the type N_A (RFC 8693 §2.2.1): it is used as a bearer token all the same.
        if not isinstance(access, str) or not access or str(kind).lower() not in ("bearer", "n_a"):
            raise NoToken("the authorization server gave no bearer token")
        lives, scope = said.get("expires_in"), said.get("scope")
        seconds = float(lives) if isinstance(lives, int | float) and not isinstance(lives, bool) else LIFETIME
        return Token(
            access,
            self._now() + max(0.0, min(seconds, MAX_LIFETIME)),
            refresh if isinstance(refresh, str) and refresh else None,
            scope if isinstance(scope, str) else None,
        )


def _object(answer: Answer) -> Mapping[str, Json]:
    try:
        said = strictjson.loads(answer.body, max_bytes=_MAX_BYTES) if answer.content_type in JSON_TYPES else None
    except ValueError:
        said = None
    return said if isinstance(said, dict) else {}
