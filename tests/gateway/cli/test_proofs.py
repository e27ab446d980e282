"""`toolgate audit prove` and `audit diff`, over a real ledger: what is printed, written, and with which exit code."""

from __future__ import annotations

import asyncio
import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.audit.verify import segments
from gateway.audit.verify_proof import main as check
from tests.gateway.audit.disks import SMALL, ledger, one, write_calls
from tests.gateway.cli.project import run, run_json


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with five calls on record, a checkpoint each three records, and the one over nothing kept elsewhere."""
    home = tmp_path / "home"

    async def test() -> None:
        async with ledger(home, tuning=replace(SMALL, checkpoint_records=3, checkpoint_every=3600.0)) as writer:
            await write_calls(writer, 5)

    asyncio.run(test())
    for number, line in enumerate((one(home) / "checkpoints").read_bytes().splitlines()):
        (tmp_path / f"head{number}").write_text(json.loads(line)["note"])
    return home


def test_a_proof_is_written_for_an_outsider(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that only its owner can read, also over one that was there; a line for each record; the check stands."""
    proof = tmp_path / "proof.json"
    proof.write_text("before")
    proof.chmod(0o644)
    code, out, err = run(capsys, "audit", "prove", "c2", "-o", proof, "--home", home)
    assert (code, err) == (0, "")
    assert out == "w1:5 call.intent proved in a tree of 12\nw1:6 call.outcome proved in a tree of 12\n"
    assert stat.S_IMODE(proof.stat().st_mode) == 0o600
    assert check([str(proof), "--key", str(home / "audit" / "key.pub")]) == 0
    assert "content_key" not in proof.read_text()
    assert [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()] == ["ok", "ok"]
    code, out, _ = run(capsys, "audit", "prove", "c2", "--home", home)
    assert (code, out) == (0, proof.read_text())
    code, told = run_json(capsys, "audit", "prove", "c2", "-o", proof, "--home", home, "--reveal")
    assert (code, [entry["revealed"] for entry in told]) == (0, [True, True])
    assert proof.read_text().count("content_key") == 2
    assert run(capsys, "audit", "prove", "c2", "-o", tmp_path / "no" / "proof", "--home", home)[0] == 2


def test_what_cannot_be_proved_is_said(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1 for a call that is not on record and for a log that was altered, 2 where no gateway ever was."""
    assert run(capsys, "audit", "prove", "c99", "--home", home)[:2] == (1, "")
    path = segments(one(home))[0]
    path.write_bytes(path.read_bytes().replace(b'"call_id":"c1"', b'"call_id":"c4"'))
    code, out, err = run(capsys, "audit", "prove", "c2", "--home", home)
    assert (code, out) == (1, "")
    assert "not what was signed" in err
    (home / "audit" / "key.pub").write_text("a+b+c")
    assert run(capsys, "audit", "prove", "c2", "--home", home)[0] == 1
    assert run(capsys, "audit", "prove", "c2", "--home", tmp_path / "none")[0] == 2


def test_two_heads_and_the_log_are_compared(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In either order, and against the log; what was appended is counted; as JSON it is a proof file."""
    heads = sorted(tmp_path.glob("head*"))
    assert [path.read_text().split("\n")[1] for path in heads] == ["0", "3", "6", "9", "12"]
    between = "ok shard=w1 from=3 to=9: 6 records appended\n        3 call.intent\n        3 call.outcome\n"
    for pair in ((heads[1], heads[3]), (heads[3], heads[1])):
        assert run(capsys, "audit", "diff", *pair, "--home", home) == (0, between, "")
    code, out, _ = run(capsys, "audit", "diff", heads[3], "--home", home)
    assert (code, out.splitlines()[0]) == (0, "ok shard=w1 from=9 to=12: 3 records appended")
    assert out.splitlines()[-1].split() == ["1", "log.closed"]
    code, told = run_json(capsys, "audit", "diff", heads[1], heads[3], "--home", home)
    assert (code, told["types"]) == (0, {"call.intent": 3, "call.outcome": 3})
    proof = tmp_path / "between.json"
    proof.write_text(json.dumps(told))
    assert check([str(proof)]) == 0
    assert capsys.readouterr().out == "ok shard=w1 from=3 to=9\n"
    for wrong in (
        {"consistency": told["consistency"][::-1]},
        {"checkpoints": told["checkpoints"][::-1]},
        {"checkpoints": [told["checkpoints"][0], heads[2].read_text()]},
        {"shard": "w2"},
    ):
        proof.write_text(json.dumps(told | wrong))
        assert check([str(proof)]) == 1, wrong
    proof.write_text(json.dumps(told | {"checkpoints": told["checkpoints"][:1]}))
    assert check([str(proof)]) == 2


def test_a_cut_log_disagrees(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1 and the size; what is no checkpoint of this log is exit 2."""
    heads = sorted(tmp_path.glob("head*"))
    path = segments(one(home))[0]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:7]))
    (one(home) / "checkpoint").write_text(heads[2].read_text())
    reason = "the log goes on for 7 records only, and 9 were signed"
    said = f"FAIL shard=w1 size=9 reason={reason}\n"
    assert run(capsys, "audit", "diff", heads[3], "--home", home) == (1, said, "")
    code, told = run_json(capsys, "audit", "diff", heads[3], "--home", home)
    assert (code, told["ok"], told["size"], told["fault"]) == (1, False, 9, reason)
    assert run(capsys, "audit", "diff", heads[0], heads[2], "--home", home)[0] == 0
    heads[3].write_text(heads[3].read_text().replace("\n9\n", "\n8\n"))
    for unreadable in (heads[3], tmp_path / "none", path):
        code, out, err = run(capsys, "audit", "diff", unreadable, "--home", home)
        assert (code, out) == (2, "")
        assert err.startswith("unreadable: ")
    assert run(capsys, "audit", "diff", heads[1], "--key", path, "--home", home)[0] == 2
