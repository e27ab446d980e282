"""Where credentials for backends come from: a `Provider` as an operator declared it. It never fetches anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Grant = Literal["client_credentials", "refresh_token", "token_exchange", "connect"]


@dataclass(frozen=True, slots=True)
class Provider:
    """An OAuth 2 authorization server (RFC 6749), and the grant by which a token for a call is had there.

    `client_credentials`: the gateway's own. `refresh_token`: one account of the operator's, by the secret that
    `refresh_token` names. `token_exchange` (RFC 8693): the caller's token against one for `audience`. `connect`: each
    person connects an account of their own (authorization code with PKCE). Secrets are named by source, as in a spec,
    and none of them is `oauth:`. `tenant` is the only one that may use it, if it is set.
    """

    name: str
    grant: Grant
    token_url: str
    client_id: str
    client_secret: str | None = None
    client_auth: Literal["basic", "post"] = "basic"
    scopes: tuple[str, ...] = ()
    audience: str | None = None
    resource: str | None = None
    refresh_token: str | None = None
    authorize_url: str | None = None
    revoke_url: str | None = None
    issuer: str | None = None
    tenant: str | None = None
