"""A small real authorization server on a free port: authlib's server side, tokens that are signed (ES256), a key set.

Grants: authorization code with PKCE, client credentials, refresh with rotation, token exchange (RFC 8693, which checks
the subject token's audience), and revocation (RFC 7009). Who signs in at it is said by a cookie `user=NAME`.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from authlib.oauth2.rfc6749 import AuthorizationServer, InvalidGrantError, OAuth2Request, grants
from authlib.oauth2.rfc6749.grants.base import BaseGrant, TokenEndpointMixin
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc9207.parameter import IssuerParameter

from tests.gateway.identity.authstate import CLIENT, EXCHANGE, GATEWAY, ISSUER, AuthServer, Client, Code, Given, read


class _Request(OAuth2Request):
    """authlib's request over ours."""

    def __init__(self, method: str, path: str, form: dict[str, str], headers: dict[str, str]) -> None:
        super().__init__(method, f"https://provider.test{path}", headers=headers)
        self.payload = BasicOAuth2Payload(form)

    @property
    def form(self) -> Any:
        return self.payload.data

    @property
    def args(self) -> Any:
        return self.payload.data


@dataclass
class _Answer:
    status: int
    body: Any
    headers: dict[str, str]

    @property
    def location(self) -> str | None:
        return self.headers.get("Location")

    @location.setter
    def location(self, value: str) -> None:
        self.headers["Location"] = value


class _Server(AuthorizationServer):
    def __init__(self, state: AuthServer) -> None:
        super().__init__()
        self.state = state
        self.register_grant(_Codes, [CodeChallenge(required=True)])
        for grant in (_OwnTokens, _Refreshes, _Exchanges):
            self.register_grant(grant)
        self.register_endpoint(_Revocations)
        self.register_extension(lambda server: _Issuer()(server))
        self.register_token_generator("default", self._made)

    def query_client(self, client_id: str) -> Client | None:
        return CLIENT if client_id == GATEWAY else None

    def create_oauth2_request(self, request: _Request) -> _Request:
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> _Answer:
        return _Answer(status, body, dict(headers))

    def send_signal(self, name: str, *args: object, **kwargs: object) -> None:
        """Nobody listens."""

    def _made(self, *, grant_type: str, client: Client, user: Any, scope: str, **more: Any) -> dict[str, Any]:
        state, sub = self.state, user or client.get_client_id()
        access = state.sign(sub, "backend", client_id=client.get_client_id(), scope=scope or "")
        said = {"token_type": "Bearer", "access_token": access, "expires_in": state.lifetime}
        if grant_type in ("authorization_code", "refresh_token") and state.rotates:
            said["refresh_token"] = secrets.token_urlsafe(24)
        return said

    def save_token(self, token: dict[str, Any], request: _Request) -> None:
        sub = request.user or GATEWAY
        scope = request.scope or ""
        self.state.given.append(Given(token["access_token"], token.get("refresh_token"), sub, scope))


class _Codes(grants.AuthorizationCodeGrant):
    def save_authorization_code(self, code: str, request: _Request) -> None:
        said = request.payload.data
        made = Code(
            code,
            request.user,
            said["redirect_uri"],
            request.payload.scope or "",
            said.get("code_challenge", ""),
            said.get("code_challenge_method", ""),
        )
        self.server.state.codes[code] = made

    def query_authorization_code(self, code: str, client: Client) -> Code | None:
        return self.server.state.codes.get(code)

    def delete_authorization_code(self, authorization_code: Code) -> None:
        del self.server.state.codes[authorization_code.code]

    def authenticate_user(self, authorization_code: Code) -> str:
        return authorization_code.user


