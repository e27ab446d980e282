"""Content: arguments and results, sealed under the session's key so that deleting that key erases them.

A record's own key is HMAC-SHA-256(session key, shard and seq), the cipher AES-256-GCM with a random nonce, and the
associated data binds call, shard, seq and type: a box moved to another record does not open. Bodies above `INLINE`
bytes stand in `HOME/audit/blobs`, named by the SHA-256 of the sealed bytes, each under a key made of its call and type.
It never decides what is content.
"""

from __future__ import annotations

import asyncio
import json
import os
from base64 import b64decode
from binascii import b2a_base64
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import cast

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.audit.disk import Disk, replace_file
from gateway.audit.keystore import KeyStore
from gateway.tool import Json

INLINE = 64 * 1024
_CACHED = 10_000
_ERASED = "its session key was erased"
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19
_INNER, _OUTER = (bytes(octet ^ pad for octet in range(256)) for pad in (0x36, 0x5C))  # of HMAC


class Unreadable(Exception):
    """Content that cannot be read: erased, taken away, or not what was sealed. The message says which."""


class Contents:
    """Seals content for the writer and opens it for readers; caches the keys of sessions in use."""

    def __init__(self, keys: KeyStore, audit: Path, disk: Disk) -> None:
        """`audit` is the folder `HOME/audit`."""
        self._keys = keys
        self._blobs = audit / "blobs"
        self._disk = disk
        self._sessions: dict[str, Mac] = {}
        self._tenants: dict[str, Mac] = {}
        self._erasures = 0

    def cached(self, session: str) -> Mac | None:
        """The session's key, if it is in memory."""
        return self._sessions.get(session)

    async def ensure(self, session: str, tenant: str) -> Mac:
        """The session's key, durable before this returns. Raises `sqlite3.Error` or `OSError`."""
        before = -1
        while before != self._erasures:  # a key that was deleted while it was fetched is not kept
            before = self._erasures
            key = Mac(await asyncio.to_thread(self._keys.session_key, session, tenant))
        if len(self._sessions) >= _CACHED:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[session] = key
        return key

    async def erase(self, sessions: Collection[str], tenant: str | None = None) -> set[str]:
        """Deletes the keys of sessions, here and in the store, and all of a tenant's with its own.

        Gives the sessions that had a key. One that goes on gets another. Raises `sqlite3.Error` or `OSError`; when that
        was because others read the database, the keys are deleted and erasing again empties its log.
        """
        gone = await asyncio.to_thread(self._keys.erase, sessions, tenant)
        self._erasures += 1
        for session in gone:
            self._sessions.pop(session, None)
        if tenant is not None:
            self._tenants.pop(tenant, None)
        await asyncio.to_thread(self._keys.scrub)
        return gone

    def made_before(self, at: float) -> set[str]:
        """The sessions with a key from before then (unix seconds). Raises `sqlite3.Error`."""
        return self._keys.made_before(at)

    def drop_blob(self, record: Mapping[str, Json]) -> bool:
        """Removes the blob of a record that cannot be read any more; False when there is none. Raises `OSError`."""
        content = record.get("content")
        if not isinstance(content, dict) or "blob" not in content:
            return False
        path = self._blobs / str(content["blob"])
        try:
            self.open(record)
        except Unreadable:
            if not path.exists():
                return False
            self._disk.unlink(path)
            return True
        return False

    def close(self) -> None:
        """Closes the key store; sessions whose keys are in memory can still be sealed for."""
        self._keys.close()

    def digest(self, tenant: str, octets: bytes) -> str:
        """HMAC-SHA-256 in hex, under a key derived from the tenant's. The first use of a tenant commits its key."""
        key = self._tenants.get(tenant)
        if key is None:
            key = self._tenants[tenant] = Mac(Mac(self._keys.tenant_key(tenant))(b"digest"))
        return key(octets).hex()

    async def store_blob(self, key: Mac, call_id: str, type_: str, plain: bytes) -> str:
        """Seals a large body into a file; returns its name. It is durable before this returns."""
        return await asyncio.to_thread(self._store_blob, key, call_id, type_, plain)

    def _store_blob(self, key: Mac, call_id: str, type_: str, plain: bytes) -> str:
        place = _bound("blob", call_id, type_)
        sealed = _encrypt(key(place), place, plain)
        name = sha256(sealed).hexdigest()
        self._blobs.mkdir(mode=0o700, exist_ok=True)
        replace_file(self._disk, self._blobs / name, sealed)
        self._disk.sync_folder(self._blobs)
        return name

    async def seal_words(self, session: str, tenant: str, words: str) -> bytes:
        """What a person said, for a store beside the log: erased with the session's content.

        Raises `sqlite3.Error` or `OSError` where the key cannot be made durable.
        """
        key = self.cached(session) or await self.ensure(session, tenant)
        return _encrypt(key(b"words"), _bound("words", session), words.encode(errors="surrogatepass"))

    def open_words(self, session: str, box: bytes) -> str | None:
        """What `seal_words` sealed; None once that was erased, or where it is not that."""
        key = self._keys.find_session(session)
        if key is None:
            return None
        try:
            return _decrypt(Mac(key)(b"words"), _bound("words", session), box).decode(errors="surrogatepass")
        except (InvalidTag, ValueError):
            return None

    def open(self, record: Mapping[str, Json]) -> Json:
        """The content of a record as it is in the log, decrypted; `None` when it has none. Raises `Unreadable`."""
        content = record.get("content")
        if not isinstance(content, dict):
            return None
        session = str(content["key"])
        try:
            return decode(self._opened(self._found(session), content, record))
        except InvalidTag:
            why = "it does not open with its session's key"
        except FileNotFoundError:
            why = "its blob is not there any more"
        raise Unreadable(_ERASED if self._keys.was_erased(session) else why)

    def find(self, session: str) -> Mac | None:
        """The session's key as it is in the store now; None when there is none."""
        key = self._keys.find_session(session)
        return None if key is None else Mac(key)

    def reveal(self, record: Mapping[str, Json]) -> tuple[bytes, bytes | None]:
        """The key that opens the content of this record and nothing else, and its blob as it is kept, if that is where
        it stands. Raises `Unreadable`, also for a blob that shares its key."""
        content = record.get("content")
        if not isinstance(content, dict):
            raise Unreadable("it has no content")
        self.open(record)  # a key that does not open it is not handed out
        session = self._found(str(content["key"]))
        if "blob" not in content:
            return record_key(session, str(record["shard"]), int(str(record["seq"]))), None
        place, sealed = _bound("blob", str(record.get("call_id", "")), str(record["type"])), self._blob(content)
        key = session(place)
        try:
            _decrypt(key, place, sealed)
        except InvalidTag:
            raise Unreadable("its blob is from when all blobs of a session had one key, which opens them all") from None
        return key, sealed

    def _found(self, session: str) -> Mac:
        try:
            key = self.find(session)
        except InvalidTag:
            raise Unreadable("master.key does not open its session's key") from None
        if key is None:
            raise Unreadable(_ERASED)
        return key

    def _blob(self, content: Mapping[str, Json]) -> bytes:
        return (self._blobs / str(content["blob"])).read_bytes()

    def _opened(self, key: Mac, content: Mapping[str, Json], record: Mapping[str, Json]) -> bytes:
        call_id, type_ = str(record.get("call_id", "")), str(record["type"])
        if "blob" in content:
            place, sealed = _bound("blob", call_id, type_), self._blob(content)
            try:
                return _decrypt(key(place), place, sealed)
            except InvalidTag:  # as blobs were sealed before each had a key of its own
                return _decrypt(key(b"blob"), place, sealed)
        shard, seq = str(record["shard"]), int(str(record["seq"]))
        place = _bound(shard, str(seq), call_id, type_)
        return _decrypt(record_key(key, shard, seq), place, b64decode(str(content["box"])))


