"""Where heads go, as settings name it: what is a target and what is not, and the sink that is made of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.audit.drops import FolderDrop, LineDrop
from gateway.heads import make_sink
from gateway.runners.collector import Collector
from gateway.settings import BadSettings, load_settings
from tests.gateway.runners.servers import new_net


def published(*targets: str) -> list[str]:
    """The setting as it is read from the environment."""
    return load_settings(None, {"TOOLGATE_AUDIT__PUBLISH": json.dumps(targets)}, {}).audit.publish


def test_each_kind_of_target_has_its_sink(tmp_path: Path) -> None:
    """A folder, standard output and a collector; each sink is called what the setting calls it."""
    targets = published(f"file:{tmp_path}", "stdout", "https://heads.example.com/w", "http://127.0.0.1:9/")
    sinks = [make_sink(target, new_net()) for target in targets]
    assert [type(sink) for sink in sinks] == [FolderDrop, LineDrop, Collector, Collector]
    assert [sink.name for sink in sinks] == targets


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("file:heads", "absolute path"),
        ("https://me:secret@heads.example.com/", "user-info"),
        ("syslog", "a target is stdout"),
        ("ftp://heads.example.com/", "a target is stdout"),
    ],
)
def test_what_is_no_target_is_refused_at_the_start(target: str, why: str) -> None:
    """The finding names the setting and says what would be right."""
    with pytest.raises(BadSettings) as caught:
        published(target)
    (finding,) = caught.value.findings
    assert finding.startswith("audit.publish: ")
    assert why in finding


def test_a_target_is_named_once() -> None:
    """Two sinks of one place would get in each other's way."""
    with pytest.raises(BadSettings, match="named once"):
        published("stdout", "stdout")
