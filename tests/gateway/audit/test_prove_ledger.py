"""Proofs made over a real ledger, of several segments and shards and with blobs, and checked as an outsider does."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
from base64 import b64decode
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.audit import notes as notes_module
from gateway.audit import verify_proof as check_module
from gateway.audit.checkpoint import Signer
from gateway.audit.content import Mac
from gateway.audit.keystore import KeyStore, master_key
from gateway.audit.ledger import open_ledger
from gateway.audit.notes import Key
from gateway.audit.prove import NotSigned, Unprovable, proof_file, prove, prove_call, read_key
from gateway.audit.query import show
from gateway.audit.verify import segments, whole_lines
from gateway.audit.verify_proof import check
from gateway.ports import Line
from tests.gateway.audit.disks import SMALL, intent, ledger, one, verified, write_calls
from tests.gateway.audit.rfc9162 import mth, path
from tests.house.documents import blocks
from tests.house.tree import ROOT

BIG = "x" * 70_000


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed ledger: shard w1 of several segments, a call whose outcome is a blob, and a second shard."""
    home = tmp_path_factory.mktemp("written")
    tuning = replace(SMALL, segment=12_000, checkpoint_records=7, checkpoint_every=3600.0)

    async def run() -> None:
        async with ledger(home, tuning=tuning) as writer:
            await write_calls(writer, 30)
            await writer.append(intent("large"))
            await writer.append(Line("call.outcome", {"call_id": "large"}, {"text": BIG}, "s1", "t1"))
            await writer.append(Line("call.refused", {"call_id": "plain"}))
            await write_calls(writer, 5, prefix="d")
        second = open_ledger(home, shard="w2", tuning=tuning)
        await second.append(Line("call.in_doubt", {"call_id": "c3", "intent": 9}))
        await second.close()

    asyncio.run(run())
    assert len(segments(one(home))) >= 3
    verified(home)
    return home


@pytest.fixture
def home(written: Path, tmp_path: Path) -> Path:
    """A copy of it, to be altered."""
    return Path(shutil.copytree(written, tmp_path / "home"))


def log_lines(shard: Path) -> list[bytes]:
    """Every line of a shard."""
    return [line for path in segments(shard) for line in whole_lines(path)]


def key_of(home: Path) -> Key:
    """The gateway's public key."""
    return Key(read_key(home / "audit"))


def told(home: Path, call_id: str, *, reveal: bool = False) -> Any:
    """The proof file of a call, as an outsider reads it."""
    text = json.dumps(
        proof_file(prove_call(home / "audit", call_id), read_key(home / "audit"), home if reveal else None)
    )
    return json.loads(text)


def stands(document: Any, key: str | None = None) -> bool:
    """Whether every part of a proof file stands; one that cannot be read does not."""
    try:
        return all(finding.reason is None for finding in check(document, key))
    except ValueError:
        return False


def test_every_record_is_proved_by_the_rfc(written: Path) -> None:
    """Each record of each segment: exact bytes, the RFC's own path, and no more than 2 KB beside the line."""
    shard = one(written)
    entries = log_lines(shard)
    proofs = prove(shard, lambda seq, _: seq < len(entries), key_of(written))
    assert b64decode((shard / "checkpoint").read_text().split("\n")[2]) == mth(entries)
    assert len(proofs) == len(entries)
    for seq, proof in enumerate(proofs):
        assert (proof.seq, proof.line, list(proof.path)) == (seq, entries[seq], path(seq, entries))
    document = proof_file(proofs, read_key(written / "audit"))
    assert stands(document)
    for entry in json.loads(json.dumps(document["records"])):
        del entry["line"]
        assert len(json.dumps(entry) + read_key(written / "audit")) <= 2048


def test_a_call_has_an_entry_for_each_of_its_records(written: Path) -> None:
    """Intent and outcome, and the record in another shard, each against the head of its own shard."""
    document = told(written, "c3")
    said = [(entry["shard"], json.loads(entry["line"])["type"]) for entry in document["records"]]
    assert said == [("w1", "call.intent"), ("w1", "call.outcome"), ("w2", "call.in_doubt")]
    assert [str(finding).split(" ")[0] for finding in check(document)] == ["ok"] * 3
    assert told(written, "c")["records"] == []


def test_a_wrong_proof_is_refused(written: Path) -> None:
    """Another place, shard, line, checkpoint, path or key: none of it stands."""
    document = told(written, "c7")
    first, second = document["records"]
    other = told(written, "c8")["records"][0]
    foreign = told(written, "c3")["records"][2]
    path_, line = first["inclusion"], first["line"]
    changes: list[dict[str, object]] = [
        {"seq": first["seq"] + 1},
        {"seq": second["seq"], "inclusion": second["inclusion"]},
        {"shard": "w2"},
        {"shard": "w2", "checkpoint": foreign["checkpoint"]},
        {"line": other["line"]},
        {"line": line.replace("c7", "c9")},
        {"line": line + " "},
        {"checkpoint": foreign["checkpoint"]},
        {"checkpoint": first["checkpoint"].replace(f"\n{_size(first)}\n", f"\n{_size(first) + 1}\n")},
        {"inclusion": [path_[1], path_[0], *path_[2:]]},
        {"inclusion": path_[:-1]},
        {"inclusion": [*path_, path_[0]]},
        {"inclusion": second["inclusion"]},
        {"inclusion": None},
        {"seq": True},
        {"seq": str(first["seq"])},
    ]
    assert stands(document)
    for change in changes:
        assert not stands(document | {"records": [first | change]}), change
    nothings: list[Any] = [[], {}, None, {"key": document["key"]}, document | {"records": []}, document | {"key": "no"}]
    assert not any(map(stands, nothings))