def record_key(session: Mac, shard: str, seq: int) -> bytes:
    """The key of one record: handing it over reveals that record and no other."""
    return session(b"record %b %d" % (shard.encode(), seq))


class Mac:
    """HMAC-SHA-256 (RFC 2104) under one 32-byte key, both hashes begun once.

    Written out because `hmac.digest` gives up the interpreter lock, which costs a thread switch per record.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = key.ljust(64, b"\x00")
        self._inner = sha256(block.translate(_INNER))
        self._outer = sha256(block.translate(_OUTER))

    def __call__(self, message: bytes) -> bytes:
        """The code of one message: 32 bytes."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


class Nonces:
    """Random 12-byte nonces, drawn from the kernel many at a time: one system call each would cost more than AES."""

    def __init__(self) -> None:
        self._pool = b""
        self._next = 0

    def new(self) -> bytes:
        """A nonce that was never given before."""
        if self._next == len(self._pool):
            self._pool, self._next = os.urandom(12 * 256), 0
        self._next += 12
        return self._pool[self._next - 12 : self._next]


def seal(session: Mac, shard: str, seq: int, call_id: str, type_: str, plain: bytes, nonce: bytes) -> bytes:
    """The box of one record, in base64: nonce, ciphertext, tag.

    `nonce` is random because a `seq` is used again after a failed write, with other content.
    """
    place = _bound(shard, str(seq), call_id, type_)
    sealed = AESGCM(record_key(session, shard, seq)).encrypt(nonce, plain, place)
    return b2a_base64(nonce + sealed, newline=False)


def encode(value: Json) -> bytes:
    """JSON in UTF-8 without spaces; our frozen dataclasses are objects, sets are sorted arrays.

    Integers beyond 64 bits and lone surrogates are kept (as ASCII escapes).
    """
    try:
        return orjson.dumps(value, default=_plain)
    except TypeError:
        return json.dumps(value, default=_plain, separators=(",", ":"), allow_nan=False).encode()


def decode(octets: bytes) -> Json:
    """What `encode` wrote: the same values, of the same types."""
    if _LONG_NUMBER in octets.translate(_DIGITS):  # orjson makes a double of an integer beyond 64 bits
        return cast(Json, json.loads(octets))
    try:
        return cast(Json, orjson.loads(octets))
    except ValueError:  # it takes no lone surrogates
        return cast(Json, json.loads(octets))


def _plain(value: object) -> object:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(f"{type(value).__name__} is not JSON")


def _bound(*parts: str) -> bytes:
    return "\x1f".join(parts).encode(errors="surrogatepass")


def _encrypt(key: bytes, place: bytes, plain: bytes) -> bytes:
    nonce = os.urandom(12)
    return nonce + AESGCM(key).encrypt(nonce, plain, place)


def _decrypt(key: bytes, place: bytes, sealed: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[:12], sealed[12:], place)
