"""A real gateway whose policy folder changes while it serves."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.home import Home
from gateway.kept import read_kept
from tests.kit import ECHO
from tests.served import Served, ready, served, start

# Nobody answers there, and nobody has to: what is asked is whether policy lets a call come so far.
SPEC = ECHO.replace("https://echo.example.com/say", "http://127.0.0.1:9/say")
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: reload
rules:
- {id: ask, effect: permit, match: {tools: [echo], agents: [dev]}, when: ['args.text != "b"']}
"""
OTHER = POLICY.replace('"b"', '"a"')
BROKEN = POLICY.replace("permit", "admit")
FAILING = OTHER + "tests:\n- {name: of old, call: {echo: {text: a}}, expect: {permit: ask}}\n"


@dataclass(frozen=True)
class Folders:
    """Specs, policies, and a home folder that a gateway makes."""

    root: Path

    @property
    def flags(self) -> tuple[str, ...]:
        return ("--specs", str(self.root / "specs"), "--policies", str(self.root / "policies"))

    @property
    def home(self) -> Path:
        return self.root / "home"

    def write(self, text: str, folder: str = "policies") -> None:
        """Puts a whole policy file in place of another."""
        (self.root / folder).mkdir(exist_ok=True)
        (self.root / folder / ".p.new").write_text(text)
        (self.root / folder / ".p.new").replace(self.root / folder / "p.yaml")

    def records(self, kind: str) -> list[dict[str, Any]]:
        """The lines of one type that are in the ledger now."""
        raw = b"".join(path.read_bytes() for path in sorted((self.home / "audit" / "w1").glob("*.jsonl")))
        lines = [line for line in raw.replace(b"\0", b"").split(b"\n")[:-1] if line]
        return [said for line in lines if (said := json.loads(line))["type"] == kind]

    def wait(self, kind: str, number: int) -> dict[str, Any]:
        """The record of that number (from 1) of one type, as soon as it is there."""
        end = time.monotonic() + 60
        while len(found := self.records(kind)) < number:
            assert time.monotonic() < end, f"there is no {kind} of number {number}"
            time.sleep(0.05)
        return found[number - 1]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """One tool and one policy."""
    made = Folders(tmp_path)
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "echo.yaml").write_text(SPEC)
    made.write(POLICY)
    return made


def may(gateway: Served, text: str) -> bool:
    """Whether policy lets agent dev say this."""
    _, said = gateway.call("echo", {"text": text})
    return said.get("code") != "no_permit" and (said.get("problem") or {}).get("code") != "no_permit"


def test_a_policy_file_that_is_edited_counts_without_a_restart(folders: Folders) -> None:
    """Next decision, record, listing, and the files kept under the digest that the record names."""
    with served(folders.home, *folders.flags) as gateway:
        assert (may(gateway, "a"), may(gateway, "b")) == (True, False)
        folders.write(OTHER)
        loaded = folders.wait("policy.loaded", 2)
        assert (may(gateway, "a"), may(gateway, "b")) == (False, True)
        first, last = folders.records("policy.loaded")[0], folders.records("call.refused")[-1]
        assert (loaded["previous"], last["decision"]["bundle_digest"]) == (
            first["bundle_digest"],
            loaded["bundle_digest"],
        )
        for record, text in ((first, POLICY), (loaded, OTHER)):
            kept = read_kept(Home(folders.home), record["bundle_digest"])
            assert list(kept.files.values()) == [text]
            assert kept.tools == record["tools"]
        assert gateway.get("/readyz") == (200, {"audit": "ok", "policy": "ok"})


def test_a_broken_file_changes_nothing_and_is_said_everywhere(folders: Folders) -> None:
    """The old decisions, a record of it, readiness still 200, a line for the operator; and it can be repaired."""
    with served(folders.home, *folders.flags) as gateway:
        folders.write(BROKEN)
        rejected = folders.wait("policy.rejected", 1)
        assert (may(gateway, "a"), may(gateway, "b")) == (True, False)
        assert gateway.get("/readyz") == (200, {"audit": "ok", "policy": "rejected"})
        (finding,) = rejected["findings"]
        assert finding.startswith(f"{folders.root}/policies/p.yaml:6:")
        folders.write(OTHER)
        folders.wait("policy.loaded", 2)
        assert (may(gateway, "a"), may(gateway, "b")) == (False, True)
        assert gateway.get("/readyz") == (200, {"audit": "ok", "policy": "ok"})
        gateway.process.terminate()
        assert gateway.process.stderr is not None
        heard = gateway.process.stderr.read()
        assert f"toolgate: {finding}\n" in heard
        assert "is in force" in heard