def _size(entry: dict[str, Any]) -> int:
    return int(entry["checkpoint"].split("\n")[1])


def test_no_character_of_a_proof_is_free(written: Path) -> None:
    """500 characters of proof files, each exchanged for another: of line, hashes, checkpoint, key and numbers."""
    dice = random.Random(9162)
    text = json.dumps(told(written, "plain"), separators=(",", ":"))
    assert stands(json.loads(text))
    tried = 0
    for _ in range(500):
        at = dice.randrange(len(text))
        letter = dice.choice([c for c in '0129abzAZ+/=" ,:{}[]\\' if c != text[at]])
        try:
            changed = json.loads(text[:at] + letter + text[at + 1 :])
        except ValueError:
            continue
        assert not stands(changed), (at, text[at - 20 : at + 20], letter)
        tried += 1
    assert tried > 100


def test_a_hash_has_one_spelling(written: Path) -> None:
    """Base64 whose unused last bits were changed decodes to the same hash, and is not accepted."""
    document = told(written, "plain")
    (entry,) = document["records"]
    assert stands(document)
    last = entry["inclusion"][0]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    accepted = []
    for letter in letters:
        entry["inclusion"][0] = f"{last[:-2]}{letter}="
        accepted += [letter] if stands(document) else []
    assert accepted == [last[-2]]


def test_a_line_signed_in_another_records_place_is_refused(tmp_path: Path) -> None:
    """Even signed by the gateway, a line that says another seq or shard than its place is not that record."""
    signer = Signer.load(tmp_path / "signing.key")
    for says, ok in (('"w1","seq":0', True), ('"w1","seq":1', False), ('"w2","seq":0', False)):
        line = f'{{"v":1,"shard":{says},"prev":"{bytes(32).hex()}"}}'
        note = signer.sign("w1", 1, mth([line.encode()])).decode()
        entry = {"shard": "w1", "seq": 0, "line": line, "inclusion": [], "checkpoint": note}
        assert stands({"v": 1, "key": signer.verifier_key, "records": [entry]}) is ok


def test_another_key_does_not_verify(written: Path, tmp_path: Path) -> None:
    """A proof of a ledger somebody else signed fails against the key the outsider trusts."""

    async def run() -> None:
        async with ledger(tmp_path) as writer:
            await write_calls(writer, 1)

    asyncio.run(run())
    forged = told(tmp_path, "c0")
    assert stands(forged)
    assert not stands(forged, read_key(written / "audit"))


def test_an_altered_log_gives_no_proof(home: Path) -> None:
    """One byte changed anywhere below the head: the other records are not proved either."""
    path_ = segments(one(home))[0]
    octets = path_.read_bytes()
    at = octets.index(b'"ts":"2') + 8
    path_.write_bytes(octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :])
    with pytest.raises(Unprovable, match="not what was signed"):
        prove_call(home / "audit", "d4")
    path_.write_bytes(octets)
    (one(home) / "checkpoint").write_text("no\n")
    with pytest.raises(Unprovable, match="not a checkpoint"):
        prove_call(home / "audit", "d4")


def test_a_record_that_no_head_covers_yet_is_told(tmp_path: Path) -> None:
    """Beside a live writer: what was signed for is proved, what was not is refused until it is."""

    async def run() -> None:
        async with ledger(tmp_path, tuning=replace(SMALL, checkpoint_every=3600.0)) as writer:
            await write_calls(writer, 1)
            with pytest.raises(NotSigned, match="covers w1:1 yet"):
                prove_call(tmp_path / "audit", "c0")
        assert stands(told(tmp_path, "c0"))

    asyncio.run(run())


def documented() -> Any:
    """The function by which docs/audit.md has a holder open revealed content."""
    (shown,) = [block.text for block in blocks(ROOT / "docs" / "audit.md") if block.language == "python"]
    named: dict[str, Any] = {}
    exec(shown, named)  # it is our own document
    return named["content"]


def test_a_revealed_key_opens_its_record_and_no_other(written: Path) -> None:
    """By the recipe of the document; the same key fails on every other record of the same session."""
    content = documented()
    entries = told(written, "c5", reveal=True)["records"]
    assert [content(entry) for entry in entries] == [{"arguments": {"text": "asked by c5"}}, {"text": "ok"}]
    opened = 0
    for line in log_lines(one(written)):
        record = json.loads(line)
        if "box" in record.get("content", {}) and record["call_id"] != "c5":
            for entry in entries:
                with pytest.raises(InvalidTag):
                    content({"line": line.decode(), "content_key": entry["content_key"]})
            opened += 1
    assert opened >= 60
    assert "content_key" not in json.dumps(told(written, "c5"))


