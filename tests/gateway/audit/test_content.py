"""Content is sealed, bound to its record, erasable; keys are kept wrapped; digests are keyed."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import stat
from collections.abc import Coroutine
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.content import INLINE, Contents, Mac, Nonces, Unreadable, decode, encode
from gateway.audit.disk import OsDisk
from gateway.audit.glance import glance
from gateway.audit.keyfile import secret_file
from gateway.audit.keystore import KeyStore, master_key
from gateway.audit.ledger import open_ledger
from gateway.audit.query import find_call, records, show
from gateway.audit.verify import segments
from gateway.audit.writer import Writer
from gateway.model import Refusal
from gateway.ports import Line
from tests.gateway.audit.disks import SMALL, code_of, intent, ledger, one, outcome, verified

SECRET = "the argument nobody may read"


def run(test: Coroutine[Any, Any, None]) -> None:
    """Runs a test on an event loop of its own."""
    asyncio.run(test)


async def _write(writer: Writer, call_id: str, session: str = "s1", text: str = SECRET) -> None:
    await writer.append(Line("call.intent", {"call_id": call_id}, {"text": text}, session, "t1"))


def test_content_is_on_disk_only_sealed(tmp_path: Path) -> None:
    """No file under the home holds the plain content, and `show` gives it back."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            await _write(writer, "c1")
            await _write(writer, "c2", text=SECRET + "x" * INLINE)

    run(test())
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()
    assert [shown.content for shown in show(tmp_path, "c1")] == [{"text": SECRET}]
    assert [shown.content for shown in show(tmp_path, "c2")] == [{"text": SECRET + "x" * INLINE}]


@pytest.mark.parametrize("field", ["call_id", "shard", "seq", "type"])
def test_a_box_is_bound_to_its_record(tmp_path: Path, field: str) -> None:
    """A box moved to another call, shard, seq or type does not open."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            await _write(writer, "c1")
            record = find_call(tmp_path, "c1")[0]
            assert writer.contents.open(record) == {"text": SECRET}
            with pytest.raises(Unreadable, match="does not open"):
                writer.contents.open({**record, field: 7 if field == "seq" else "other"})

    run(test())


def test_erasing_a_session_leaves_a_log_that_verifies(tmp_path: Path) -> None:
    """Once a session's key is deleted its content is gone for good, another session's is not, and the proof stands."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            await _write(writer, "gone", "s1")
            await _write(writer, "big", "s1", "x" * (INLINE + 1))
            await _write(writer, "kept", "s2")
            assert await writer.contents.erase(["s1"]) == {"s1"}
            assert await writer.contents.erase(["s1"]) == set()

    run(test())
    for call_id in ("gone", "big"):
        (erased,) = show(tmp_path, call_id)
        assert (erased.content, erased.unreadable) == (None, "its session key was erased")
    assert show(tmp_path, "kept")[0].content == {"text": SECRET}
    verified(tmp_path)


def test_an_erased_key_is_in_no_file(tmp_path: Path) -> None:
    """The wrapped key of an erased session is neither in the database nor in its write-ahead log."""
    store = KeyStore(tmp_path / "state.db", bytes(32))
    store.session_key("s1", "t1")
    row = store._db.execute("SELECT wrapped FROM audit_session_keys").fetchone()[0]
    assert any(row in path.read_bytes() for path in tmp_path.glob("state.db*"))
    assert store.erase(["s1", "unknown"]) == {"s1"}
    store.scrub()
    assert not any(row in path.read_bytes() for path in tmp_path.glob("state.db*"))
    store.close()


class SlowKeys(KeyStore):
    """A key store that gives a session's key only when told to, though it read it at once."""

    def __init__(self, database: Path) -> None:
        super().__init__(database, bytes(32))
        self.read, self.give = Event(), Event()

    def session_key(self, session: str, tenant: str) -> bytes:
        key = super().session_key(session, tenant)
        self.read.set()
        assert self.give.wait(20)
        return key


def test_a_key_that_is_erased_while_it_is_fetched_is_not_used(tmp_path: Path) -> None:
    """Else what is said from then on would be sealed under a key that nobody has any more."""
    keys = SlowKeys(tmp_path / "state.db")
    contents = Contents(keys, tmp_path / "audit", OsDisk())

    async def test() -> Mac:
        fetched = asyncio.create_task(contents.ensure("s1", "t1"))
        assert await asyncio.to_thread(keys.read.wait, 20)
        assert await contents.erase(["s1"]) == {"s1"}
        keys.give.set()
        return await fetched

    kept = asyncio.run(test())
    there = keys.find_session("s1")
    assert there is not None
    assert contents.cached("s1") is kept
    assert kept(b"") == Mac(there)(b"")
    keys.close()


