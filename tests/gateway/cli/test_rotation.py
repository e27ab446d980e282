"""`toolgate audit rotate-key` and `audit verifier`; proofs and comparisons across a rotation, for every pinned key."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from gateway.audit.query import records
from gateway.audit.verifier import bundle, parts
from gateway.audit.verify_proof import main as check
from tests.gateway.audit.disks import ledger, one, write_calls
from tests.gateway.cli.project import run, run_json


@pytest.fixture
def home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A home where call `a0` is from before a rotation and `b0` from after it; beside it the key and a head of then."""
    home = tmp_path / "home"
    _write(home, "a")
    shutil.copy(home / "audit" / "key.pub", tmp_path / "old.pub")
    shutil.copy(one(home) / "checkpoint", tmp_path / "old.head")
    assert run(capsys, "audit", "rotate-key", "--why", "It may be known.", "--home", home)[0] == 0
    _write(home, "b")
    return home


def _write(home: Path, prefix: str) -> None:
    async def write() -> None:
        async with ledger(home) as writer:
            await write_calls(writer, 2, prefix=prefix)

    asyncio.run(write())


def test_a_key_is_replaced_without_a_gateway(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says the new key; who has the home's keys is on record as who did it; a reason has to be given."""
    code, said = run_json(capsys, "audit", "rotate-key", "--why", "Once a year.", "--home", home)
    assert (code, said["new"]) == (0, (home / "audit" / "key.pub").read_text().strip())
    last = [record for record in records(home) if record["type"] == "key.rotated"][-1]
    assert (last["old"], last["new"], last["why"]) == (said["old"], said["new"], "Once a year.")
    assert last["who"]["authn"] == "local"
    assert said["record"] == {"shard": last["shard"], "seq": last["seq"]}
    assert f"new={said['new']} why=Once a year." in run(capsys, "audit", "tail", "--home", home)[1]
    assert run(capsys, "audit", "rotate-key", "--why", "", "--home", home)[0] == 2
    assert run(capsys, "audit", "rotate-key", "--why", "x" * 1001, "--home", home)[0] == 2
    assert run(capsys, "audit", "verify", "--home", home)[0] == 0
    kept = ("--key", tmp_path / "old.pub", "--head", tmp_path / "old.head")
    assert run(capsys, "audit", "verify", *kept, "--home", home)[0] == 0


@pytest.mark.parametrize("call", ["a0", "b0"])
def test_a_proof_stands_under_the_key_of_then_and_of_now(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], call: str
) -> None:
    """Of a call before the rotation and of one after it. Without the rotations in it, the old key does not do."""
    proof = tmp_path / "proof.json"
    assert run(capsys, "audit", "prove", call, "-o", proof, "--home", home)[0] == 0
    assert check([str(proof), "--key", str(home / "audit" / "key.pub")]) == 0
    assert check([str(proof), "--key", str(tmp_path / "old.pub")]) == 0
    told = json.loads(proof.read_text())
    for rotations, code in (([], 1), (told["rotations"] * 2, 0), (["no note"], 1), ("none", 2), ([1], 2)):
        proof.write_text(json.dumps(told | {"rotations": rotations}))
        assert check([str(proof), "--key", str(tmp_path / "old.pub")]) == code, rotations


def test_heads_are_compared_across_a_rotation(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The old head against the log of now, by either key; what it prints as JSON is a proof for whoever has one."""
    assert run(capsys, "audit", "diff", tmp_path / "old.head", "--home", home)[0] == 0
    kept = ("--key", tmp_path / "old.pub")
    code, said = run_json(capsys, "audit", "diff", tmp_path / "old.head", *kept, "--home", home)
    assert (code, said["types"]["key.rotated"]) == (0, 1)
    proof = tmp_path / "grown.json"
    proof.write_text(json.dumps(said))
    for key in (tmp_path / "old.pub", home / "audit" / "key.pub"):
        assert check([str(proof), "--key", str(key)]) == 0


def _oldest() -> list[str]:
    """The oldest Python there is here that the verifier is for."""
    for minor in range(10, sys.version_info.minor):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            return [found]
    return [sys.executable]


def test_one_file_checks_logs_and_proofs(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In an empty folder, on the oldest Python here, without site-packages: exit 0, 1 and 2 as the commands."""
    empty, proof = tmp_path / "empty", tmp_path / "proof.json"
    empty.mkdir()
    code, said = run_json(capsys, "audit", "verifier", "-o", empty / "verify.pyz")
    assert (code, said["sha256"]) == (0, sha256((empty / "verify.pyz").read_bytes()).hexdigest())
    assert run(capsys, "audit", "prove", "a0", "-o", proof, "--home", home)[0] == 0
    old = ("--key", str(tmp_path / "old.pub"))

    def alone(*arguments: str) -> tuple[int, str]:
        command = [*_oldest(), "-I", "-S", "verify.pyz", *arguments]
        done = subprocess.run(command, cwd=empty, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr

    assert alone(str(home / "audit"), *old, "--head", str(tmp_path / "old.head"))[0] == 0
    code, text = alone("proof", str(proof), *old)
    assert (code, text.count("ok shard=w1")) == (0, 2)
    assert alone(str(home / "nothing"))[0] == alone("proof", str(home / "nothing"))[0] == 2
    proof.write_text(proof.read_text().replace("a0", "a1"))
    assert alone("proof", str(proof), *old)[0] == 1
    path = min(one(home).glob("*.jsonl"))
    path.write_bytes(path.read_bytes().replace(b'"a0"', b'"a9"', 1))
    code, text = alone(str(home / "audit"), *old)
    assert (code, text.startswith("FAIL shard=w1 seq=1 ")) == (1, True)
    assert [path.name for path in empty.iterdir()] == ["verify.pyz"]


def test_the_verifier_is_the_same_each_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice the same bytes, which hold the sources as they are; a place that cannot be written is said."""
    assert bundle() == bundle()
    assert {"notes.py", "verify.py", "verify_proof.py"} <= set(parts())
    for octets in parts().values():
        assert octets in bundle()
    assert run(capsys, "audit", "verifier", "-o", tmp_path / "no" / "verify.pyz")[0] == 2
