"""Who calls: what a token costs that was verified a moment ago, and one that was never seen, for each algorithm.

Runs alone too: `python -m bench.identity`. Measures only; never judges, except that every token has to be taken.
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import time
from collections.abc import Sequence

from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from gateway.identity.authority import Authorities
from gateway.identity.issuers import Issuer
from gateway.identity.jwks import KeySet
from gateway.identity.keys import KeyAuthority
from gateway.identity.revocations import InForce, new_revocation
from gateway.identity.tokens import Verifier
from gateway.model import Principal
from gateway.stores.memory import MemoryKeys

ROUNDS, HITS, FIRST = 7, 20_000, 200
ISS, AUDIENCE = "https://idp.example.com", "https://gateway.example.com/mcp"
Report = dict[str, float]


class _Clock:
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class _Revoked:
    """A gateway where something was revoked: that has to be looked at, and concerns nobody here."""

    current = InForce(frozenset({"t-other"}), (new_revocation({"agent": "other"}, "bench", {}, 0.0, False),))


def measure() -> Report:
    """Microseconds: `cached`, and `first_ALGORITHM`; of several rounds the best median."""
    return asyncio.run(_measured())


async def _measured() -> Report:
    keys: dict[str, Key] = {"RS256": RSAKey.generate_key(2048), "PS256": RSAKey.generate_key(2048)}
    keys |= {"ES256": ECKey.generate_key("P-256"), "EdDSA": OKPKey.generate_key("Ed25519")}
    over = _authority(keys)
    report: Report = {}
    for name, key in keys.items():
        rounds = [[_token(name, key, f"{round_}-{n}") for n in range(FIRST)] for round_ in range(ROUNDS)]
        report[f"first_{name}"] = min([statistics.median(await _timed(over, tokens)) for tokens in rounds])
    token = _token("RS256", keys["RS256"], "kept")
    await over.identify(token)
    report["cached"] = min([await _hits(over, token) for _ in range(ROUNDS)])
    return report


def _authority(keys: dict[str, Key]) -> Authorities:
    entries = [{**key.as_dict(private=False), "kid": name, "use": "sig"} for name, key in keys.items()]
    raw = json.dumps({"keys": entries}).encode()

    async def load() -> bytes:
        return raw

    issuer = Issuer(ISS, "", (AUDIENCE,), frozenset(keys), scope="tools", roles={"operator": frozenset({"ops"})})
    verifier = Verifier([(issuer, KeySet(load, issuer.algorithms, time.monotonic))], time.time)
    return Authorities(KeyAuthority(MemoryKeys(), _Clock()), verifier, _Revoked(), _Clock())


def _token(algorithm: str, key: Key, number: str) -> str:
    """An access token of usual size."""
    now = int(time.time())
    claims = {"iss": ISS, "aud": AUDIENCE, "sub": "5f0c7e1a-ann", "client_id": "bot", "iat": now, "exp": now + 3600}
    claims |= {"jti": number, "scope": "openid profile tools", "groups": ["staff", "research", "eu"], "azp": "bot"}
    head = {"alg": algorithm, "kid": algorithm, "typ": "at+jwt"}
    text = ".".join(_part(json.dumps(part).encode()) for part in (head, claims))
    return f"{text}.{_part(JWSRegistry.algorithms[algorithm].sign(text.encode(), key))}"


def _part(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


async def _timed(over: Authorities, tokens: Sequence[str]) -> list[float]:
    """Microseconds of each first look at a token."""
    took = []
    for token in tokens:
        begin = time.perf_counter()
        _checked(await over.identify(token))
        took.append((time.perf_counter() - begin) * 1e6)
    return took


async def _hits(over: Authorities, token: str) -> float:
    """Microseconds of one look at a token that is known; each time another object, as it comes in a request."""
    tokens = [f"{token} "[:-1] for _ in range(HITS)]
    begin = time.perf_counter()
    for each in tokens:
        await over.identify(each)
    took = (time.perf_counter() - begin) / HITS * 1e6
    _checked(await over.identify(token))
    return took


def _checked(found: Principal) -> None:
    if (found.agent, found.user, found.scopes) != ("bot", "5f0c7e1a-ann", {"agent"}):
        raise SystemExit(f"a token was read wrongly: {found}")


if __name__ == "__main__":
    print(json.dumps({name: round(value, 2) for name, value in measure().items()}, indent=1))
