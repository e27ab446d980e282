"""Where credentials for backends come from, put together: sources of secrets, providers, accounts, leases. It
decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from gateway.audit.keystore import master_key
from gateway.home import BadHome, Home
from gateway.identity.connecting import Connector
from gateway.identity.connections import PURPOSE, Connections
from gateway.identity.kv import KvServer, KvVault
from gateway.identity.leases import Leases
from gateway.identity.oauth import Endpoints
from gateway.identity.providers import Provider
from gateway.identity.rotating import OperatorTokens
from gateway.identity.store import Seal, SecretStore
from gateway.identity.vault import SecretVault
from gateway.ports import Clock, Ids, Ledger, Sessions
from gateway.runners.net import Net
from gateway.settings import Settings
from gateway.stores.accounts import SqliteAccounts
from gateway.stores.secrets import SqliteSecrets
from gateway.stores.sqlite import State


@dataclass(frozen=True, slots=True)
class Credentials:
    """The vault with its sources but `oauth:`, and what that one is made of."""

    vault: SecretVault
    store: SecretStore
    rows: SqliteAccounts
    seal: Seal
    endpoints: Mapping[str, Endpoints]
    site: str

    def granted(self, ledger: Ledger, sessions: Sessions, clock: Clock, ids: Ids) -> Granted:
        """Accounts and leases over the providers, and `oauth:` among the sources. Raises `BadHome`."""
        try:
            connections = Connections(self.rows, self.seal, self.endpoints, ledger, clock, ids)
        except OSError as error:
            raise BadHome(f"the connected accounts cannot be read: {error}") from error
        connector = Connector(connections, self.endpoints, self.site, clock.monotonic)
        providers = {name: endpoints.provider for name, endpoints in self.endpoints.items()}
        rotating = OperatorTokens(providers, self.vault, self.store)
        leases = Leases(self.endpoints, connector, rotating, ledger, sessions, clock, ids, self.vault.forget)
        self.vault.add("oauth", leases)
        return Granted(connections, connector, leases)


@dataclass(frozen=True, slots=True)
class Granted:
    """What providers granted: to people, who connected accounts, and to calls."""

    connections: Connections
    connector: Connector
    leases: Leases


def open_credentials(vault: SecretVault, settings: Settings, home: Home, state: State, net: Net) -> Credentials:
    """Adds the sources of this home and of a vault server. Raises `BadHome`."""
    try:
        master, accounts = master_key(home.path), SqliteAccounts(state)
        store = SecretStore(SqliteSecrets(state), master)
    except (OSError, ValueError) as error:
        raise BadHome(f"{home.path}: its secrets cannot be read: {error}") from error
    vault.add("store", store)
    server = settings.vault
    if server.url is not None:
        vault.add("vault", KvVault(KvServer(server.url, server.token, server.namespace), net))
    endpoints = {name: _endpoints(provider, net, vault) for name, provider in providers_of(settings).items()}
    return Credentials(vault, store, accounts, Seal(master, PURPOSE), endpoints, settings.site or "")


def providers_of(settings: Settings) -> dict[str, Provider]:
    """The providers that settings declare, by name."""
    return {name: shape.made(name) for name, shape in settings.providers.items()}


def _endpoints(provider: Provider, net: Net, vault: SecretVault) -> Endpoints:
    source = provider.client_secret
    secret = None if source is None else partial(vault.own, f"{provider.name}.client_secret", source)
    return Endpoints(provider, net, secret)
