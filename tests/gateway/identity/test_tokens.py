"""Tokens: whose they are, and every hostile one we know of refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.identity.authority import Authorities
from gateway.identity.issuers import Issuer
from gateway.identity.jwks import KeySet
from gateway.identity.keys import KeyAuthority
from gateway.identity.revocations import InForce
from gateway.identity.tokens import Verifier
from gateway.model import Principal, Refusal
from gateway.stores.memory import MemoryKeys
from tests.gateway.identity.forgery import Forger, chain
from tests.gateway.identity.idp import GOOD, Idp, b64

CANARY = "http://127.0.0.1:9/keys"
IDP = Idp()
FORGER = Forger(IDP, CANARY)
FORGED = FORGER.all()
ROLES = {"operator": frozenset({"ops"}), "auditor": frozenset({"books"}), "approver": frozenset({"leads"})}


class Still:
    """A clock that stands still."""

    def now(self) -> float:
        return IDP.now

    def monotonic(self) -> float:
        return 0.0


class Unrevoked:
    """Nothing is revoked."""

    current = InForce()


def of(raw: bytes) -> Callable[[], Awaitable[bytes]]:
    """A JWK set that is always there."""

    async def load() -> bytes:
        return raw

    return load


def authority(issuer: Issuer, raw: bytes) -> Authorities:
    """An authority over one issuer and its set, and no API key."""
    clock = Still()
    keys = KeySet(of(raw), issuer.algorithms, clock.monotonic, use="jwt-svid" if issuer.kind == "spiffe" else "sig")
    return Authorities(KeyAuthority(MemoryKeys(), clock), Verifier([(issuer, keys)], clock.now), Unrevoked(), clock)


def judged(token: str, issuer: Issuer | None = None, raw: bytes | None = None) -> Principal | str:
    """The principal, or the code of the refusal."""
    try:
        asked = authority(issuer or IDP.issuer(), raw or IDP.jwks(*FORGER.entries())).identify(token)
        return asyncio.run(asyncio.wait_for(asked, 10))
    except Refusal as refusal:
        return refusal.problem.code


def principal(token: str, **more: Any) -> Principal:
    """The principal of a token that holds, of an issuer that is declared so."""
    found = judged(token, IDP.issuer(**more))
    assert isinstance(found, Principal), found
    return found


@pytest.mark.parametrize("algorithm", GOOD)
def test_a_good_token_is_taken(algorithm: str) -> None:
    """Of every algorithm that can be configured: Ann, who uses the client `bot`."""
    found = judged(IDP.token(algorithm, jti="t-1"))
    assert found == Principal("bot", "default", "ann", scopes=frozenset({"agent"}), authn="jwt", token_id="t-1")


def test_there_are_many_forgeries_and_no_two_are_one() -> None:
    """The generator makes what it says: hundreds of different tokens, none of them the good one."""
    assert len({token for _, token in FORGED}) == len({name for name, _ in FORGED}) == len(FORGED)
    assert len(FORGED) >= 250


def test_what_the_forger_makes_holds_but_for_what_is_wrong_with_it() -> None:
    """Each way a forgery is put together gives a token that is taken, when nothing is changed."""
    assert [type(judged(token)) for token in FORGER.harmless()] == [Principal] * 5


@pytest.mark.parametrize(("name", "token"), FORGED, ids=[name for name, _ in FORGED])
def test_a_forgery_is_refused(name: str, token: str) -> None:
    """As `unauthenticated`; where all holds but the scope is missing, as `insufficient_scope`."""
    assert judged(token) in {"unauthenticated", "insufficient_scope"}


def test_only_a_missing_scope_is_told_apart() -> None:
    """`insufficient_scope` is for a token that holds in all else, and names the scope."""
    told = {name for name, token in FORGED if judged(token) == "insufficient_scope"}
    assert told
    assert all(name.startswith("scope ") for name in told)
    with pytest.raises(Refusal) as refused:
        asyncio.run(authority(IDP.issuer(), IDP.jwks()).identify(IDP.token(scope="profile")))
    assert refused.value.problem.needs == ("tools",)


def test_a_refusal_quotes_nothing_of_the_token() -> None:
    """What somebody put into a token does not come back out in words."""
    for claims in ({"sub": "ann\nmarker"}, {"iss": "marker"}, {"aud": "marker"}, {"act": "marker"}):
        with pytest.raises(Refusal) as refused:
            asyncio.run(authority(IDP.issuer(), IDP.jwks()).identify(IDP.token(**claims)))
        assert "marker" not in refused.value.problem.detail


def test_a_scope_is_not_needed_where_none_is_configured() -> None:
    """Any token of the issuer may call tools then, as far as the token goes."""
    assert principal(IDP.token(scope=None), scope=None).scopes == {"agent"}


def test_a_clients_own_token_is_for_no_person() -> None:
    """RFC 9068: without a person the subject is the client itself."""
    assert principal(IDP.token(sub="bot")).user is None


def test_the_claims_that_name_agent_user_tenant_and_session_are_the_operators_choice() -> None:
    """Each by the name that the issuer gives it."""
    claims = {"email": "ann@example.com", "azp": "web", "client_id": None, "org": "acme", "sid": "chat-7"}
    names = {"user_claim": "email", "tenant_claim": "org", "session_claim": "sid"}
    found = principal(IDP.token(**claims), **names)
    assert (found.agent, found.user, found.tenant, found.session) == ("web", "ann@example.com", "acme", "chat-7")


@pytest.mark.parametrize(
    ("claims", "more"),
    [
        ({"org": "a\x1fb"}, {"tenant_claim": "org"}),
        ({"org": "a b"}, {"tenant_claim": "org"}),
        ({}, {"tenant_claim": "org"}),
        ({"sid": "a/b"}, {"session_claim": "sid"}),
        ({"sid": "s" * 129}, {"session_claim": "sid"}),
        ({}, {"session_claim": "sid"}),
        ({"email": ""}, {"user_claim": "email"}),
        ({}, {"user_claim": "email"}),
    ],
)
def test_a_claim_that_was_asked_for_has_to_be_there_and_be_a_name(claims: dict[str, Any], more: dict[str, Any]) -> None:
    """A token without its tenant, session or person is no token."""
    assert judged(IDP.token(**claims), IDP.issuer(**more)) == "unauthenticated"


def test_groups_give_roles() -> None:
    """Operator, auditor and approver are whoever is in the groups that were named."""
    found = principal(IDP.token(groups=["ops", "leads", "staff"]), roles=ROLES)
    assert found.scopes == {"agent", "operator", "approver"}
    assert found.groups == {"ops", "leads", "staff"}


def test_an_operator_needs_no_scope_to_call_tools() -> None:
    """And may call none without it."""
    assert principal(IDP.token(groups=["ops"], scope=None), roles=ROLES).scopes == {"operator"}


def test_whoever_acts_for_somebody_has_none_of_their_roles() -> None:
    """Delegation only narrows: the agent that acts is the caller, the person is whom it is for."""
    found = principal(IDP.token(groups=["ops", "books", "leads"], act=chain("worker", "planner")), roles=ROLES)
    assert (found.agent, found.user, found.actors) == ("worker", "ann", ("worker", "planner"))
    assert found.scopes == {"agent"}
    delegated = IDP.token(groups=["ops"], scope=None, act=chain("worker"))
    assert judged(delegated, IDP.issuer(roles=ROLES)) == "insufficient_scope"


def test_four_actors_are_taken() -> None:
    """And five are not, as the forgeries show; an actor may be named by its client id."""
    assert principal(IDP.token(act=chain(*"abcd"))).actors == ("a", "b", "c", "d")
    assert principal(IDP.token(act={"client_id": "worker"})).agent == "worker"


def test_clocks_may_differ_by_half_a_minute() -> None:
    """And by no more."""
    assert principal(IDP.token(exp=IDP.now - 29))
    assert principal(IDP.token(nbf=IDP.now + 29, iat=IDP.now + 29))
    assert judged(IDP.token(exp=IDP.now - 30)) == "unauthenticated"


def test_a_token_without_an_id_is_named_by_its_digest() -> None:
    """So that it can be found in the records and revoked."""
    first, second = (principal(IDP.token(nonce=n)).token_id for n in "ab")
    assert first != second
    assert (first[:2], len(first)) == ("t_", 18)


SPIFFE = Issuer(
    "spiffe://corp.example", "file:none", ("https://gateway.example.com/mcp",), frozenset(GOOD), kind="spiffe"
)


def svid(**changed: Any) -> str:
    """A JWT-SVID: no issuer, no client, no scope."""
    claims = {"iss": None, "client_id": None, "scope": None, "sub": "spiffe://corp.example/ns/prod/bot"}
    return IDP.token("ES256", {"typ": None}, **{**claims, **changed})


def trusted() -> bytes:
    """The trust domain's bundle, as SPIFFE writes it."""
    entries = [{**entry, "use": "jwt-svid"} for entry in IDP.entries()]
    return json.dumps({"keys": entries, "spiffe_sequence": 1}).encode()


