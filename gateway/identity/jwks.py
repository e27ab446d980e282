"""The public keys of an issuer: a JWK set (RFC 7517) that an operator named by URL or file, fetched and kept.

It fetches nothing but that place, and never because of what a token says: a token's unknown `kid` asks the same place
again, rarely. It takes no key that could also sign, and checks no signature.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gateway import strictjson
from gateway.allow import Allow
from gateway.model import Failure, Refusal
from gateway.runners.message import Answer, Ask
from gateway.urls import parse_url

MAX_BYTES = 64 * 1024
MAX_KEYS = 50
MAX_KID = 128  # characters
FRESH = 600.0  # seconds a set is used without asking again
STALE = 3600.0  # seconds since the last good fetch for which a set is used while its place does not answer
PAUSE = 30.0  # seconds between two fetches, whatever asks for them
_RETRY = 5.0  # seconds until a place is asked again that gave nothing, while there is no set to go by
_UNKNOWN = 120.0  # seconds a kid that was not in a fresh set is not asked for again
_MAX_UNKNOWN = 1000
_PATIENCE = 5.0  # seconds for one fetch
_RSA_BITS = range(2048, 8193)
_EXPONENT_BITS = 33
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
# Members that make up the key, and the algorithms it may be used for, by type and curve.
_MEMBERS = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y"), "OKP": ("kty", "crv", "x")}
_FITS = {
    ("RSA", None): frozenset({"RS256", "PS256"}),
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
}
Load = Callable[[], Awaitable[bytes]]


class Client(Protocol):
    """The one outbound client (`runners/net.py`)."""

    async def request(self, ask: Ask) -> Answer: ...


class NoKeys(Exception):
    """The set cannot be had, or is none. The text says why, without quoting what came."""


@dataclass(frozen=True, slots=True)
class Jwk:
    """A public key: the members that make it up, and nothing else of what its issuer wrote."""

    members: tuple[tuple[str, str], ...]


Keys = Mapping[tuple[str, str], Jwk]  # by kid and algorithm


class KeySet:
    """The keys of one issuer, kept for `FRESH` seconds. `load` gives the bytes of the set, or raises `NoKeys`.

    However many ask at once, one fetch runs; and there are `PAUSE` seconds between two. A key that is not in the next
    set is gone. While the place does not answer, the last set is used until it is `STALE`.
    """

    def __init__(
        self, load: Load, algorithms: frozenset[str], monotonic: Callable[[], float], *, use: str = "sig"
    ) -> None:
        self._load, self._algorithms, self._monotonic, self._use = load, algorithms, monotonic, use
        self._keys: Keys = {}
        self._fetched_at = float("-inf")
        self._next_try = float("-inf")
        self._unknown: dict[str, float] = {}  # kid → until when it is not asked for again
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str, algorithm: str) -> Jwk | None:
        """The key of that id for that algorithm. Raises `NoKeys` when there is no set to look in."""
        if self._age() >= FRESH:
            await self._refresh()
        if self._age() >= STALE:
            raise NoKeys("The keys of its issuer cannot be had at the moment.")
        found = self._keys.get((kid, algorithm))
        if found is None and self._unknown.get(kid, float("-inf")) <= self._monotonic():
            before = self._fetched_at
            await self._refresh()
            found = self._keys.get((kid, algorithm))
            if found is None and self._fetched_at > before:
                self._note_unknown(kid)
        return found

    def _age(self) -> float:
        return self._monotonic() - self._fetched_at

    async def _refresh(self) -> None:
        """Fetches, unless it is too early; whoever comes meanwhile waits for the same fetch."""
        if self._fetching is None:
            if self._monotonic() < self._next_try:
                return
            self._fetching = asyncio.create_task(self._fetch())
        await asyncio.shield(self._fetching)  # one who goes away does not end it for the others

    async def _fetch(self) -> None:
        try:
            self._keys = dict(read_keys(await self._load(), self._algorithms, self._use))
            self._fetched_at = self._monotonic()
            self._unknown.clear()
        except NoKeys:
            pass  # the last set stays; how old it may be is for `find` to say
        finally:
            self._next_try = self._monotonic() + (PAUSE if self._age() < STALE else _RETRY)
            self._fetching = None

    def _note_unknown(self, kid: str) -> None:
        if len(self._unknown) >= _MAX_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[kid] = self._monotonic() + _UNKNOWN


def loader(place: str, client: Client, monotonic: Callable[[], float]) -> Load:
    """How the set at `place` is loaded: an https URL (or http to this machine), or `file:PATH`."""
    if place.startswith("file:"):
        path = Path(place.removeprefix("file:"))
        return lambda: asyncio.to_thread(_read, path)
    url = parse_url(place)
    only = Allow("GET", url.scheme, url.host, url.port, tuple(url.path.split("/")), address=url.address)

    async def fetch() -> bytes:
        ask = Ask("GET", url, (only,), monotonic() + _PATIENCE, (("accept", "application/json"),), max_bytes=MAX_BYTES)
        try:
            answer = await client.request(ask)
        except (Refusal, Failure) as error:
            raise NoKeys(error.problem.detail) from None
        if answer.status != 200:
            raise NoKeys(f"The set was answered with status {answer.status}.")
        return answer.body

    return fetch


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise NoKeys(f"The file cannot be read: {error.strerror}.") from None


def read_keys(raw: bytes, algorithms: frozenset[str], use: str = "sig") -> Iterator[tuple[tuple[str, str], Jwk]]:
    """The keys of a JWK set that may check signatures by `algorithms`, each under its id and algorithm.

    What is no such key is left out: symmetric or private ones, those for another use, weak ones, those without an id.
    Of two under one id, the first counts. Raises `NoKeys` for what is no JWK set, or one of more than `MAX_KEYS`.
    """
    try:
        said = strictjson.loads(raw, max_bytes=MAX_BYTES, max_depth=8)
    except ValueError as error:
        raise NoKeys(f"The set is not strict JSON: {error}.") from None
    entries = said.get("keys") if isinstance(said, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise NoKeys(f"This is no JWK set of at most {MAX_KEYS} keys.")
    found: dict[tuple[str, str], Jwk] = {}
    for entry in entries:
        if isinstance(entry, dict) and _may_check(entry, use):
            for algorithm in _algorithms(entry) & algorithms:
                found.setdefault((entry["kid"], algorithm), _public(entry))
    return iter(found.items())


def _may_check(entry: Mapping[str, object], use: str) -> bool:
    """Is this the public half of a key for signatures, with an id?"""
    kid, operations = entry.get("kid"), entry.get("key_ops", ["verify"])
    return (
        isinstance(kid, str)
        and 0 < len(kid) <= MAX_KID
        and _PRIVATE.isdisjoint(entry)
        and entry.get("use", use) in (use, "sig")
        and isinstance(operations, list)
        and "verify" in operations
    )


def _algorithms(entry: Mapping[str, object]) -> frozenset[str]:
    """What the key may be used for; nothing when it is weak, or its members are not what its type needs."""
    kind, curve = entry.get("kty"), entry.get("crv")
    names = _MEMBERS.get(kind, ()) if isinstance(kind, str) else ()
    if not names or not all(isinstance(entry.get(name), str) for name in names):
        return frozenset()
    fits = _FITS.get((str(kind), None if kind == "RSA" else str(curve)), frozenset())
    if kind == "RSA" and not (_bits(entry["n"]) in _RSA_BITS and 2 <= _bits(entry["e"]) <= _EXPONENT_BITS):
        return frozenset()
    stated = entry.get("alg")
    return fits if stated is None else frozenset(name for name in fits if name == stated)


def _bits(text: object) -> int:
    """Bits of a number in base64url; 0 when it is none."""
    try:
        raw = str(text).encode("ascii")
        return int.from_bytes(base64.b64decode(raw + b"=" * (-len(raw) % 4), b"-_", validate=True)).bit_length()
    except ValueError:
        return 0


def _public(entry: Mapping[str, object]) -> Jwk:
    return Jwk(tuple((name, str(entry[name])) for name in _MEMBERS[str(entry["kty"])]))
