"""Exported events as libraries of other people read them: CloudEvents' own SDK, and the OCSF models of Prowler.

The OCSF models have no API Activity class: what is checked is the base event, its metadata, and the objects `api` and
`policy`; the class, its own attributes and the actor are not.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.agents.environments import python_of
from tests.gateway.audit.test_export import exported, lived

CLOUD_EVENTS = """
import json, sys
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

for line in sys.stdin:
    event = JSONFormat().read(CloudEvent, line)
    attributes = {name: value for name, value in event.get_attributes().items() if name != "time"}
    print(json.dumps({**attributes, "time": event.get_time().isoformat(), "data": event.get_data()}))
"""
OCSF = """
import json, sys
from py_ocsf_models.events.base_event import BaseEvent
from py_ocsf_models.objects.api import API
from py_ocsf_models.objects.policy import Policy

def known(model, value):
    return model.model_validate(value, extra="forbid").model_dump(mode="json", exclude_none=True)

for line in sys.stdin:
    event = json.loads(line)
    base = known(BaseEvent, {name: value for name, value in event.items() if name in BaseEvent.model_fields})
    policies = [known(Policy, each["policy"]) for each in event.get("authorizations", ())]
    print(json.dumps({"base": base, "api": known(API, event["api"]), "policies": policies}))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """An interpreter that has these libraries, and not ours."""
    return python_of(Path(__file__).parent / "events.lock")


def read_by(python: Path, script: str, events: list[Any]) -> list[Any]:
    """What the script prints for each event."""
    lines = "".join(f"{json.dumps(event)}\n" for event in events)
    done = subprocess.run([python, "-I", "-c", script], input=lines, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_cloud_events_are_read_by_their_sdk(python: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every event is valid to it, and says the same once it was read."""
    lived(tmp_path / "home")
    events = exported(capsys, tmp_path / "home", "--format", "cloudevents")
    read = read_by(python, CLOUD_EVENTS, events)
    assert len(read) == len(events) > 10
    for event, again in zip(events, read, strict=True):
        assert again | {"time": event["time"]} == event
        assert again["time"].removesuffix("+00:00")[:19] == event["time"][:19]


def test_ocsf_events_are_read_by_models_of_ocsf(
    python: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each field they have is of the type they want, none is unknown to them, and none is lost."""
    lived(tmp_path / "home")
    events = exported(capsys, tmp_path / "home", "--format", "ocsf")
    read = read_by(python, OCSF, events)
    assert len(read) == len(events) > 5
    for event, again in zip(events, read, strict=True):
        assert {name: event[name] for name in again["base"]} == again["base"]
        assert again["base"].keys() >= {"metadata", "severity_id", "status_id", "status", "message"}
        assert again["api"] == event["api"]
        assert again["policies"] == [each["policy"] for each in event.get("authorizations", ())]
