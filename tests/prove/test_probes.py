"""The hostile suite judges rightly: its verdicts can fail, and its probes cover what they are to cover."""

from __future__ import annotations

import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prove.probes import LIMITS, PATIENCE, Probe, judge, read
from prove.traps import laid
from sandboxes.model import Exit

PROBE = Probe("time", "busy loop", "while True: pass", frozenset({"timeout"}))


@pytest.mark.parametrize(
    ("probe", "exit", "seconds", "touched", "verdict"),
    [
        (PROBE, Exit("timeout"), 2.0, None, "CONTAINED"),
        (PROBE, Exit("ok"), 0.1, None, "WEAK"),
        (PROBE, Exit("timeout"), LIMITS.wall + PATIENCE + 0.1, None, "WEAK"),
        (PROBE, Exit("timeout", stdout="REACHED it"), 2.0, None, "ESCAPED"),
        (PROBE, Exit("timeout", stderr="REACHED it"), 2.0, None, "ESCAPED"),
        (PROBE, Exit("timeout", value={"a": "REACHED"}), 2.0, None, "ESCAPED"),
        (PROBE, Exit("timeout", files={"a": b"REACHED"}), 2.0, None, "ESCAPED"),
        (PROBE, Exit("timeout"), 2.0, "the socket file", "ESCAPED"),
        (Probe("memory", "x", "", frozenset({"limit"}), "memory"), Exit("limit", "memory"), 0.1, None, "CONTAINED"),
        (Probe("memory", "x", "", frozenset({"limit"}), "memory"), Exit("limit", "output"), 0.1, None, "WEAK"),
    ],
)
def test_a_run_is_judged(probe: Probe, exit: Exit, seconds: float, touched: str | None, verdict: str) -> None:
    """Held as it should be, held in another way or too late, or not held."""
    assert judge(probe, exit, seconds, touched).verdict == verdict


@pytest.mark.parametrize("language", ["python", "javascript", "wat"])
def test_a_language_has_forty_behaviours_and_each_its_own_name(language: str) -> None:
    """The files can be read, and nothing stands in them twice."""
    probes = read(language)
    assert len(probes) >= 40
    assert max(Counter((probe.area, probe.name) for probe in probes).values()) == 1
    assert {probe.area for probe in probes} >= {"time", "memory", "output", "disk", "network", "privilege", "protocol"}


def test_a_trap_springs(tmp_path: Path) -> None:
    """A connection to each, and each secret in an answer, is noticed; nothing is, when nobody came."""
    with laid(tmp_path) as traps:
        assert traps.touched(Exit("ok")) is None
        targets: list[tuple[int, Any]] = [
            (socket.AF_INET, ("127.0.0.1", traps.args["port"])),
            (socket.AF_UNIX, f"\0{traps.args['abstract']}"),
            (socket.AF_UNIX, traps.args["socket"]),
        ]
        for family, address in targets:
            with socket.socket(family, socket.SOCK_STREAM) as reaching:
                reaching.connect(address)
                assert reaching.recv(1) == b""  # the trap hung up, and so has seen us
        assert {traps.touched(Exit("ok")) for _ in targets} == {
            "the loopback listener",
            "the abstract socket",
            "the socket file",
        }
        secret = Path(str(traps.args["file"])).read_text()
        assert traps.touched(Exit("ok", stdout=secret)) == "the file"
        assert traps.touched(Exit("ok", files={"x": secret.encode()})) == "the file"
        assert traps.touched(Exit("ok", value=[traps.environment_secret])) == "the environment"