def test_a_workload_is_known_by_its_spiffe_id() -> None:
    """The whole id is the agent: the last part of a path is not unique."""
    found = judged(svid(), SPIFFE, trusted())
    assert isinstance(found, Principal)
    assert (found.agent, found.workload) == ("spiffe://corp.example/ns/prod/bot",) * 2
    assert (found.user, found.scopes) == (None, {"agent"})
    assert isinstance(judged(svid(iss="https://spire.corp.example"), SPIFFE, trusted()), Principal)


@pytest.mark.parametrize(
    "changed",
    [
        *({"sub": sub} for sub in ("spiffe://other.example/bot", "spiffe://corp.example", "spiffe://corp.example/")),
        *(
            {"sub": f"spiffe://corp.example{path}"}
            for path in ("/a//b", "/../bot", "/a/.", "/b%2fc", "/a?b", ".evil/b")
        ),
        *({"sub": sub} for sub in ("SPIFFE://corp.example/bot", "spiffe://corp.example@evil/b", "bot", None, ["x"])),
        {"aud": "https://other.example"},
        {"aud": None},
        {"exp": None},
        {"act": {"sub": "somebody"}},
    ],
    ids=str,
)
def test_what_is_no_svid_of_the_domain_is_refused(changed: dict[str, Any]) -> None:
    """Another domain, a path that is none, no audience, no end, somebody it acts for."""
    assert judged(svid(**changed), SPIFFE, trusted()) == "unauthenticated"


