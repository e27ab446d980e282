"""Content: arguments and results, sealed under the session's key so that deleting that key erases them.

A record's own key is HMAC-SHA-256(session key, shard and seq), the cipher AES-256-GCM with a random nonce, and the
associated data binds call, shard, seq and type: a box moved to another record does not open. Bodies above `INLINE`
bytes stand in `HOME/audit/blobs`, named by the SHA-256 of the sealed bytes. It never decides what is content.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping
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


class Unreadable(Exception):
    """Content that cannot be read: erased, taken away, or not what was sealed. The message says which."""


class Contents:
    """Seals content for the writer and opens it for readers; caches the keys of sessions in use."""

    def __init__(self, keys: KeyStore, audit: Path, disk: Disk) -> None:
        """`audit` is the folder `HOME/audit`."""
        self._keys = keys
        self._blobs = audit / "blobs"
        self._disk = disk
        self._sessions: dict[str, bytes] = {}
        self._tenants: dict[str, bytes] = {}

    def cached(self, session: str) -> bytes | None:
        """The session's key, if it is in memory."""
        return self._sessions.get(session)

    async def ensure(self, session: str, tenant: str) -> bytes:
        """The session's key, durable before this returns. Raises `sqlite3.Error` or `OSError`."""
        key = await asyncio.to_thread(self._keys.session_key, session, tenant)
        if len(self._sessions) >= _CACHED:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[session] = key
        return key

    def erase(self, session: str) -> bool:
        """Deletes the session's key here and in the store."""
        self._sessions.pop(session, None)
        return self._keys.erase_session(session)

    def digest(self, tenant: str, octets: bytes) -> str:
        """HMAC-SHA-256 in hex, under a key derived from the tenant's. The first use of a tenant commits its key."""
        key = self._tenants.get(tenant)
        if key is None:
            key = hmac.digest(self._keys.tenant_key(tenant), b"digest", "sha256")
            self._tenants[tenant] = key
        return hmac.digest(key, octets, "sha256").hex()

    async def store_blob(self, key: bytes, call_id: str, type_: str, plain: bytes) -> str:
        """Seals a large body into a file; returns its name. It is durable before this returns."""
        return await asyncio.to_thread(self._store_blob, key, call_id, type_, plain)

    def _store_blob(self, key: bytes, call_id: str, type_: str, plain: bytes) -> str:
        sealed = _encrypt(hmac.digest(key, b"blob", "sha256"), _bound("blob", call_id, type_), plain)
        name = sha256(sealed).hexdigest()
        self._blobs.mkdir(exist_ok=True)
        replace_file(self._disk, self._blobs / name, sealed)
        self._disk.sync_folder(self._blobs)
        return name

    def open(self, record: Mapping[str, Json]) -> Json:
        """The content of a record as it is in the log, decrypted; `None` when it has none. Raises `Unreadable`."""
        content = record.get("content")
        if not isinstance(content, dict):
            return None
        session = str(content["key"])
        key = self._sessions.get(session) or self._keys.find_session(session)
        if key is None:
            raise Unreadable("its session key was erased")
        try:
            return cast(Json, json.loads(self._opened(key, content, record)))
        except InvalidTag:
            raise Unreadable("it does not open with its session's key") from None

    def _opened(self, key: bytes, content: Mapping[str, Json], record: Mapping[str, Json]) -> bytes:
        call_id, type_ = str(record.get("call_id", "")), str(record["type"])
        if "blob" in content:
            try:
                sealed = (self._blobs / str(content["blob"])).read_bytes()
            except FileNotFoundError:
                raise Unreadable("its blob is not there any more") from None
            return _decrypt(hmac.digest(key, b"blob", "sha256"), _bound("blob", call_id, type_), sealed)
        shard, seq = str(record["shard"]), int(str(record["seq"]))
        place = _bound(shard, seq, call_id, type_)
        return _decrypt(record_key(key, shard, seq), place, b64decode(str(content["box"])))


def record_key(session_key: bytes, shard: str, seq: int) -> bytes:
    """The key of one record: handing it over reveals that record and no other."""
    return hmac.digest(session_key, b"record %b %d" % (shard.encode(), seq), "sha256")


def seal(session_key: bytes, shard: str, seq: int, call_id: str, type_: str, plain: bytes) -> bytes:
    """The box of one record, in base64: nonce, ciphertext, tag.

    The nonce is random because a `seq` is used again after a failed write, with other content.
    """
    place = _bound(shard, seq, call_id, type_)
    return b64encode(_encrypt(record_key(session_key, shard, seq), place, plain))


def encode(value: Json) -> bytes:
    """JSON in UTF-8 without spaces. Integers beyond 64 bits and lone surrogates are kept (as ASCII escapes)."""
    try:
        return orjson.dumps(value, default=_plain)
    except TypeError:
        return json.dumps(value, default=_plain, separators=(",", ":"), allow_nan=False).encode()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _bound(*parts: str | int) -> bytes:
    return "\x1f".join(map(str, parts)).encode(errors="surrogatepass")


def _encrypt(key: bytes, place: bytes, plain: bytes) -> bytes:
    nonce = os.urandom(12)
    return nonce + AESGCM(key).encrypt(nonce, plain, place)


def _decrypt(key: bytes, place: bytes, sealed: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[:12], sealed[12:], place)
