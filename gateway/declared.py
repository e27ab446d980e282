"""What settings declare of identity: `identity` (who vouches for callers) and `providers` (where credentials for
backends come from). Shapes only, with bounds and a sentence each; it never fetches or reads a secret."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gateway.identity.claims import trust_domain
from gateway.identity.issuers import ALGORITHMS, MAX_LIFETIME, TYPES, Issuer
from gateway.identity.providers import Grant, Provider
from gateway.units import seconds
from gateway.urls import BadUrl, parse_url

Text = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[!-~]+$")]
Source = Annotated[str, Field(pattern=r"^(env|file|store|vault):[ -~]+$", max_length=512)]
Role = Literal["operator", "auditor", "approver"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def https(url: str) -> str:
    """The URL, when it is https, or http to this machine. Raises `ValueError`."""
    try:
        parsed = parse_url(url)
    except BadUrl as bad:
        raise ValueError(f"is no URL: {bad.reason}") from None
    if parsed.scheme != "https" and not (parsed.address is not None and parsed.address.is_loopback):
        raise ValueError("must be https")
    return url


class IssuerShape(_Part):
    """One that vouches for callers."""

    iss: Annotated[Text, Field(description="The issuer, exactly as tokens say it.")]
    jwks: Annotated[Text, Field(description="Its keys: an https URL of a JWK set, or `file:PATH`.")]
    audience: Annotated[list[Text], Field(description="What tokens must be for; `identity.resource` when absent.")] = []
    algorithms: Annotated[list[str], Field(min_length=1, description="Signature algorithms taken.")] = [
        "RS256",
        "ES256",
    ]
    types: Annotated[list[Text], Field(min_length=1, description="Values of `typ` that are taken.")] = list(TYPES)
    kind: Annotated[Literal["oidc", "spiffe"], Field(description="`spiffe`: JWT-SVIDs of a trust domain.")] = "oidc"
    max_lifetime: Annotated[str, Field(description="Longest time between `iat` and `exp` of a token.")] = "24h"
    tenant: Annotated[Text, Field(description="The tenant of its callers.")] = "default"
    tenant_claim: Annotated[Text | None, Field(description="Claim that names the tenant instead.")] = None
    scope: Annotated[Text | None, Field(description="Scope that a token needs to call tools.")] = None
    user_claim: Annotated[Text, Field(description="Claim with the person.")] = "sub"
    agent_claim: Annotated[list[Text], Field(description="Claims with the agent; the first that is there counts.")] = [
        "client_id",
        "azp",
    ]
    groups_claim: Annotated[Text, Field(description="Claim with the person's groups.")] = "groups"
    session_claim: Annotated[Text | None, Field(description="Claim that names the one session of a token.")] = None
    roles: Annotated[dict[Role, list[Text]], Field(description="Groups that are operator, auditor, approver.")] = {}

    @field_validator("jwks")
    @classmethod
    def _keys(cls, place: str) -> str:
        return place if place.startswith("file:") else https(place)

    @field_validator("algorithms")
    @classmethod
    def _asymmetric(cls, names: list[str]) -> list[str]:
        wrong = sorted(set(names) - ALGORITHMS)
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: taken are {', '.join(sorted(ALGORITHMS))}")
        return names

    @field_validator("max_lifetime")
    @classmethod
    def _lifetime(cls, text: str) -> str:
        if not 0 < seconds(text) <= 30 * MAX_LIFETIME:
            raise ValueError("must be at most 30 days")
        return text

    def made(self, resource: str | None) -> Issuer:
        """The issuer. `resource` is what tokens are for where nothing else is said."""
        return Issuer(
            iss=self.iss,
            keys=self.jwks,
            audiences=tuple(self.audience) or ((resource,) if resource else ()),
            algorithms=frozenset(self.algorithms),
            types=tuple(self.types),
            kind=self.kind,
            max_lifetime=seconds(self.max_lifetime),
            tenant=self.tenant,
            tenant_claim=self.tenant_claim,
            scope=self.scope,
            user_claim=self.user_claim,
            agent_claim=tuple(self.agent_claim),
            groups_claim=self.groups_claim,
            session_claim=self.session_claim,
            roles={role: frozenset(groups) for role, groups in self.roles.items()},
        )


class Identity(_Part):
    """Who callers are."""

    resource: Annotated[
        str | None, Field(description="This gateway's own URL, as tokens name it in `aud` (RFC 8707, RFC 9728).")
    ] = None
    issuers: Annotated[list[IssuerShape], Field(max_length=16, description="Who vouches for callers by JWT.")] = []

    @field_validator("resource")
    @classmethod
    def _url(cls, resource: str | None) -> str | None:
        return None if resource is None else https(resource)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        # A trust domain may be written with its scheme or without: it is the same one.
        named = {trust_domain(each.iss) if each.kind == "spiffe" else each.iss for each in self.issuers}
        if len(named) < len(self.issuers):
            raise ValueError("each issuer is declared once")
        for each in self.issuers:
            if not each.audience and self.resource is None:
                raise ValueError(f"{each.iss}: give its audience, or identity.resource: whom tokens are for is checked")
        return self

    def made(self) -> tuple[Issuer, ...]:
        """The issuers."""
        return tuple(each.made(self.resource) for each in self.issuers)


class VaultServer(_Part):
    """A HashiCorp Vault or OpenBao server."""

    url: Annotated[
        Text | None, Field(description="Where it is; specs then name secrets `vault:MOUNT/PATH#FIELD` (KV version 2).")
    ] = None
    token: Annotated[str, Field(pattern=r"^(env|file):[ -~]+$", description="Where the token is that reads there.")] = (
        "env:VAULT_TOKEN"
    )
    namespace: Annotated[Text | None, Field(description="Its namespace, where it has any.")] = None

    @field_validator("url")
    @classmethod
    def _https(cls, url: str | None) -> str | None:
        return None if url is None else https(url)


class ProviderShape(_Part):
    """One authorization server for credentials of backends."""

    grant: Annotated[Grant, Field(description="How a token is had there.")]
    token_url: Annotated[Text, Field(description="Token endpoint.")]
    client_id: Annotated[Text, Field(description="The gateway's client id there.")]
    client_secret: Annotated[Source | None, Field(description="Where the client's secret is.")] = None
    client_auth: Annotated[Literal["basic", "post"], Field(description="How the client shows its secret.")] = "basic"
    scopes: Annotated[list[Text], Field(description="Scopes to ask for.")] = []
    audience: Annotated[Text | None, Field(description="`audience` of a token exchange.")] = None
    resource: Annotated[Text | None, Field(description="`resource` (RFC 8707) to ask for.")] = None
    refresh_token: Annotated[Source | None, Field(description="Where the refresh token of that grant is.")] = None
    authorize_url: Annotated[Text | None, Field(description="Authorization endpoint, for `connect`.")] = None
    revoke_url: Annotated[Text | None, Field(description="Revocation endpoint (RFC 7009).")] = None
    issuer: Annotated[Text | None, Field(description="`iss` that its authorization responses carry (RFC 9207).")] = None
    tenant: Annotated[Text | None, Field(description="The only tenant that may use it.")] = None

    @field_validator("token_url", "authorize_url", "revoke_url")
    @classmethod
    def _https(cls, url: str | None) -> str | None:
        return None if url is None else https(url)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.grant == "connect") != (self.authorize_url is not None):
            raise ValueError("authorize_url goes with the grant connect, which needs it")
        if (self.grant == "refresh_token") != (self.refresh_token is not None):
            raise ValueError("refresh_token goes with the grant of that name, which needs it")
        if self.client_secret is None and self.grant != "connect":
            raise ValueError("client_secret is needed: only connect works without one")
        return self

    def made(self, name: str) -> Provider:
        """The provider under its name."""
        return Provider(name, **(self.model_dump() | {"scopes": tuple(self.scopes)}))