class _OwnTokens(grants.ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")


class _Refreshes(grants.RefreshTokenGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post", "none")

    def authenticate_refresh_token(self, refresh_token: str) -> Given | None:
        found = [each for each in self.server.state.given if each.refresh == refresh_token and not each.revoked]
        return found[0] if found else None

    def authenticate_user(self, refresh_token: Given) -> str:
        return refresh_token.sub

    def revoke_old_credential(self, refresh_token: Given) -> None:
        if self.server.state.rotates:
            refresh_token.refresh = None


class _Exchanges(BaseGrant, TokenEndpointMixin):
    GRANT_TYPE = EXCHANGE

    def validate_token_request(self) -> None:
        self.request.client = self.authenticate_token_endpoint_client()
        form, state = self.request.form, self.server.state
        claims = read(form.get("subject_token", ""))
        if claims is None or claims["aud"] != state.resource or claims["exp"] < time.time():
            raise InvalidGrantError("The subject token is not for this client.")
        self.request.user = claims["sub"]

    def create_token_response(self) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        state, sub = self.server.state, self.request.user
        access = state.sign(sub, self.request.form["audience"], client_id=GATEWAY, act={"sub": GATEWAY})
        token = {"access_token": access, "token_type": "Bearer", "expires_in": state.lifetime}
        self.save_token(token | {"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"})
        return 200, token, self.TOKEN_RESPONSE_HEADER


class _Revocations(RevocationEndpoint):
    def query_token(self, token_string: str, token_type_hint: str) -> Given | None:
        found = [each for each in self.server.state.given if token_string in (each.access, each.refresh)]
        return found[0] if found else None

    def revoke_token(self, token: Given, request: _Request) -> None:
        token.revoked = True

    def create_endpoint_request(self, request: _Request) -> _Request:
        return request


class _Issuer(IssuerParameter):
    def add_issuer_parameter(self, authorization_server: _Server, response: _Answer) -> None:
        self.of = authorization_server.state
        super().add_issuer_parameter(authorization_server, response)

    def get_issuer(self) -> str:
        return self.of.iss or self.of.url


def _raw(to: BaseHTTPRequestHandler, status: int, media: str, body: bytes) -> None:
    to.send_response(status)
    to.send_header("Content-Type", media)
    to.send_header("Content-Length", str(len(body)))
    to.end_headers()
    to.wfile.write(body)


def _titled(headers: Mapping[str, str]) -> dict[str, str]:
    """As authlib looks for them."""
    return {name.title(): value for name, value in headers.items()}


def _send(to: BaseHTTPRequestHandler, answer: _Answer) -> None:
    body = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
    to.send_response(answer.status)
    headers = {"Content-Type": "application/json", **answer.headers, "Content-Length": str(len(body))}
    for name, value in headers.items():
        to.send_header(name, value)
    to.end_headers()
    to.wfile.write(body.encode())


def _answers(state: AuthServer) -> type[BaseHTTPRequestHandler]:
    server, lock = _Server(state), threading.Lock()

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            at = urlsplit(self.path)
            if at.path == "/keys":
                _send(self, _Answer(200, json.loads(ISSUER.jwks()), {}))
                return
            user = SimpleCookie(self.headers.get("cookie", "")).get("user")
            request = _Request("GET", self.path, dict(parse_qsl(at.query)), _titled(self.headers))
            with lock:
                if user is None:
                    _send(self, _Answer(401, {"error": "login_required"}, {}))
                    return
                request.user = user.value
                grant = server.get_authorization_grant(request)
                _send(self, server.create_authorization_response(request, user.value, grant))

        def do_POST(self) -> None:
            form = dict(parse_qsl(self.rfile.read(int(self.headers["content-length"])).decode()))
            time.sleep(state.delay)
            request = _Request("POST", self.path, form, _titled(self.headers))
            with lock:
                state.asked.append(form)
                if state.raw is not None:
                    _raw(self, state.status, *state.raw)
                elif state.status != 200:
                    _send(self, _Answer(state.status, {"error": "temporarily_unavailable"}, {}))
                elif self.path == "/revoke":
                    _send(self, server.create_endpoint_response("revocation", request))
                else:
                    _send(self, server.create_token_response(request))

        def log_message(self, format: str, *args: object) -> None:
            """Tests are quiet."""

    return Answers


@contextmanager
def auth_server() -> Iterator[AuthServer]:
    """A server, until the end of the block."""
    state = AuthServer()
    listening = ThreadingHTTPServer(("127.0.0.1", 0), _answers(state))
    listening.daemon_threads = True
    state.port = listening.server_address[1]
    thread = threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
