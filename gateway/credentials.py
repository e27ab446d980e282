"""Where credentials for backends come from, put together: sources of secrets, providers, leases. It decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from gateway.audit.keystore import master_key
from gateway.home import BadHome, Home
from gateway.identity.kv import KvServer, KvVault
from gateway.identity.leases import Accounts, Leases
from gateway.identity.oauth import Endpoints
from gateway.identity.providers import Provider
from gateway.identity.rotating import OperatorTokens
from gateway.identity.store import SecretStore
from gateway.identity.vault import SecretVault
from gateway.ports import Clock, Ids, Ledger, Sessions
from gateway.runners.net import Net
from gateway.settings import Settings
from gateway.stores.secrets import SqliteSecrets
from gateway.stores.sqlite import State


@dataclass(frozen=True, slots=True)
class Credentials:
    """The vault with its sources but `oauth:`, and what that one is made of."""

    vault: SecretVault
    store: SecretStore
    endpoints: Mapping[str, Endpoints]

    def leases(self, accounts: Accounts, ledger: Ledger, sessions: Sessions, clock: Clock, ids: Ids) -> Leases:
        """Leases over the providers, and `oauth:` among the sources."""
        providers = {name: endpoints.provider for name, endpoints in self.endpoints.items()}
        rotating = OperatorTokens(providers, self.vault, self.store)
        leases = Leases(self.endpoints, accounts, rotating, ledger, sessions, clock, ids, self.vault.forget)
        self.vault.add("oauth", leases)
        return leases


def open_credentials(vault: SecretVault, settings: Settings, home: Home, state: State, net: Net) -> Credentials:
    """Adds the sources of this home and of a vault server. Raises `BadHome`."""
    try:
        store = SecretStore(SqliteSecrets(state), master_key(home.path))
    except (OSError, ValueError) as error:
        raise BadHome(f"{home.path}: its secrets cannot be read: {error}") from error
    vault.add("store", store)
    server = settings.vault
    if server.url is not None:
        vault.add("vault", KvVault(KvServer(server.url, server.token, server.namespace), net))
    endpoints = {name: _endpoints(provider, net, vault) for name, provider in providers_of(settings).items()}
    return Credentials(vault, store, endpoints)


def providers_of(settings: Settings) -> dict[str, Provider]:
    """The providers that settings declare, by name."""
    return {name: shape.made(name) for name, shape in settings.providers.items()}


def _endpoints(provider: Provider, net: Net, vault: SecretVault) -> Endpoints:
    source = provider.client_secret
    secret = None if source is None else partial(vault.own, f"{provider.name}.client_secret", source)
    return Endpoints(provider, net, secret)