def test_an_issuer_of_people_is_not_one_of_workloads() -> None:
    """A SPIFFE ID as the subject of its token makes nobody a workload."""
    found = principal(IDP.token(sub="spiffe://corp.example/bot"))
    assert (found.agent, found.workload) == ("bot", None)
    token = IDP.token("ES256", {"typ": "at+jwt"}, iss=None, sub="spiffe://corp.example/bot")
    assert judged(token, SPIFFE, trusted()) == "unauthenticated"


def test_two_issuers_with_one_kid_have_two_keys() -> None:
    """A token that says it is of one is checked with the key of that one, whatever its kid."""
    other, clock = Idp("https://b.example", now=IDP.now), Still()
    sets = [(each.issuer(), KeySet(of(each.jwks()), frozenset(GOOD), clock.monotonic)) for each in (IDP, other)]
    verifier = Verifier(sets, clock.now)
    assert asyncio.run(verifier.verify(IDP.token())).issuer == IDP.iss
    assert asyncio.run(verifier.verify(other.token())).issuer == other.iss
    for token in (other.token(iss=IDP.iss), IDP.token(iss=other.iss)):
        with pytest.raises(Refusal):
            asyncio.run(verifier.verify(token))


def test_a_key_to_encrypt_with_is_not_asked_for() -> None:
    """Nothing here takes encrypted tokens: five parts are refused before anything is decoded."""
    assert judged(f"{b64(b'{}')}.a.b.c.d") == "unauthenticated"