def test_a_blob_is_revealed_with_a_key_of_its_own(written: Path) -> None:
    """By the same recipe, with nothing but the file; neither key of the call opens the other's content."""
    document = told(written, "large", reveal=True)
    asked, answered = document["records"]
    assert [documented()(entry) for entry in (asked, answered)] == [
        {"arguments": {"text": "asked by large"}},
        {"text": BIG},
    ]
    assert stands(document)
    assert not stands(document | {"records": [asked, answered | {"blob": answered["blob"][4:]}]})
    assert not stands(document | {"records": [asked | {"blob": answered["blob"]}, answered]})
    for one_, other in ((asked, answered), (answered, asked)):
        with pytest.raises(InvalidTag):
            documented()(one_ | {"content_key": other["content_key"]})
    assert told(written, "plain", reveal=True)["records"][0]["unrevealed"] == "it has no content"
    assert "blob" not in told(written, "large")["records"][1]


def test_the_key_of_one_blob_opens_no_other(tmp_path: Path) -> None:
    """Not one of the same session, though both calls are alike."""

    async def run() -> None:
        async with ledger(tmp_path) as writer:
            for call_id in ("a", "b"):
                await writer.append(Line("call.outcome", {"call_id": call_id}, {"text": BIG}, "s1", "t1"))

    asyncio.run(run())
    first, second = (told(tmp_path, call_id, reveal=True)["records"][0] for call_id in ("a", "b"))
    assert documented()(first) == documented()(second) == {"text": BIG}
    with pytest.raises(InvalidTag):
        documented()(second | {"content_key": first["content_key"]})


def test_a_blob_that_shares_its_key_is_read_and_not_revealed(home: Path) -> None:
    """As they were sealed before: the content is shown, and the key that would open them all is kept back."""
    path_ = next((home / "audit" / "blobs").iterdir())
    with closing(KeyStore(home / "state.db", master_key(home))) as keys:
        session = keys.find_session("s1")
    assert session is not None
    place, nonce = b"blob\x1flarge\x1fcall.outcome", bytes(12)
    path_.write_bytes(nonce + AESGCM(Mac(session)(b"blob")).encrypt(nonce, json.dumps({"text": BIG}).encode(), place))
    assert show(home, "large")[1].content == {"text": BIG}
    asked, answered = told(home, "large", reveal=True)["records"]
    assert documented()(asked) == {"arguments": {"text": "asked by large"}}
    assert answered.keys().isdisjoint({"content_key", "blob"})
    assert "one key" in answered["unrevealed"]


def test_what_was_erased_is_still_proved_and_not_revealed(home: Path) -> None:
    """The proof is over what is on disk; the key that is gone is told, and so is a master key that is another's."""
    keys = KeyStore(home / "state.db", master_key(home))
    (home / "master.key").write_bytes(bytes(32))
    assert "master.key" in told(home, "c5", reveal=True)["records"][0]["unrevealed"]
    keys.erase(["s1"])
    keys.close()
    document = told(home, "c5", reveal=True)
    assert [entry["unrevealed"] for entry in document["records"]] == ["its session key was erased"] * 2
    assert stands(document)


def _alone(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", "-E", "-s", str(folder / "verify_proof.py"), *more]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def test_the_check_runs_alone(written: Path, tmp_path: Path) -> None:
    """Two files in an empty folder, no site-packages, nothing of ours: exit 0 and `ok`, 1 and `FAIL`, 2 unreadable."""
    for module in (notes_module, check_module):
        shutil.copy(str(module.__file__), tmp_path)
    document = told(written, "c3")
    proof, key = tmp_path / "proof.json", tmp_path / "key.pub"
    proof.write_text(json.dumps(document))
    key.write_text(document["key"] + "\n")
    good = _alone(tmp_path, str(proof), "--key", str(key))
    assert (good.returncode, good.stderr) == (0, "")
    assert [line.split(" ")[:2] for line in good.stdout.splitlines()] == [
        ["ok", f"shard={s}"] for s in ["w1", "w1", "w2"]
    ]
    assert "compare it" in _alone(tmp_path, str(proof)).stderr
    document["records"][1]["seq"] += 1
    proof.write_text(json.dumps(document))
    fail = _alone(tmp_path, str(proof))
    assert fail.returncode == 1
    assert [line.split(" ")[0] for line in fail.stdout.splitlines()] == ["ok", "FAIL", "ok"]
    for nonsense in ("[1", "[" * 100_000, "{}", '{"key": 3}'):
        proof.write_text(nonsense)
        assert _alone(tmp_path, str(proof)).returncode == 2
    assert _alone(tmp_path, "nothing.json").returncode == 2
