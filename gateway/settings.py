"""Every setting of the service: default, unit, bounds and one sentence each. The service runs with none of them given.

Precedence: flags over environment over file. `TOOLGATE_A__B` holds a YAML value for `a.b`. Unknown names are refused.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gateway.bounds import Limits
from gateway.declared import Identity, ProviderShape, VaultServer, https
from gateway.heads import checked
from gateway.policy.findings import nearest
from gateway.specs.yaml import SpecError, load
from gateway.units import seconds
from gateway.urls import parse_url

_PREFIX = "TOOLGATE_"
_MAX_PORT = 65535
_DAY = 24 * 3600.0
_NOT_SETTINGS = frozenset({"TOOLGATE_KEY"})  # read by `toolgate call`
STARTER = Path(__file__).parent / "starter"
_CHECKOUT = Path(__file__).parent.parent


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Retain(_Part):
    """For how long the ledger keeps what it can let go of."""

    content: Annotated[
        str | None,
        Field(description="How long after a session's last record its content is erased: `30d`; 1d or more."),
    ] = None

    @field_validator("content")
    @classmethod
    def _age(cls, content: str | None) -> str | None:
        if content is not None and seconds(content) < _DAY:
            raise ValueError("at least 1d: policy reads the calls of a day back at a start")
        return content

    @property
    def content_age(self) -> float | None:
        """In seconds; `None` to keep it until it is erased."""
        return None if self.content is None else seconds(self.content)


class Audit(_Part):
    """The ledger."""

    segment: Annotated[int, Field(ge=4096, le=1 << 30, description="Bytes of one log segment.")] = 64 << 20
    checkpoint_interval: Annotated[
        float, Field(ge=0.1, le=60, description="Seconds of activity between two signed checkpoints.")
    ] = 1.0
    publish: Annotated[
        list[str],
        Field(
            description="Where signed heads go off this host: `https://HOST/PATH`, `file:/FOLDER`, "
            "`syslog://HOST:PORT`, `syslog`, `stdout`."
        ),
    ] = []
    retain: Retain = Retain()

    @field_validator("publish")
    @classmethod
    def _targets(cls, targets: list[str]) -> list[str]:
        if len(set(targets)) < len(targets):
            raise ValueError("each target is named once")
        return [checked(target) for target in targets]


class Egress(_Part):
    """Where the gateway itself may connect to."""

    networks: Annotated[
        list[str], Field(description="Networks (CIDR) that are not public and may be connected to all the same.")
    ] = []
    resolver: Annotated[
        str | None, Field(description="DNS server to ask, as address:port; the system's resolver when absent.")
    ] = None
    ca: Annotated[Path | None, Field(description="File of CA certificates to trust besides the system's.")] = None
    client_cert: Annotated[
        Path | None, Field(description="PEM file with the certificate and key that the gateway shows upstreams.")
    ] = None
    client_cert_hosts: Annotated[
        list[str], Field(description="Hosts that `egress.client_cert` is shown to; `*.` stands for any name below.")
    ] = []
    proxy: Annotated[str | None, Field(description="Forward proxy to go through by CONNECT, as http://HOST:PORT.")] = (
        None
    )
    proxy_resolves: Annotated[
        bool, Field(description="Leave names to the proxy. Which address they have is then checked by nobody here.")
    ] = False

    @field_validator("proxy")
    @classmethod
    def _http(cls, proxy: str | None) -> str | None:
        if proxy is not None and not proxy.startswith("http://"):
            raise ValueError("must be http://HOST:PORT")
        return proxy

    @model_validator(mode="after")
    def _known(self) -> Self:
        if (self.client_cert is None) != (not self.client_cert_hosts):
            raise ValueError("client_cert and client_cert_hosts go together")
        if self.proxy_resolves and self.proxy is None:
            raise ValueError("proxy_resolves goes with proxy")
        return self

    @field_validator("networks")
    @classmethod
    def _cidr(cls, networks: list[str]) -> list[str]:
        return [str(ipaddress.ip_network(network)) for network in networks]


class DockerSandboxes(_Part):
    """The containers of tools that run in one."""

    socket: Annotated[Path, Field(description="The Docker engine's socket, for a broker that the gateway starts.")] = (
        Path("/var/run/docker.sock")
    )
    broker: Annotated[
        Path | None, Field(description="Socket of a broker run by another user; the gateway starts one when absent.")
    ] = None
    runtime: Annotated[
        Literal["runc", "runsc", "kata"], Field(description="Runtime of every container; it must be registered.")
    ] = "runc"
    warm: Annotated[int, Field(ge=0, le=64, description="Containers that stand ready for each kind of job.")] = 1


class Sandboxes(_Part):
    """The sandboxes that code runs in."""

    workers: Annotated[int, Field(ge=1, le=64, description="WASM worker processes of each backend in use.")] = min(
        2, os.cpu_count() or 1
    )
    guests: Annotated[Path, Field(description="Folder of built guests, shared by all homes.")] = Path(
        "~/.cache/toolgate/guests"
    )
    docker: DockerSandboxes = DockerSandboxes()


class Asking(_Part):
    """How people are told that a call waits for them."""

    webhook: Annotated[
        str | None, Field(description="Where it is said that a call waits for a person: `https://HOST/PATH`.")
    ] = None
    secret: Annotated[
        str | None, Field(description="Where the key is that signs what is said there: `env:NAME` or `file:/PATH`.")
    ] = None

    @field_validator("webhook")
    @classmethod
    def _url(cls, webhook: str | None) -> str | None:
        return webhook if webhook is None else https(webhook)

    @field_validator("secret")
    @classmethod
    def _source(cls, secret: str | None) -> str | None:
        if secret is not None and not secret.startswith(("env:", "file:/")):
            raise ValueError("must be env:NAME or file:/PATH")
        return secret

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.webhook is None) != (self.secret is None):
            raise ValueError("webhook and secret go together")
        return self


class Settings(_Part):
    """All settings."""

    home: Annotated[Path, Field(description="Folder of keys, state and audit log; made with mode 0700.")] = Path(
        ".toolgate"
    )
    listen: Annotated[str, Field(description="Address and port to serve on; port 0 takes a free one.")] = (
        "127.0.0.1:8080"
    )
    hosts: Annotated[
        list[str], Field(description="Host names clients use to reach this server, besides the listening address.")
    ] = []
    workers: Annotated[int, Field(ge=1, le=1, description="Serving processes; more than one is not supported yet.")] = 1
    anonymous: Annotated[
        bool, Field(description="Serve callers without a key as agent `anonymous`; on a loopback address only.")
    ] = False
    specs: Annotated[Path | None, Field(description="Folder of tool specs; ./tool_specs or the starters.")] = None
    policies: Annotated[Path | None, Field(description="Folder of policies; ./policies or the starters.")] = None
    candidate: Annotated[
        Path | None, Field(description="Folder of policies that are decided and recorded beside, and not followed.")
    ] = None
    identity: Identity = Identity()
    providers: Annotated[
        dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")], ProviderShape],
        Field(description="Where tokens for backends come from, by name: a spec says `from: oauth:NAME`."),
    ] = {}
    vault: VaultServer = VaultServer()
    audit: Audit = Audit()
    egress: Egress = Egress()
    sandboxes: Sandboxes = Sandboxes()
    store: Annotated[
        str,
        Field(description="Where limits, claims and approvals are kept: `sqlite`, `memory` or `redis://HOST:PORT/N`."),
    ] = "sqlite"
    limits: Limits = Limits()
    approvals: Asking = Asking()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def site(self) -> str | None:
        """Where people's browsers find this server: scheme and host of `identity.resource`, else on this machine."""
        try:
            url = parse_url(https(self.identity.resource or ""))
        except ValueError:
            return f"http://{self.listen}" if self.on_loopback else None
        return f"{url.scheme}://{url.authority}"

    @property
    def connects(self) -> list[str]:
        """The providers where people connect accounts of their own."""
        return [name for name, shape in self.providers.items() if shape.grant == "connect"]

    @property
    def on_loopback(self) -> bool:
        """True when only this machine can connect."""
        host = self.address[0]
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def at(self, host: str, port: int) -> Settings:
        """The same settings on another address. Raises `BadSettings` where that would be unsafe."""
        moved = self.model_copy(update={"listen": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"})
        moved.check_safe()
        return moved

    def check_safe(self) -> None:
        """Raises `BadSettings` for a combination that must not be served."""
        if not 0 <= self.address[1] <= _MAX_PORT:
            raise BadSettings([f"listen: a port lies between 0 and {_MAX_PORT}, not {self.address[1]}"])
        if self.anonymous and not self.on_loopback:
            sentence = "anonymous: only on a loopback address; listen on 127.0.0.1, or make keys and leave it off"
            raise BadSettings([sentence])
        if self.connects and self.site is None:
            sentence = "people come here with a browser: set identity.resource to this server's https URL"
            raise BadSettings([f"providers.{self.connects[0]}: {sentence}"])

    @field_validator("store")
    @classmethod
    def _store(cls, store: str) -> str:
        if store not in ("sqlite", "memory") and not store.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must be sqlite, memory, or redis://HOST:PORT/N")
        return store

    @field_validator("listen")
    @classmethod
    def _address(cls, listen: str) -> str:
        host, _, port = listen.rpartition(":")
        if not host or not port.isdecimal() or int(port) > _MAX_PORT:
            raise ValueError("must be ADDRESS:PORT, for example 127.0.0.1:8080")
        return listen

    def folder(self, kind: str) -> Path:
        """The folder of `tool_specs` or `policies`: the one set, the one here, or the starters that ship with us."""
        chosen = self.specs if kind == "tool_specs" else self.policies
        candidates = [Path(kind), STARTER / kind, _CHECKOUT / kind]
        return chosen or next((folder for folder in candidates if folder.is_dir()), candidates[0])


class BadSettings(Exception):
    """A setting that cannot be used; each finding is a sentence."""

    def __init__(self, findings: list[str]) -> None:
        super().__init__("\n".join(findings))
        self.findings = findings


def load_settings(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
    """Settings from flags over environment over file. Raises `BadSettings` with every finding."""
    tree: dict[str, Any] = {}
    try:
        if file is not None:
            _merge(tree, _mapping(load(file.read_bytes(), str(file)).value))
        for name, text in sorted(environ.items()):
            if name.startswith(_PREFIX) and name not in _NOT_SETTINGS:
                _put(tree, _path(name), load(text.encode(), name).value)
    except SpecError as error:
        raise BadSettings([str(error)]) from error
    except OSError as error:
        raise BadSettings([f"{file}: cannot be read: {error.strerror}"]) from error
    for dotted, value in flags.items():
        if value is not None:
            _put(tree, dotted.split("."), value)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise BadSettings([_finding(dict(item)) for item in error.errors()]) from error
    settings.check_safe()
    return settings


def _path(name: str) -> list[str]:
    short = {"TOOLGATE_GUESTS": "sandboxes.guests"}.get(name)
    return short.split(".") if short else name[len(_PREFIX) :].lower().split("__")


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"settings file": value}


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def _finding(item: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in item["loc"] if part != "[key]")
    if item["type"] == "extra_forbidden":
        return f"{where}: there is no such setting: {nearest(where, _names(Settings))}"
    said = str(item["ctx"]["error"]) if item["type"] == "value_error" else str(item["msg"])
    return f"{where}: {said[:1].lower()}{said[1:]}, not {item['input']!r}"


def _names(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting by its dotted name."""
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _names(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