def test_sighup_looks_at_once_and_never_ends_the_gateway(folders: Folders) -> None:
    """Also one that finds nothing new, and many in a row; a folder whose own tests fail is refused with their place."""
    with served(folders.home, *folders.flags) as gateway:
        for _ in range(3):
            gateway.process.send_signal(signal.SIGHUP)
        folders.write(FAILING)
        gateway.process.send_signal(signal.SIGHUP)
        rejected = folders.wait("policy.rejected", 1)
        place = f"{folders.root}/policies/p.yaml:8:1"
        assert rejected["findings"] == [f"{place}: the test 'of old' fails: wanted permit ask, got deny no_permit"]
        # A watch does not try again what it has tried; a signal does.
        gateway.process.send_signal(signal.SIGHUP)
        assert folders.wait("policy.rejected", 2)["findings"] == rejected["findings"]
        assert (may(gateway, "a"), may(gateway, "b")) == (True, False)
        assert len(folders.records("policy.loaded")) == 1


def test_sighup_does_not_end_a_gateway_that_is_starting(folders: Folders) -> None:
    """Whoever writes policies need not know whether it is up; and when it is, the signal counts."""
    process = start(folders.home, *folders.flags)
    end = time.monotonic() + 60
    while not folders.home.exists():
        assert time.monotonic() < end, "nothing starts"
        time.sleep(0.001)
    process.send_signal(signal.SIGHUP)
    gateway = ready(process, folders.home)
    folders.write(BROKEN)
    gateway.process.send_signal(signal.SIGHUP)
    folders.wait("policy.rejected", 1)
    gateway.process.terminate()
    assert gateway.process.wait(30) == 0


def test_no_gateway_starts_on_a_policy_that_fails_its_own_tests(folders: Folders) -> None:
    """It says which, where, what was wanted and what came."""
    folders.write(FAILING)
    process = start(folders.home, *folders.flags)
    out, err = process.communicate(timeout=60)
    place = f"{folders.root}/policies/p.yaml:8:1"
    said = f"toolgate: {place}: the test 'of old' fails: wanted permit ask, got deny no_permit\n"
    assert (process.returncode, out, err) == (1, "", said)


def test_a_candidate_is_decided_beside_and_recorded(folders: Folders) -> None:
    """Every decision has both; a candidate that is broken is gone, and nothing else is."""
    folders.write(OTHER, "candidate")
    with served(folders.home, *folders.flags, env={"TOOLGATE_CANDIDATE": str(folders.root / "candidate")}) as gateway:
        live, beside = folders.records("policy.loaded")
        assert (live["candidate"], beside["candidate"]) == (False, True)
        assert (may(gateway, "a"), may(gateway, "b")) == (True, False)
        permitted, refused = (
            folders.records("call.intent")[-1]["decision"],
            folders.records("call.refused")[-1]["decision"],
        )
        for decision, effect, shadow in ((permitted, "permit", "forbid"), (refused, "forbid", "permit")):
            assert (decision["effect"], decision["bundle_digest"]) == (effect, live["bundle_digest"])
            assert (decision["shadow"]["effect"], decision["shadow"]["bundle_digest"]) == (
                shadow,
                beside["bundle_digest"],
            )
        folders.write(BROKEN, "candidate")
        assert folders.wait("policy.rejected", 1)["candidate"] is True
        assert gateway.get("/readyz") == (200, {"audit": "ok", "policy": "ok", "candidate": "rejected"})
        assert (may(gateway, "a"), may(gateway, "b")) == (True, False)
        assert folders.records("call.intent")[-1]["decision"].get("shadow") is None
