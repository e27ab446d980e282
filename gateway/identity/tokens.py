"""Tokens that issuers sign (JWT, RFC 7519 and 8725; JWT-SVID): from a text to who it is of, or a refusal.

The one importer of joserfc, which does keys and signatures here and nothing else: header and claims are read once, by
the strict decoder, before any key is looked for. It never fetches what a token points at, never takes a key from a
token, and knows neither symmetric algorithms nor encrypted tokens.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from gateway import strictjson
from gateway.identity.claims import Verified, trust_domain, trust_domain_of, verified, wrong
from gateway.identity.issuers import ALGORITHMS, Issuer
from gateway.identity.jwks import MAX_KID, Jwk, NoKeys

MAX_TOKEN = 8 * 1024  # bytes
_MAX_DEPTH = 16
# A key, a place of keys, another way to read the payload, an extension that has to be understood: none is ours to obey.
_REFUSED = ("crit", "b64", "jku", "jwk", "x5u", "x5c")
_SVID_TYPES = (None, "JWT", "JOSE")
_KINDS: dict[str, type[RSAKey] | type[ECKey] | type[OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}


class Keys(Protocol):
    """The keys of one issuer (`jwks.KeySet`)."""

    async def find(self, kid: str, algorithm: str) -> Jwk | None: ...


class Verifier:
    """Checks tokens of the given issuers, each against its own keys and rules."""

    def __init__(self, issuers: Sequence[tuple[Issuer, Keys]], now: Callable[[], float]) -> None:
        self._now = now
        self._by_name = {issuer.iss: (issuer, keys) for issuer, keys in issuers if issuer.kind == "oidc"}
        self._by_domain = {
            trust_domain(issuer.iss): (issuer, keys) for issuer, keys in issuers if issuer.kind == "spiffe"
        }

    async def verify(self, token: str) -> Verified:
        """Who the token is of. Raises `Refusal`: `unauthenticated`, or `insufficient_scope` for one that holds."""
        signed, header, claims, signature = _read(token)
        issuer, keys = self._issuer(claims)
        algorithm, kid = _check_header(header, issuer)
        try:
            jwk = await keys.find(kid, algorithm)
        except NoKeys as error:
            raise wrong(str(error).rstrip(".")) from None
        if jwk is None:
            raise wrong("no key of its issuer has this kid, for this alg")
        if not _holds(algorithm, jwk, signed, signature):
            raise wrong("its signature does not hold")
        return verified(claims, issuer, "t_" + hashlib.sha256(token.encode()).hexdigest()[:16], self._now())

    def _issuer(self, claims: Mapping[str, object]) -> tuple[Issuer, Keys]:
        """By `iss`, or for a JWT-SVID, which needs none, by the trust domain of its subject."""
        name, domain = claims.get("iss"), trust_domain_of(claims)
        found = self._by_name.get(name) if isinstance(name, str) else None
        if found is None and domain is not None:
            found = self._by_domain.get(domain)
        if found is None:
            raise wrong("nobody who is known here issued it")
        return found


def _read(token: str) -> tuple[bytes, dict[str, object], dict[str, object], bytes]:
    """What was signed, the header, the claims, the signature."""
    if len(token) > MAX_TOKEN:
        raise wrong(f"it is longer than {MAX_TOKEN} bytes")
    parts = token.split(".")
    if len(parts) != 3:
        raise wrong("it does not have three parts")
    header, claims, signature = map(_decoded, parts)
    return f"{parts[0]}.{parts[1]}".encode(), _object(header), _object(claims), signature


def _decoded(part: str) -> bytes:
    """Base64url as RFC 7515 writes it: no padding, nothing between, no bits left over."""
    raw = part.encode("utf-8", "surrogatepass")
    try:
        decoded = base64.urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))
    except ValueError:
        decoded = b""
    if not decoded or base64.urlsafe_b64encode(decoded).rstrip(b"=") != raw:
        raise wrong("a part is not base64url")
    return decoded


def _object(raw: bytes) -> dict[str, object]:
    try:
        said = strictjson.loads(raw, max_bytes=MAX_TOKEN, max_depth=_MAX_DEPTH)
    except ValueError:
        raise wrong("a part is not strict JSON") from None
    if not isinstance(said, dict):
        raise wrong("a part is no JSON object")
    return said


def _check_header(header: Mapping[str, object], issuer: Issuer) -> tuple[str, str]:
    """Algorithm and key id, both as this issuer may say them."""
    refused = [name for name in _REFUSED if name in header]
    if refused:
        raise wrong(f"{refused[0]} in its header is not taken")
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str) or algorithm not in issuer.algorithms & ALGORITHMS:
        raise wrong("its alg is not one of its issuer's")
    if not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID:
        raise wrong("its kid is none")
    if kind not in (_SVID_TYPES if issuer.kind == "spiffe" else issuer.types):
        raise wrong("its typ is not one of its issuer's")
    return algorithm, kid


def _holds(algorithm: str, jwk: Jwk, signed: bytes, signature: bytes) -> bool:
    model, key = JWSRegistry.algorithms[algorithm], _key(jwk)
    if key is None:
        return False
    try:
        model.check_key(key)
        return model.verify(signed, signature, key)
    except (JoseError, ValueError):
        return False


@lru_cache(maxsize=1024)
def _key(jwk: Jwk) -> RSAKey | ECKey | OKPKey | None:
    """The key to check with; None for members that are no point or number of their kind."""
    members: dict[str, str | list[str]] = dict(jwk.members)
    try:
        return _KINDS[str(members["kty"])].import_key(members)
    except (JoseError, ValueError):
        return None