def test_a_key_that_a_reader_keeps_on_disk_is_said_to_be_there(tmp_path: Path) -> None:
    """It is deleted, but while somebody reads the database its log cannot be emptied; afterwards it can."""
    store = KeyStore(tmp_path / "state.db", bytes(32))
    store._db.execute("PRAGMA busy_timeout=10")
    store.session_key("s1", "t1")
    row = store._db.execute("SELECT wrapped FROM audit_session_keys").fetchone()[0]
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM audit_session_keys").fetchall()
        assert store.erase(["s1"]) == {"s1"}
        with pytest.raises(sqlite3.OperationalError, match="is being read"):
            store.scrub()
        assert store.find_session("s1") is None
    store.scrub()
    assert not any(row in path.read_bytes() for path in tmp_path.glob("state.db*"))
    store.close()


def test_a_session_after_erasure_gets_another_key(tmp_path: Path) -> None:
    """Records of the same session written later are readable; the erased ones stay so, and are said to be erased."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            await _write(writer, "before")
            await writer.contents.erase(["s1"])
            await _write(writer, "after")

    run(test())
    assert show(tmp_path, "before")[0].unreadable == "its session key was erased"
    assert show(tmp_path, "after")[0].content == {"text": SECRET}


def test_keys_survive_a_restart_and_need_the_master_key(tmp_path: Path) -> None:
    """The same session keeps its key over restarts; another master key opens nothing."""
    store = KeyStore(tmp_path / "state.db", master_key(tmp_path))
    key = store.session_key("s1", "t1")
    assert store.session_key("s1", "t1") == key != store.session_key("s2", "t1")
    store.close()
    again = KeyStore(tmp_path / "state.db", master_key(tmp_path))
    assert again.find_session("s1") == key
    assert again.find_session("s3") is None
    assert key not in (tmp_path / "state.db").read_bytes()
    again.close()
    other = KeyStore(tmp_path / "state.db", bytes(32))
    with pytest.raises(InvalidTag):
        other.find_session("s1")
    other.close()


def test_a_glance_opens_what_show_opens(tmp_path: Path) -> None:
    """Records of two sessions, by turns, one of them erased; with another master key none, and each says so."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            for number in range(6):
                await _write(writer, f"c{number}", f"s{number % 2}", f"{SECRET} {number}")
            await writer.contents.erase(["s1"])

    run(test())
    intents = [record for record in records(tmp_path) if record["type"] == "call.intent"]
    with glance(tmp_path) as contents:
        assert [_seen(contents, record) for record in intents] == [
            f"{SECRET} 0", "its session key was erased",
            f"{SECRET} 2", "its session key was erased",
            f"{SECRET} 4", "its session key was erased",
        ]  # fmt: skip
    (tmp_path / "master.key").write_bytes(bytes(32))
    with glance(tmp_path) as contents:
        assert {_seen(contents, record) for record in intents} == {
            "master.key does not open its session's key", "its session key was erased"
        }  # fmt: skip


