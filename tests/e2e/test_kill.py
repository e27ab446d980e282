"""kill -9 under load: whatever was acknowledged is on disk, and whatever may have run is listed."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.e2e.killing import judge, siege
from tests.served import ready, start, toolgate


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_acknowledged_is_lost(seed: int, tmp_path: Path) -> None:
    """10 kills each at random moments under load, over one home: every acknowledged call has its records, every effect
    its intent and happened once, exactly the calls without an outcome are in doubt, and the log verifies (`make prove`
    does 200)."""
    with siege(tmp_path, random.Random(seed)) as besieged:
        while besieged.kills < 10:
            besieged.round()
        besieged.end()
        found = judge(besieged)
    assert found.broken == []
    assert found.effects > 0
    assert found.acknowledged > 0
    listed = toolgate(besieged.home, "audit", "in-doubt", "--json")
    assert len(json.loads(listed.stdout)) == found.doubtful > 0


def test_flipping_any_byte_below_the_last_checkpoint_is_found(tmp_path: Path) -> None:
    """`audit verify` fails and names the record, wherever the byte is."""
    home = tmp_path / "home"
    gateway = ready(start(home), home)
    for number in range(5):
        gateway.call("json_query", {"document": {"n": number}, "path": "/n"})
    gateway.process.terminate()
    assert gateway.process.wait(30) == 0
    (segment,) = (home / "audit" / "w1").glob("*.jsonl")
    whole = segment.read_bytes()
    ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
    for at in range(7, ends[-1], len(whole) // 12):
        segment.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        checked = toolgate(home, "audit", "verify", "--json")
        said = json.loads(checked.stdout)
        assert (checked.returncode, said["ok"]) == (1, False)
        line = sum(end < at for end in ends)
        assert said["first_bad"]["fault"]["seq"] == line, (at, said)
    segment.write_bytes(whole)
    assert toolgate(home, "audit", "verify").returncode == 0
