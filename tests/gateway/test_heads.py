"""Where heads go, as settings name it: what is a target and what is not, and the sink that is made of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.audit.drops import FolderDrop, LineDrop, SystemLog
from gateway.heads import make_sink, weaknesses
from gateway.runners.collector import Collector
from gateway.runners.syslog import Receiver
from gateway.settings import BadSettings, load_settings
from tests.gateway.runners.servers import new_net


def published(*targets: str) -> list[str]:
    """The setting as it is read from the environment."""
    return load_settings(None, {"TOOLGATE_AUDIT__PUBLISH": json.dumps(targets)}, {}).audit.publish


def test_each_kind_of_target_has_its_sink(tmp_path: Path) -> None:
    """A folder, standard output and a collector; each sink is called what the setting calls it."""
    urls = ("https://heads.example.com/w", "http://127.0.0.1:9/", "syslog://[::1]:601", "syslog://logs.example.com:514")
    targets = published(f"file:{tmp_path}", "stdout", "syslog", *urls)
    sinks = [make_sink(target, new_net()) for target in targets]
    assert [type(sink) for sink in sinks] == [FolderDrop, LineDrop, SystemLog, Collector, Collector, Receiver, Receiver]
    assert [sink.name for sink in sinks] == targets


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("file:heads", "absolute path"),
        ("https://me:secret@heads.example.com/", "user-info"),
        ("syslogd", "a target is stdout"),
        ("syslog://logs.example.com", "HOST:PORT"),
        ("syslog://:514", "HOST:PORT"),
        ("syslog://me@logs.example.com:514", "HOST:PORT"),
        ("syslog://logs.example.com:514/heads", "HOST:PORT"),
        ("syslog://logs_.example.com:99999", "port"),
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


def test_what_proves_less_than_it_seems_is_told(tmp_path: Path) -> None:
    """Syslog has no TLS, and this host's log is on this host."""
    assert ["not TLS" in text for text in weaknesses("syslog://logs.example.com:514", tmp_path)] == [True]
    assert ["this host's own log" in text for text in weaknesses("syslog", tmp_path)] == [True]
    assert list(weaknesses("https://heads.example.com/", tmp_path)) == []
