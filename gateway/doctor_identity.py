"""What is off or old about who may call, and about the credentials that tools need.

It looks into `state.db` and at the files and variables that specs and settings name. It asks nobody, changes nothing,
and shows no secret.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from gateway.backends import offers
from gateway.declared import IssuerShape
from gateway.doctor import Check
from gateway.home import Home
from gateway.identity.issuers import MAX_LIFETIME
from gateway.identity.revocations import Revocations
from gateway.identity.store import SecretStore
from gateway.identity.vault import SecretVault, local_vault
from gateway.loading import Loaded, load_folders
from gateway.ports import Key
from gateway.settings import Settings
from gateway.specs.yaml import SpecErrors
from gateway.stores.secrets import SqliteSecrets
from gateway.stores.sqlite import SqliteKeys, State
from gateway.tool import SecretUse
from gateway.units import seconds

AREA = "identity"
_DAY = 24 * 3600.0
_OLD = 90  # days after which an operator's key is spoken of
_SHOWN = 5  # of many things of one kind


def identity(settings: Settings, now: float, environ: Mapping[str, str] = os.environ) -> Iterator[Check]:
    """Checks of issuers, keys, revocations and secrets. `now` in unix seconds."""
    for issuer in settings.identity.issuers:
        yield from _issuer(issuer)
    yield from _together(settings.identity.issuers)
    yield from _providers(settings)
    vault = local_vault(environ)
    home = Home(settings.home)
    if not home.state.exists():
        yield from _secrets(settings, vault, ())
        return
    try:
        with closing(State(home.state)) as state:
            store = SecretStore(SqliteSecrets(state), b"")  # nothing is opened, so no key is needed, nor made
            vault.add("store", store)
            yield from _keys(SqliteKeys(state).all(), now)
            yield from _revoked(Revocations(state))
            yield from _secrets(settings, vault, [row.name for row in store.all()])
    except (OSError, ValueError) as error:
        yield Check(AREA, "bad", f"what the home knows of callers cannot be read: {error}")


def _issuer(issuer: IssuerShape) -> Iterator[Check]:
    name = f"issuer {issuer.iss}"
    if issuer.jwks.startswith("file:"):
        if not os.access(Path(issuer.jwks.removeprefix("file:")), os.R_OK):
            yield Check(AREA, "bad", f"{name}: its keys, {issuer.jwks}, cannot be read: all its tokens are refused")
    elif issuer.jwks.startswith("http:"):
        yield Check(AREA, "note", f"{name}: its keys come over http: whoever serves that port here vouches for anybody")
    if seconds(issuer.max_lifetime) > MAX_LIFETIME:
        yield Check(AREA, "note", f"{name}: tokens may live {issuer.max_lifetime}: one that leaks is good for as long")
    if issuer.kind == "oidc" and issuer.scope is None:
        yield Check(
            AREA, "note", f"{name}: no scope is asked for, so each of its tokens for this gateway may call tools"
        )
    if issuer.kind == "oidc" and not issuer.roles:
        yield Check(AREA, "note", f"{name}: no group of its people is operator, auditor or approver; only keys are")


def _together(issuers: Sequence[IssuerShape]) -> Iterator[Check]:
    named = [each.tenant for each in issuers if each.tenant_claim is None]
    for tenant in sorted({name for name in named if named.count(name) > 1}):
        yield Check(AREA, "note", f"several issuers vouch for tenant {tenant}: equal names of theirs are one caller")


def _providers(settings: Settings) -> Iterator[Check]:
    """Where tokens for backends come from."""
    for name, provider in settings.providers.items():
        if provider.revoke_url is None:
            yield Check(AREA, "note", f"provider {name}: no revoke_url: tokens are dropped, and not taken back there")
        if provider.grant == "connect" and provider.issuer is None:
            text = f"provider {name}: no issuer: answers of another server are not told apart (RFC 9207)"
            yield Check(AREA, "note", text)
    host = (settings.site or "").partition("://")[2]
    if settings.connects and not settings.on_loopback and host not in settings.hosts:
        yield Check(AREA, "bad", f"accounts are connected at {host}, which is not among hosts: it is refused")


def _keys(keys: Sequence[Key], now: float) -> Iterator[Check]:
    there = [key for key in keys if key.revoked_at is None]
    held = [key for key in there if key.expires_at is None or key.expires_at > now]
    yield Check(AREA, "ok", f"{len(held)} API keys are in force")
    if ended := len(there) - len(held):
        yield Check(AREA, "note", f"{ended} API keys have expired and were never revoked")
    if endless := [key for key in held if key.expires_at is None]:
        yield Check(AREA, "note", f"API keys that never expire: {_named(endless)}")
    for key in held:
        days = int((now - key.created_at) / _DAY)
        if "operator" in key.scopes and days > _OLD:
            text = f"the operator's key {key.id} ({key.agent}) is {days} days old: make another and revoke it"
            yield Check(AREA, "note", text)
        if {"agent", "operator"} <= key.scopes:
            text = f"the key {key.id} ({key.agent}) calls tools and is an operator's too: give the agent one of its own"
            yield Check(AREA, "bad", text)


def _named(keys: Sequence[Key]) -> str:
    shown = [f"{key.id} ({key.agent}, {', '.join(sorted(key.scopes))})" for key in keys[:_SHOWN]]
    more = len(keys) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _revoked(revocations: Revocations) -> Iterator[Check]:
    held = [each for each in revocations.all() if each.lifted_at is None]
    if held:
        yield Check(AREA, "note", f"{len(held)} revocations are in force: `toolgate revoke --list` shows whose")


def _secrets(settings: Settings, vault: SecretVault, kept: Sequence[str]) -> Iterator[Check]:
    """Whether what specs name can be had from here, and whether anything is kept that nothing names."""
    try:
        loaded = load_folders(settings.folder("tool_specs"), settings.folder("policies"), offers(settings.sandboxes))
    except (SpecErrors, OSError):
        yield Check(AREA, "note", "secrets were not looked at: the specs do not load, see `toolgate check`")
        return
    named = list(_uses(loaded))
    for place, use in named:
        # Only what lies on this machine: for others somebody would have to be asked.
        if use.source.partition(":")[0] in ("env", "file", "store") and (reason := vault.look(use)) is not None:
            text = f"{place}: the credential {use.name} cannot be used: {reason}"
            if use.source.startswith("env:"):
                yield Check(AREA, "note", f"{text} here, where variables may be others than the gateway's")
            else:
                yield Check(AREA, "bad", text)
        if use.weak:
            yield Check(AREA, "note", f"{place}: the credential {use.name} may be short, as `weak: true` says")
    places = {use.source for _, use in named} | set(_of_providers(settings))
    if unused := sorted({name for name in kept if f"store:{name}" not in places}):
        yield Check(AREA, "note", f"secrets that are kept and that nothing names: {', '.join(unused)}")


def _uses(loaded: Loaded) -> Iterator[tuple[str, SecretUse]]:
    for tool in loaded.catalogue.all():
        yield from ((f"tool {tool.name}", use) for use in tool.secrets)
    for server in loaded.servers.values():
        yield from ((f"server {server.name}", use) for use in server.secrets)


def _of_providers(settings: Settings) -> Iterator[str]:
    for provider in settings.providers.values():
        yield from (source for source in (provider.client_secret, provider.refresh_token) if source is not None)