def _seen(contents: Contents, record: dict[str, Any]) -> str:
    try:
        found: Any = contents.open(record)
    except Unreadable as why:
        return str(why)
    return str(found["text"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)  # fmt: skip


@given(JSON)
def test_what_is_encoded_is_decoded_the_same(value: Any) -> None:
    """Of the same types: integers beyond 64 bits, lone surrogates and long strings of digits too."""
    assert repr(decode(encode(value))) == repr(value)
    assert decode(encode("7" * 30)) == "7" * 30


def test_a_new_sessions_key_is_durable_before_its_first_line(tmp_path: Path) -> None:
    """With the key store broken, a line of a known session is written and one of a new session is refused."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            await _write(writer, "c1", "s1")
            writer.contents._keys.close()
            await _write(writer, "c2", "s1")
            new = Line("call.intent", {"call_id": "c3"}, {"text": ""}, "s2", "t1")
            assert await code_of(writer, new) == "audit_unavailable"
            with pytest.raises(Refusal, match="audit_unavailable"):
                writer.digest("t2", b"x")

    run(test())
    assert {"c1", "c2"} == {record["call_id"] for record in records(tmp_path) if "call_id" in record}


def test_many_callers_of_new_sessions_stay_in_order(tmp_path: Path) -> None:
    """Sessions that begin all at once each get a key, and every record opens."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            await asyncio.gather(*(_write(writer, f"c{n}", f"s{n % 8}", str(n)) for n in range(64)))

    run(test())
    assert all(show(tmp_path, f"c{n}")[0].content == {"text": str(n)} for n in (0, 7, 31, 63))
    verified(tmp_path)


def test_a_large_body_is_a_blob_the_record_commits_to(tmp_path: Path) -> None:
    """Content above the inline size stands in one file named by the hash of its sealed bytes."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            await _write(writer, "big", text="y" * (INLINE + 1))
            content: Any = find_call(tmp_path, "big")[0]["content"]
            assert set(content) == {"key", "blob", "bytes"}
            sealed = (tmp_path / "audit" / "blobs" / content["blob"]).read_bytes()
            assert sha256(sealed).hexdigest() == content["blob"]

    run(test())
    (tmp_path / "audit" / "blobs" / str(_blob_name(tmp_path))).unlink()
    assert show(tmp_path, "big")[0].unreadable == "its blob is not there any more"


def _blob_name(home: Path) -> str:
    return next((home / "audit" / "blobs").iterdir()).name


def test_content_without_a_session_is_an_error(tmp_path: Path) -> None:
    """Content that no key could be found for is never written."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            with pytest.raises(ValueError, match="session"):
                await writer.append(Line("call.intent", {"call_id": "c1"}, {"text": ""}))

    run(test())
    assert find_call(tmp_path, "c1") == []


def test_digests_are_keyed_by_tenant_and_survive_a_restart(tmp_path: Path) -> None:
    """Equal values have equal digests within a tenant, over restarts too; across tenants, and unkeyed, they differ."""
    seen: list[str] = []

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            seen.extend(writer.digest(tenant, b"value") for tenant in ("t1", "t2", "t1"))

    run(test())
    run(test())
    assert seen[0] == seen[2] == seen[3]
    assert len(set(seen)) == 2
    assert sha256(b"value").hexdigest() not in seen
    assert all(len(digest) == 64 for digest in seen)


def test_mac_is_hmac_sha256_of_the_rfc() -> None:
    """Test case 2 of RFC 4231 (a key shorter than a block)."""
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert Mac(b"Jefe")(b"what do ya want for nothing?").hex() == expected


def test_nonces_do_not_repeat() -> None:
    """Ten thousand nonces, twelve bytes each, all different."""
    nonces = Nonces()
    drawn = {nonces.new() for _ in range(10_000)}
    assert len(drawn) == 10_000
    assert {len(nonce) for nonce in drawn} == {12}


def test_secret_files_are_private_and_made_once(tmp_path: Path) -> None:
    """Key files are 0600 and keep what they were first given; one that others may read is refused."""
    path = tmp_path / "secret"
    assert secret_file(path, lambda: b"first") == secret_file(path, lambda: b"second") == b"first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]
    path.chmod(0o644)
    with pytest.raises(PermissionError, match="chmod 600"):
        secret_file(path, lambda: b"third")


def test_a_master_key_of_another_size_is_refused(tmp_path: Path) -> None:
    """A file that is not 32 bytes is no master key, and the ledger does not open with it."""
    path = tmp_path / "master.key"
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(ValueError, match="32 bytes"):
        open_ledger(tmp_path, tuning=SMALL)


def test_no_key_is_in_the_log(tmp_path: Path) -> None:
    """Neither the master key nor a session's key nor the signing key is in any file of the audit folder."""

    async def test() -> None:
        async with ledger(tmp_path) as writer:
            await writer.append(intent("c1"))
            await writer.append(outcome("c1"))

    run(test())
    store = KeyStore(tmp_path / "state.db", master_key(tmp_path))
    session = store.find_session("s1")
    assert session is not None
    signing = (tmp_path / "signing.key").read_bytes().split(b"\n")[1]
    for path in (tmp_path / "audit").rglob("*"):
        octets = path.read_bytes() if path.is_file() else b""
        for key in (master_key(tmp_path), session, signing):
            assert key not in octets
            assert key.hex().encode() not in octets
    store.close()
    assert json.loads(segments(one(tmp_path))[0].read_bytes().split(b"\n")[0])["type"] == "log.opened"
    assert os.access(tmp_path / "audit" / "key.pub", os.R_OK)
